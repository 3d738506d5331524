// Command guest is process 1 of the machine that runs tests on another kernel:
// it mounts what a system has, runs the jobs one after the other, tells of them
// on a serial port, and powers the machine off. The kernel starts it a second
// time as its modprobe(8).
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

func main() {
	if os.Getpid() != 1 {
		if err := role(os.Args); err != nil {
			fmt.Fprintln(os.Stderr, "guest:", err)
			os.Exit(1)
		}
		return
	}
	port, err := prepare()
	if port != nil {
		reports := json.NewEncoder(port)
		if err == nil {
			err = errors.Join(reports.Encode(order.Report{Ready: true}), runJobs())
		}
		if err != nil {
			_ = reports.Encode(order.Report{Error: err.Error()})
		} else {
			_ = reports.Encode(order.Report{Ready: true})
		}
		_ = unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1) // tcdrain(3)
	} else {
		fmt.Println("guest:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// role is what a process other than 1 does: "jobs" runs the jobs, and anything
// else is the kernel's `modprobe -q -- ALIAS`.
func role(args []string) error {
	if len(args) == 2 && args[1] == "jobs" {
		return work()
	}
	return modprobe(args[len(args)-1])
}

// prepare makes the file system a system's.
func prepare() (*os.File, error) {
	mounts := []struct{ source, target, kind, data string }{
		{"devtmpfs", "/dev", "devtmpfs", "mode=0755"},
		{"proc", "/proc", "proc", ""},
		{"sysfs", "/sys", "sysfs", ""},
		{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
		{"tmpfs", "/run", "tmpfs", "mode=0755"},
		{"devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666"},
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(m.source, m.target, m.kind, 0, m.data); err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	port, err := openPort()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return port, err
	}
	err = errors.Join(
		os.WriteFile("/proc/sys/kernel/modprobe", []byte(self), 0),
		os.Setenv("PATH", "/project/bin:/usr/sbin:/usr/bin:/busybox"),
		os.Setenv("HOME", "/root"), os.Setenv("OVERLAB_BIN", "/project/bin"),
		os.Setenv("OVERLAB_TIMEOUT_SCALE", "5"), // it may be emulated
		os.MkdirAll("/busybox", 0o755), os.MkdirAll("/var/run", 0o755),
		exec.Command("/usr/bin/busybox", "--install", "-s", "/busybox").Run(),
		modprobe("tun"))
	return port, err
}

// openPort opens the reports' port, so that bytes pass as they are.
func openPort() (*os.File, error) {
	port, err := os.OpenFile(order.Port, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", order.Port, err)
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("set up %s: %w", order.Port, err)
	}
	return port, nil
}

// runJobs runs the jobs in another process, and meanwhile is what process 1
// has to be: the one that reaps.
func runJobs() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child, err := os.StartProcess(self, []string{self, "jobs"}, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return fmt.Errorf("start the jobs: %w", err)
	}
	for {
		var status syscall.WaitStatus
		switch pid, err := syscall.Wait4(-1, &status, 0, nil); {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the jobs: %w", err)
		case pid == child.Pid && status != 0:
			return fmt.Errorf("the jobs ended with %#x", int(status))
		case pid == child.Pid:
			return nil
		}
	}
}

// work runs the jobs.
func work() error {
	port, err := openPort()
	if err != nil {
		return err
	}
	reports := json.NewEncoder(port)
	b, err := os.ReadFile(order.JobsFile)
	if err != nil {
		return err
	}
	var jobs []order.Job
	if err := json.Unmarshal(b, &jobs); err != nil {
		return err
	}
	for i, j := range jobs {
		code, err := run(j, &writer{reports, i})
		if err != nil {
			return fmt.Errorf("run %v: %w", j.Command, err)
		}
		if err := reports.Encode(order.Report{Job: i, Exit: &code}); err != nil {
			return err
		}
	}
	return nil
}

// run runs one job and returns its exit code.
func run(j order.Job, out io.Writer) (int, error) {
	cmd := exec.Command(j.Command[0], j.Command[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = j.Dir, out, out
	cmd.WaitDelay = 10 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		return 0, err
	}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// writer reports what a job prints.
type writer struct {
	reports *json.Encoder
	job     int
}

func (w *writer) Write(p []byte) (int, error) {
	return len(p), w.reports.Encode(order.Report{Job: w.job, Output: string(p)})
}
