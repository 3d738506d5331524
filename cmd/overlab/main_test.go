package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests run the real programs, as the user who runs the tests. So that
// "nothing is left behind" can be asked exactly, whatever else the machine
// does, they do it on a machine of their own:
//
//	go test             builds the programs, makes a folder for everything
//	└ process 1         of new PID, mount and network namespaces; it reaps
//	  └ the tests       root, or again the ordinary user who called go test
//	    └ overlab …
//
// stage tells a process of the test binary which of these it is.
const stage = "OVERLAB_TEST_STAGE"

const (
	stageInit  = "init"
	stageTests = "tests"
	// stageOutside runs the tests where the kernel gives no namespaces; those
	// that need a lab are then skipped.
	stageOutside = "outside"
)

// folder is where the tests' state folders and files lie.
const folder = "OVERLAB_TEST_FOLDER"

func TestMain(m *testing.M) {
	if helper := os.Getenv(helperName); helper != "" {
		os.Exit(runHelper(helper, os.Args[1:]))
	}
	switch s, _, _ := strings.Cut(os.Getenv(stage), ":"); s {
	case stageInit:
		os.Exit(beInit())
	case stageTests:
		before, err := look()
		code := m.Run()
		if err == nil {
			err = before.waitSame()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "after the tests:", err)
			code = max(code, 1)
		}
		os.Exit(code)
	case stageOutside:
		os.Exit(m.Run())
	default:
		os.Exit(outermost())
	}
}

// outermost prepares, runs the other stages, and clears up.
func outermost() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "prepare the tests:", err)
		return 1
	}
	dir, err := os.MkdirTemp("", "ol")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	bin, err := programsFor(dir)
	if err != nil {
		return fail(err)
	}
	env := append(os.Environ(), folder+"="+dir, "OVERLAB_BIN="+bin, fmt.Sprintf("%s=%d", caller, os.Getuid()))
	code, err := reexec(env, stageInit, &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
	}, 0)
	if err == nil {
		return code
	}
	code, err = reexec(env, stageOutside+":"+err.Error(), &syscall.SysProcAttr{}, os.Getuid())
	if err != nil {
		return fail(err)
	}
	return code
}

// programsFor returns the folder of the built programs: OVERLAB_BIN, or one in
// dir where they are built now.
func programsFor(dir string) (string, error) {
	if bin := os.Getenv("OVERLAB_BIN"); bin != "" {
		return filepath.Abs(bin)
	}
	bin := filepath.Join(dir, "bin")
	build := exec.Command("go", "build", "-o", bin+"/", "github.com/overlab/overlab/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs (OVERLAB_BIN names a folder of built ones): %w\n%s", err, out)
	}
	return bin, nil
}

// reexec runs the test binary again as a stage, and returns its exit code. The
// stage is user uid inside a new user namespace, unless root started it.
func reexec(env []string, s string, attr *syscall.SysProcAttr, uid int) (int, error) {
	runtime.LockOSThread() // the thread that forks must live: Pdeathsig
	defer runtime.UnlockOSThread()
	cmd := stageCommand(env, s, attr, uid)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer forward(cmd.Process.Pid)()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return exitOf(cmd.ProcessState.Sys().(syscall.WaitStatus)), nil
}

func stageCommand(env []string, s string, attr *syscall.SysProcAttr, uid int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(env, stage+"="+s)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	attr.Pdeathsig = unix.SIGKILL
	if os.Getuid() != uid {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getgid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	return cmd
}

// forward passes on to a process the signals that end a test run.
func forward(pid int) (stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGQUIT, unix.SIGTERM, unix.SIGINT)
	go func() {
		for s := range signals {
			_ = unix.Kill(pid, s.(syscall.Signal)) // it may be gone already
		}
	}()
	return func() { signal.Stop(signals); close(signals) }
}

func exitOf(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

// caller is the user who started the tests, for process 1, which is root.
const caller = "OVERLAB_TEST_UID"

// beInit is process 1 of the tests' machine.
func beInit() int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "prepare the tests' machine:", err)
		return 1
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fail(err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fail(err)
	}
	uid := 0
	if _, err := fmt.Sscan(os.Getenv(caller), &uid); err != nil {
		return fail(fmt.Errorf("%s: %w", caller, err))
	}
	runtime.LockOSThread()
	cmd := stageCommand(os.Environ(), stageTests, &syscall.SysProcAttr{}, uid)
	if err := cmd.Start(); err != nil {
		return fail(err)
	}
	defer forward(cmd.Process.Pid)()
	for {
		var s syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &s, 0, nil); {
		case err == syscall.EINTR:
		case err != nil:
			return fail(err)
		case pid == cmd.Process.Pid:
			return exitOf(s)
		}
	}
}
