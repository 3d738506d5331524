// Package nstest runs a package's tests inside namespaces of their own, so
// that no test can see or change the machine that it runs on: not as root, and
// not as an ordinary user either, who becomes root of a user namespace.
//
//	func TestMain(m *testing.M) { nstest.Main(m) }
package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/rtnl"
)

// marker is set in the environment of the test binary that runs inside. Its
// value is empty, or says why the namespaces could not be had.
const marker = "OVERLAB_NSTEST"

// Main executes the test binary again in new network and mount namespaces
// (and, unless root, in a new user namespace), with the loopback link up and
// an empty /run, and exits with its exit code. It does not return.
//
// Where the kernel forbids the namespaces the tests run all the same, outside;
// those that call Require or New are then skipped with the reason.
func Main(m *testing.M) {
	// Where Debian keeps bridge and iptables, and an ordinary user does not look.
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		panic(err)
	}
	if _, inside := os.LookupEnv(marker); !inside {
		code, err := reexec()
		if err == nil {
			os.Exit(code)
		}
		if err := os.Setenv(marker, err.Error()); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	if os.Getenv(marker) == "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "nstest:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// Require skips the test unless it runs in namespaces of its own.
func Require(t testing.TB) {
	t.Helper()
	reason, set := os.LookupEnv(marker)
	switch {
	case !set:
		t.Fatal("the package's TestMain does not call nstest.Main")
	case reason != "":
		t.Skipf("SKIPPED, NOT TESTED: this machine gives no namespaces: %s", reason)
	}
}

// New makes a network namespace with the loopback link up, forwarding on and
// nothing else; it ends with the test.
func New(t testing.TB) *netns.Set {
	t.Helper()
	Require(t)
	set, err := netns.Create(unix.CLONE_NEWNET, func() error {
		// Both are inherited or default-on in ways that differ between kernels.
		for path, value := range map[string]string{
			"/proc/sys/net/ipv4/ip_forward":                        "1",
			"/proc/sys/net/bridge/bridge-nf-call-iptables":         "0",
			"/proc/sys/net/ipv6/conf/default/disable_ipv6":         "1",
			"/proc/sys/net/ipv6/conf/default/accept_dad":           "0",
			"/proc/sys/net/ipv6/conf/default/router_solicitations": "0",
		} {
			if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return loopbackUp()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	return set
}

// reexec runs the test binary inside and returns its exit code; the error is
// that of starting it.
func reexec() (int, error) {
	// Pdeathsig follows the thread that forked.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), marker+"=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGINT)
	if err := cmd.Start(); err != nil {
		signal.Stop(signals)
		runtime.UnlockOSThread()
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may be gone already
		}
	}()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "nstest:", err)
		return 1, nil
	}
	if code := cmd.ProcessState.ExitCode(); code >= 0 {
		return code, nil
	}
	return 1, nil // ended by a signal
}

// prepare makes the new namespaces habitable.
func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// ip-netns(8), flannel and xtables keep their files there.
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount an empty /run: %w", err)
	}
	return loopbackUp()
}

// loopbackUp brings up the link that is number 1 in every network namespace.
func loopbackUp() error {
	c, err := rtnl.Dial()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	b.SetLink(rtnl.Link{Name: "lo", Index: 1, Up: true})
	return errors.Join(c.Do(&b), c.Close())
}
