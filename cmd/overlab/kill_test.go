package main

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// moments gives pseudo-random delays. OVERLAB_TEST_SEED repeats those of a run
// that failed.
func moments(t *testing.T) (within func(most time.Duration) time.Duration) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("OVERLAB_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal("OVERLAB_TEST_SEED:", err)
		}
	}
	t.Logf("OVERLAB_TEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	return func(most time.Duration) time.Duration { return time.Duration(r.Int64N(int64(most))) }
}

// start starts a command line and keeps what it prints.
func (o *overlab) start(t *testing.T, args ...string) (cmd *exec.Cmd, printed *bytes.Buffer) {
	t.Helper()
	cmd, printed = o.command(args...), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = printed, printed
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, printed
}

// Ctrl-C undoes what up has made before it ends: the moment that the command
// has returned, nothing is left.
func TestInterruptedUp(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	within := moments(t)
	for i := range 12 {
		signal := []syscall.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP}[i%3]
		delay := within(200 * time.Millisecond)
		cmd, printed := o.start(t, "up")
		<-time.After(delay)
		if err := cmd.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		when := signal.String() + " after " + delay.String()
		switch code := wait(t, cmd); {
		case code == 0: // too late, the lab was up
			contains(t, printed.String(), "up in ")
			o.must(t, "test", "NM-01")
			o.must(t, "down")
		case code == 128+int(signal): // too early for the program to have begun
			if printed.Len() > 0 {
				t.Errorf("%s: killed by the signal: %s", when, printed)
			}
		case code == 2:
			contains(t, printed.String(), "interrupted; what this command had made is undone")
		default:
			t.Errorf("%s: exit code %d: %s", when, code, printed)
		}
		machine.unchanged(t, when)
	}
}

// Without the command that brings it up, nobody would know of a lab.
func TestKilledUp(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	within := moments(t)
	for range 8 {
		delay := within(120 * time.Millisecond)
		cmd, _ := o.start(t, "up")
		<-time.After(delay)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		wait(t, cmd)
		when := "up killed after " + delay.String()
		if strings.Contains(o.must(t, "ls"), "running") { // it was up before
			o.must(t, "test", "NM-01")
			o.must(t, "down")
		}
		o.clears(t, when)
		machine.settles(t, when)
	}
}

// The supervisor is killed 50 times at random moments of up, test and down.
func TestKilledSupervisor(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	within := moments(t)
	kill := func(most time.Duration) time.Duration {
		delay := within(most)
		<-time.After(delay)
		if pid := o.supervisor(); pid > 0 {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && err != unix.ESRCH {
				t.Fatal(err)
			}
		}
		return delay
	}
	for i := range 50 {
		var (
			cmd     *exec.Cmd
			printed *bytes.Buffer
			delay   time.Duration
			during  string
		)
		switch {
		case i%7 < 5:
			during = "up"
			cmd, printed = o.start(t, "up")
			// Not before there is one.
			poll(patience, func() bool { return o.supervisor() > 0 || cmd.ProcessState != nil })
			delay = kill(180 * time.Millisecond)
		case i%7 == 5:
			during = "test"
			o.must(t, "up")
			cmd, printed = o.start(t, "test")
			delay = kill(150 * time.Millisecond)
		default:
			during = "down"
			o.must(t, "up")
			cmd, printed = o.start(t, "down")
			delay = kill(30 * time.Millisecond)
		}
		code := wait(t, cmd)
		when := during + ", killed after " + delay.String()
		// Either command may have been done, or finds that the lab is gone.
		if code != 0 && code != 2 || code == 2 && !strings.Contains(printed.String(), "overlab: ") {
			t.Errorf("%s: exit code %d: %s", when, code, printed)
		}
		if i%10 == 0 { // up clears as well as ls
			eventually(t, when+": the supervisor is gone", func() bool { return !o.lockHeld(t) })
			o.must(t, "up")
			o.must(t, "down")
		} else {
			o.clears(t, when)
		}
		machine.settles(t, when)
	}
}

// A supervisor that is told to end clears up what it can.
func TestTerminatedSupervisor(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	for _, signal := range []syscall.Signal{unix.SIGTERM, unix.SIGINT} {
		o.must(t, "up")
		if err := unix.Kill(o.supervisor(), signal); err != nil {
			t.Fatal(err)
		}
		o.clears(t, signal.String())
		machine.settles(t, signal.String())
	}
}

// clears waits until ls, which clears what dead labs left, shows none.
func (o *overlab) clears(t *testing.T, when string) {
	t.Helper()
	var out string
	if !poll(patience, func() bool { out = o.must(t, "ls"); return out == "" }) {
		t.Fatalf("%s: after %s ls still shows\n%s", when, patience, out)
	}
}

// lockHeld reports whether the lab "default" has a living supervisor.
func (o *overlab) lockHeld(t *testing.T) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(o.state, "default", "overlab.lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}
