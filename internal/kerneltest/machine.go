package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// bootTime is what a virtual machine takes at most to boot where the processor
// does the work. Nested ones can hang instead of failing.
const bootTime = 10 * time.Second

// machine is a QEMU.
type machine struct {
	kernel, initrd string
	memory         int // MiB
	accel          string
	// dir is for its console's file.
	dir string
	say func(string, ...any)
}

// errNoBoot says that the guest gave no sign of life.
var errNoBoot = errors.New("the guest did not boot")

// run boots the guest and calls take with each of its reports until it is
// powered off.
func (m *machine) run(ctx context.Context, take func(order.Report) error) error {
	if m.accel == "auto" {
		m.accel = "tcg"
		if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil {
			err := m.boot(ctx, "kvm", bootTime, take)
			if !errors.Is(err, errNoBoot) {
				return err
			}
			m.say("KVM does not work here: emulating")
		}
	}
	return m.boot(ctx, m.accel, 0, take)
}

// boot runs one QEMU; a guest that has not reported within limit, unless that
// is 0, is given up with errNoBoot.
func (m *machine) boot(ctx context.Context, accel string, limit time.Duration, take func(order.Report) error) error {
	console := filepath.Join(m.dir, "console-"+accel)
	cpu := "max"
	if accel == "kvm" {
		cpu = "host"
	}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-machine", "q35,accel="+accel, "-cpu", cpu, "-smp", "2", "-m", strconv.Itoa(m.memory),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none",
		"-kernel", m.kernel, "-initrd", m.initrd, "-append", "console=ttyS0 quiet panic=-1",
		"-serial", "file:"+console, "-serial", "stdio")
	var said strings.Builder
	cmd.Stderr = &said
	// It ends with this program, and Ctrl-C is this program's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	reports, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start qemu: %w", err)
	}
	var once sync.Once
	booted := func() { once.Do(func() { m.say("booted (%s)", accel) }) }
	if limit > 0 {
		timer := time.AfterFunc(limit, func() { once.Do(func() { _ = cmd.Process.Kill() }) })
		defer timer.Stop()
	}
	ready, complete, err := read(reports, booted, take)
	if err != nil {
		_ = cmd.Process.Kill() // what it says is of no more use
	}
	waited := cmd.Wait()
	switch {
	case context.Cause(ctx) != nil:
		return fmt.Errorf("%w; the guest's console ends: %s", context.Cause(ctx), tail(console))
	case err != nil:
		return err
	case !ready:
		return fmt.Errorf("%w with %s (%v): %s%s", errNoBoot, accel, waited, said.String(), tail(console))
	case !complete:
		return fmt.Errorf("the guest ended too early (%v): %s%s", waited, said.String(), tail(console))
	}
	return nil
}

// read hands on the reports; complete says that the guest ended as it ought to.
func read(r io.Reader, booted func(), take func(order.Report) error) (ready, complete bool, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 4<<20)
	for lines.Scan() {
		var report order.Report
		if json.Unmarshal(lines.Bytes(), &report) != nil {
			continue // the firmware's
		}
		switch {
		case report.Ready && !ready:
			ready = true
			booted()
		case report.Ready:
			complete = true // said again at the end
		case report.Error != "":
			return ready, false, fmt.Errorf("the guest: %s", report.Error)
		default:
			if err := take(report); err != nil {
				return ready, false, err
			}
		}
	}
	return ready, complete, lines.Err()
}

// tail is the end of a file.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
