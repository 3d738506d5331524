package kind

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestWatchesLeft: where others have used the inotify instances up, it is said
// before anything is built, with the mend. The test does it in a user namespace
// with a limit of its own.
func TestWatchesLeft(t *testing.T) {
	const inside = "OVERLAB_TEST_WATCHES"
	if os.Getenv(inside) != "" {
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("7"), 0o644); err != nil {
			t.Fatal(err)
		}
		fmt.Println(watchesLeft(3))
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestWatchesLeft$")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("SKIPPED, NOT TESTED: no user namespaces: %v", err)
	}
	said := string(out)
	if err != nil || !strings.Contains(said, "3 nodes open 60 inotify instances") || !strings.Contains(said, "sysctl -w fs.inotify.max_user_instances=") {
		t.Errorf("%v: %s", err, said)
	}
}
