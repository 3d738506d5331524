package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Some machines that a lab must cope with can only be had by a process that
// makes itself one and then runs overlab. The test binary is that process when
// this variable names what to be.
const helperName = "OVERLAB_TEST_HELPER"

const (
	// helperFullDisk mounts a tmpfs with the options args[1] on args[0], fills
	// it, runs the rest of args, and prints what is on the tmpfs afterwards.
	helperFullDisk = "full-disk"
	// helperNoNamespaces sets user.max_user_namespaces to 0 and becomes args.
	helperNoNamespaces = "no-namespaces"
	// helperCgroup2 has only control groups of version 2, and becomes args.
	helperCgroup2 = "cgroup2"
	// helperWait says ready and waits to be killed.
	helperWait = "wait"
	// helperServe says ready, and to each who connects to TCP port args[0]
	// from which address that is.
	helperServe = "serve"
	// helperFlood says ready, and sends UDP to args[0] until it is killed.
	helperFlood = "flood"
)

func runHelper(name string, args []string) int {
	if err := os.Unsetenv(helperName); err != nil {
		panic(err)
	}
	var code int
	err := fmt.Errorf("no helper %s", name)
	switch name {
	case helperFullDisk:
		code, err = fullDisk(args[0], args[1], args[2:])
	case helperNoNamespaces:
		err = noNamespaces(args)
	case helperCgroup2:
		err = onCgroup2(args)
	case helperWait:
		fmt.Println("ready")
		err = unix.Pause()
	case helperServe:
		err = serve(args[0])
	case helperFlood:
		err = flood(args[0])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "helper:", err)
		return helperFailed
	}
	return code
}

// helperFailed is the exit code of a helper that could not be what it should.
const helperFailed = 99

// helper is the command of a helper, in the new namespaces of flags; the
// caller becomes user uid of a user namespace if CLONE_NEWUSER is one.
func (o *overlab) helper(name string, flags uintptr, uid int, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(o.env, helperName+"="+name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

func flood(to string) error {
	address, err := net.ResolveUDPAddr("udp4", to)
	if err != nil {
		return err
	}
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for data := make([]byte, 1200); ; {
		_, _ = c.WriteToUDP(data, address) // that a queue is full is as it ought to be
	}
}

func serve(port string) error {
	ln, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		fmt.Fprintf(c, "seen as %s\n", c.RemoteAddr().(*net.TCPAddr).IP)
		c.Close()
	}
}

func fullDisk(dir, options string, argv []string) (int, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return 0, err
	}
	if err := unix.Mount("full", dir, "tmpfs", 0, options); err != nil {
		return 0, fmt.Errorf("mount tmpfs, %s: %w", options, err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return 0, err
	}
	fill, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		return 0, err
	}
	for err == nil {
		_, err = fill.Write(make([]byte, 4096))
	}
	fill.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		fmt.Println(e.Name())
	}
	return cmd.ProcessState.ExitCode(), err
}

func onCgroup2(argv []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const folder = "/sys/fs/cgroup"
	for unix.Unmount(folder, unix.MNT_DETACH) == nil { // whatever lies there
	}
	if err := unix.Mount("none", folder, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount control groups: %w", err)
	}
	return unix.Exec(argv[0], argv, os.Environ())
}

func noNamespaces(argv []string) error {
	if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
		return err
	}
	// The capability that this took is not overlab's to have.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	return unix.Exec(argv[0], argv, os.Environ())
}
