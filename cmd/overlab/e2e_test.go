package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what takes milliseconds, limit how
// long for a command.
const (
	patience = 10 * time.Second
	limit    = 60 * time.Second
)

// eventually polls until cond holds, and ends the test if it never does.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	if !poll(patience, cond) {
		t.Fatalf("not after %s: %s", patience, what)
	}
}

func poll(most time.Duration, cond func() bool) bool {
	deadline := time.Now().Add(most)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		if time.Now().After(deadline) {
			return false
		}
		<-tick.C
	}
	return true
}

// overlab is the command line of a user with labs of its own: a state folder
// that no other test knows.
type overlab struct {
	state string
	env   []string
}

// result is how a command ended. Code is 128+N after signal N.
type result struct {
	code     int
	out, err string
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d\n--- stdout\n%s--- stderr\n%s", r.code, r.out, r.err)
}

// newOverlab makes a state folder. When the test ends its labs do, and what
// they leave behind fails it.
func newOverlab(t testing.TB) *overlab {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv(folder), "s")
	if err != nil {
		t.Fatal(err)
	}
	o := &overlab{state: filepath.Join(dir, "labs")}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "OVERLAB_") && !strings.HasPrefix(e, "NO_COLOR=") {
			o.env = append(o.env, e)
		}
	}
	o.env = append(o.env, "OVERLAB_STATE_DIR="+o.state, "TERM=xterm")
	t.Cleanup(func() {
		if r := o.run(t, "down", "--all"); r.code != 0 {
			t.Error("down --all:", r)
		}
		if left := o.left(); len(left) > 0 && !poll(patience, func() bool { left = o.left(); return len(left) == 0 }) {
			t.Errorf("left behind:\n  %s", strings.Join(left, "\n  "))
		}
	})
	return o
}

// needLabs skips a test where the kernel gives no namespaces.
func needLabs(t testing.TB) {
	t.Helper()
	if s, reason, _ := strings.Cut(os.Getenv(stage), ":"); s == stageOutside {
		t.Skipf("SKIPPED, NOT TESTED: no lab can run on this machine: %s", reason)
	}
}

// need skips a test on a machine that lacks a tool.
func need(t testing.TB, tool string) {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if st, err := os.Stat(filepath.Join(dir, tool)); err == nil && st.Mode()&0o111 != 0 {
			return
		}
	}
	t.Skipf("SKIPPED, NOT TESTED: this machine has no %s", tool)
}

// labUp is a fresh state folder with a lab in it.
func labUp(t testing.TB, args ...string) *overlab {
	t.Helper()
	needLabs(t)
	o := newOverlab(t)
	o.must(t, append([]string{"up"}, args...)...)
	return o
}

func program() string { return filepath.Join(os.Getenv("OVERLAB_BIN"), "overlab") }

// command is the command line args, not yet started.
func (o *overlab) command(args ...string) *exec.Cmd {
	cmd := exec.Command(program(), args...)
	cmd.Env = slices.Clone(o.env)
	cmd.WaitDelay = patience // nothing may hold its streams for longer
	return cmd
}

// run runs a command line.
func (o *overlab) run(t testing.TB, args ...string) result {
	t.Helper()
	return finish(t, o.command(args...))
}

// finish runs a command; one that hangs ends the test.
func finish(t testing.TB, cmd *exec.Cmd) result {
	t.Helper()
	var out, errs bytes.Buffer
	if cmd.Stdout == nil {
		cmd.Stdout = &out
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &errs
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	code := wait(t, cmd)
	return result{code, out.String(), errs.String()}
}

// wait waits for a command that was started and returns its exit code.
func wait(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%v does not end", cmd.Args)
	}
	return exitOf(cmd.ProcessState.Sys().(syscall.WaitStatus))
}

// must runs a command line that has to succeed and returns what it prints.
func (o *overlab) must(t testing.TB, args ...string) string {
	t.Helper()
	r := o.run(t, args...)
	if r.code != 0 {
		t.Fatalf("overlab %s: %s", strings.Join(args, " "), r)
	}
	return r.out
}

// json runs a command line and decodes what it prints.
func (o *overlab) json(t testing.TB, into any, args ...string) {
	t.Helper()
	if err := json.Unmarshal([]byte(o.must(t, args...)), into); err != nil {
		t.Fatalf("overlab %s: %v", strings.Join(args, " "), err)
	}
}

// left lists what there still is of the user's labs: processes that were
// started with the state folder in their environment, and files.
func (o *overlab) left() []string {
	var out []string
	for _, p := range processes() {
		if p.mentions(o.state) {
			out = append(out, p.String())
		}
	}
	_ = filepath.WalkDir(o.state, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			out = append(out, path)
		}
		return nil
	})
	return out
}

// supervisor returns the process id of the user's only supervisor, 0 if there
// is none.
func (o *overlab) supervisor() int {
	for _, p := range processes() {
		if strings.HasPrefix(p.argv, "overlab\x00supervise\x00") && p.mentions(o.state) {
			return p.pid
		}
	}
	return 0
}

// process is a process that the tests can see.
type process struct {
	pid       int
	argv, env string
}

func (p process) mentions(word string) bool {
	return strings.Contains(p.argv, word) || strings.Contains(p.env, word)
}

func (p process) String() string {
	return fmt.Sprintf("process %d: %s", p.pid, strings.ReplaceAll(p.argv, "\x00", " "))
}

func processes() []process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []process
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == os.Getpid() {
			continue
		}
		argv, _ := os.ReadFile(dir + "/cmdline") // empty: a zombie
		env, _ := os.ReadFile(dir + "/environ")
		out = append(out, process{pid, string(argv), string(env)})
	}
	return out
}

// surroundings are what labs must not change of the machine.
type surroundings struct {
	links, mounts []string
	// spaces maps each namespace to a process in it.
	spaces map[string]process
}

// look looks around.
func look() (*surroundings, error) {
	s := &surroundings{spaces: map[string]process{}}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		s.links = append(s.links, fmt.Sprintf("%d: %s %s %s", i.Index, i.Name, i.HardwareAddr, i.Flags))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	s.mounts = strings.Split(string(mounts), "\n")
	for _, p := range processes() {
		for _, kind := range []string{"net", "mnt", "pid", "uts", "user"} {
			if id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.pid, kind)); err == nil {
				s.spaces[id] = p
			}
		}
	}
	return s, nil
}

// same compares the surroundings with what they are now.
func (s *surroundings) same() error {
	now, err := look()
	if err != nil {
		return err
	}
	var errs []error
	if !slices.Equal(s.links, now.links) {
		errs = append(errs, fmt.Errorf("links were\n  %s\nand are\n  %s", strings.Join(s.links, "\n  "), strings.Join(now.links, "\n  ")))
	}
	if !slices.Equal(s.mounts, now.mounts) {
		errs = append(errs, fmt.Errorf("mounts were\n  %s\nand are\n  %s", strings.Join(s.mounts, "\n  "), strings.Join(now.mounts, "\n  ")))
	}
	for _, id := range slices.Sorted(maps.Keys(now.spaces)) {
		if _, was := s.spaces[id]; !was {
			errs = append(errs, fmt.Errorf("namespace %s has come, with %s", id, now.spaces[id]))
		}
	}
	return errors.Join(errs...)
}

// waitSame gives the kernel time to clear up after processes that were killed.
func (s *surroundings) waitSame() (err error) {
	poll(patience, func() bool { err = s.same(); return err == nil })
	return err
}

// watcher tells whether a user's commands have changed the machine or left
// anything of a lab. Only tests that run alone may ask.
type watcher struct {
	o      *overlab
	before *surroundings
}

func (o *overlab) watch(t testing.TB) *watcher {
	t.Helper()
	before, err := look()
	if err != nil {
		t.Fatal(err)
	}
	return &watcher{o, before}
}

func (w *watcher) changes() error {
	var left error
	if all := w.o.left(); len(all) > 0 {
		left = fmt.Errorf("left behind:\n  %s", strings.Join(all, "\n  "))
	}
	return errors.Join(left, w.before.same())
}

// unchanged ends the test if there is a change.
func (w *watcher) unchanged(t testing.TB, when string) {
	t.Helper()
	if err := w.changes(); err != nil {
		t.Fatalf("%s: %v", when, err)
	}
}

// settles ends the test if there is a change that does not pass: the kernel
// takes a moment to end what hung on a process that was killed.
func (w *watcher) settles(t testing.TB, when string) {
	t.Helper()
	var err error
	if !poll(patience, func() bool { err = w.changes(); return err == nil }) {
		t.Fatalf("%s: after %s still: %v", when, patience, err)
	}
}

// contains ends the test unless text has every word.
func contains(t testing.TB, text string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Fatalf("no %q in:\n%s", w, text)
		}
	}
}
