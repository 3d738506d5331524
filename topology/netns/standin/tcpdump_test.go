package standin

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// mode makes the test binary play a part: the stand-in, and from there the
// tcpdump that it becomes.
const mode = "OVERLAB_STANDIN_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(mode) {
	case "stand-in":
		if err := os.Setenv(mode, "tcpdump"); err != nil {
			panic(err)
		}
		os.Exit(Main([]string{"tcpdump", "-c", "1"}))
	case "tcpdump":
		dropRoot()
	default:
		os.Exit(m.Run())
	}
}

// dropRoot does what Debian's tcpdump does once its socket is open. The calls
// are the bare ones: Go's own make sure that every thread obeys.
func dropRoot() {
	runtime.LockOSThread()
	for _, call := range [][4]uintptr{
		{syscall.SYS_SETGROUPS, 0, 0},
		{syscall.SYS_SETGID, 105},
		{syscall.SYS_SETUID, 102},
	} {
		if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			fmt.Println("Couldn't change to 'tcpdump':", errno)
			os.Exit(1)
		}
	}
	fmt.Println("captured", strings.Join(os.Args[1:], " "), "as", os.Getuid())
	os.Exit(0)
}

// In a user namespace with one user, a tcpdump that gives up root runs, and
// stays the namespace's root; without the stand-in it fails.
func TestTcpdump(t *testing.T) {
	if auditArch[runtime.GOARCH] == 0 {
		t.Skipf("SKIPPED, NOT TESTED: no system call filter for %s", runtime.GOARCH)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	tcpdump := filepath.Join(dir, "tcpdump")
	copyFile(t, self, tcpdump)
	run := func(program, part string) (string, error) {
		cmd := exec.Command(program)
		cmd.Env = append(os.Environ(), mode+"="+part, "PATH="+filepath.Dir(self)+":"+dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(tcpdump, "tcpdump")
	if err == nil {
		t.Fatalf("without the stand-in it gave up root: %s", out)
	}
	if !strings.Contains(out, "Couldn't change") {
		t.Skipf("SKIPPED, NOT TESTED: this machine gives no user namespaces: %v %s", err, out)
	}
	out, err = run(self, "stand-in")
	if want := "captured -c 1 as 0\n"; err != nil || out != want {
		t.Errorf("%q, %v; want %q", out, err, want)
	}
}

func TestNoTcpdump(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if code := Main([]string{"tcpdump"}); code != 127 {
		t.Errorf("exit code %d, want 127", code)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
