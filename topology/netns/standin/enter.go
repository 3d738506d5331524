package standin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology"
)

// enter makes the process another program inside the pod, on a thread that
// the program then is: with the files of the pod's container, where it has one,
// or else its node's. It returns only with an error.
func enter(pod *topology.Pod, argv []string, stdin bool) error {
	if !stdin {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		if err := unix.Dup3(int(null.Fd()), 0, 0); err != nil {
			return fmt.Errorf("close standard input: %w", err)
		}
	}
	path := func(kind string) string { return filepath.Join(labFolder, "ns", pod.Name+"."+kind) }
	mount, own := path("root"), true
	if _, err := os.Lstat(mount); errors.Is(err, fs.ErrNotExist) {
		mount, own = path("mnt"), false
	}
	if _, err := os.Lstat(mount); errors.Is(err, fs.ErrNotExist) {
		mount = ""
	}
	set, err := netns.Open(path("net"), mount, path("uts"))
	if err != nil {
		return fmt.Errorf("find pod %s: %w", pod.Name, err)
	}
	return set.Do(func() error {
		if !own {
			if err := ownSys(); err != nil {
				return fmt.Errorf("enter pod %s: %w", pod.Name, err)
			}
		}
		program, err := exec.LookPath(argv[0])
		if err != nil {
			return errExit{fmt.Errorf("exec in pod %s: %w", pod.Name, err), 127}
		}
		if err := os.Chdir("/"); err != nil {
			return fmt.Errorf("enter pod %s: %w", pod.Name, err)
		}
		return fmt.Errorf("exec %s: %w", program, syscall.Exec(program, argv, environ("HOSTNAME="+pod.Name)))
	})
}

// ownSys mounts a /sys of the calling thread's network namespace, seen by
// this process only. A kernel that refuses leaves the node's.
func ownSys() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	_ = unix.Mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return nil
}

// environ is the process's environment with some variables set.
func environ(set ...string) []string {
	var env []string
next:
	for _, e := range os.Environ() {
		for _, s := range set {
			name, _, _ := strings.Cut(s, "=")
			if strings.HasPrefix(e, name+"=") {
				continue next
			}
		}
		env = append(env, e)
	}
	return append(env, set...)
}
