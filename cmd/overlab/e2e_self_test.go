package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The tests trust the watcher, so it has to see what a lab could leave: a file,
// a process, and a namespace that lives by it.
func TestWatcherSeesWhatIsLeft(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	machine.unchanged(t, "at first")

	file := filepath.Join(o.state, "default", "plan.json")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := machine.changes(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file is left, and the watcher says %v", err)
	}
	if err := os.RemoveAll(o.state); err != nil {
		t.Fatal(err)
	}

	flags := uintptr(unix.CLONE_NEWNET)
	if os.Getuid() != 0 {
		flags |= unix.CLONE_NEWUSER
	}
	cmd := o.helper(helperWait, flags, 0)
	startReady(t, cmd)
	err := machine.changes()
	if err == nil || !strings.Contains(err.Error(), "process ") || !strings.Contains(err.Error(), "namespace net:") {
		t.Errorf("a process in a namespace is left, and the watcher says %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wait(t, cmd)
	machine.unchanged(t, "at last")
}
