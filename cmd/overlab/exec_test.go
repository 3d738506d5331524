package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestExec(t *testing.T) {
	o := labUp(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *overlab)
	}{
		{"exit codes", execExitCodes},
		{"refusals", execRefusals},
		{"standard input", execStdin},
		{"large stream", execLargeStream},
		{"closed pipe", execClosedPipe},
		{"environment", execEnvironment},
		{"signals", execSignals},
		{"killed", execKilled},
		{"terminal", execTerminal},
		{"terminal resized", execTerminalResized},
		{"Ctrl-C on a terminal", execTerminalInterrupt},
		{"terminal outlived by a background process", execTerminalBackground},
		{"terminal put back", execTerminalRestored},
		{"shell", execShell},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, o) })
	}
}

func execExitCodes(t *testing.T, o *overlab) {
	for _, c := range []struct {
		argv []string
		code int
	}{
		{[]string{"true"}, 0},
		{[]string{"sh", "-c", "exit 3"}, 3},
		{[]string{"sh", "-c", "exit 255"}, 255},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15},
		{[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		{[]string{"no-such-program"}, 127},
		{[]string{"/no/such/program"}, 127},
		{[]string{"/etc/passwd"}, 126},
	} {
		r := o.run(t, append([]string{"exec", "node-1", "--"}, c.argv...)...)
		if r.code != c.code {
			t.Errorf("%q: %s, want %d", c.argv, r, c.code)
		}
		if said := r.err != ""; said != (c.code == 127 || c.code == 126) {
			t.Errorf("%q says %q", c.argv, r.err)
		}
	}
	// The double hyphen is a habit, not a need.
	if out := o.must(t, "exec", "pod-3", "uname", "-n"); out != "pod-3\n" {
		t.Errorf("exec pod-3 uname -n: %q", out)
	}
}

func execRefusals(t *testing.T, o *overlab) {
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"exec", "node-9", "--", "true"}, `no node or pod "node-9"; it has master node-1`},
		{[]string{"exec", "node-1"}, "exec needs a node or pod and a command"},
		{[]string{"exec", "node-1", "--"}, "exec needs a"},
		{[]string{"exec", "--name", "other", "node-1", "--", "true"}, "lab other: no such lab is running"},
		{[]string{"exec", "--nmae", "x", "node-1", "--", "true"}, "unknown flag: --nmae"},
		{[]string{"shell"}, "overlab shell node-1"},
		{[]string{"shell", "node-9"}, `no node or pod "node-9"`},
	} {
		if r := o.run(t, c.args...); r.code != 2 || !strings.Contains(r.err, c.says) {
			t.Errorf("%q: %s, want %q", c.args, r, c.says)
		}
	}
}

func execStdin(t *testing.T, o *overlab) {
	cmd := o.command("exec", "pod-3", "--", "cat")
	cmd.Stdin = strings.NewReader("one\ntwo\n")
	if r := finish(t, cmd); r.code != 0 || r.out != "one\ntwo\n" {
		t.Error("cat:", r)
	}
	if r := o.run(t, "exec", "pod-3", "--", "sh", "-c", "echo out; echo err >&2"); r.out != "out\n" || r.err != "err\n" {
		t.Error("the two streams:", r)
	}
}

func execLargeStream(t *testing.T, o *overlab) {
	data := make([]byte, 10<<20)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	cmd := o.command("exec", "pod-3", "--", "cat")
	cmd.Stdin = bytes.NewReader(data)
	if r := finish(t, cmd); r.code != 0 || sha256.Sum256([]byte(r.out)) != sha256.Sum256(data) {
		t.Errorf("%d bytes came back as %d others, exit code %d: %s", len(data), len(r.out), r.code, r.err)
	}
}

// overlab exec … | head -1: the process is told that nobody reads, and ends.
func execClosedPipe(t *testing.T, o *overlab) {
	cmd := o.command("exec", "node-1", "--", "sh", "-c", "while :; do echo y; done")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "y\n" {
		t.Errorf("read %q, %v", line, err)
	}
	out.Close()
	if code := wait(t, cmd); code != 128+int(unix.SIGPIPE) {
		t.Errorf("exit code %d", code)
	}
}

func execEnvironment(t *testing.T, o *overlab) {
	cmd := o.command("exec", "pod-3", "--", "sh", "-c", "echo $MINE $HOSTNAME $OVERLAB_LAB; pwd; command -v overlabd")
	cmd.Env = append(cmd.Env, "MINE=1")
	if r := finish(t, cmd); r.out != "1 pod-3 default\n/\n/run/overlab/bin/overlabd\n" {
		t.Error(r)
	}
}

// startReady starts a command that says ready once it is.
func startReady(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the command says %q, %v", line, err)
	}
}

func execSignals(t *testing.T, o *overlab) {
	for name, sig := range map[string]syscall.Signal{
		"TERM": unix.SIGTERM, "INT": unix.SIGINT, "HUP": unix.SIGHUP, "QUIT": unix.SIGQUIT, "USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
	} {
		cmd := o.command("exec", "node-1", "--", "sh", "-c", `trap "exit 7" `+name+`; echo ready; while :; do sleep 0.01; done`)
		startReady(t, cmd)
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if code := wait(t, cmd); code != 7 {
			t.Errorf("SIG%s: exit code %d, want that of the trap, 7", name, code)
		}
	}
	cmd := o.command("exec", "node-1", "--", "sh", "-c", "echo ready; exec sleep 1000")
	startReady(t, cmd)
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := wait(t, cmd); code != 128+15 {
		t.Errorf("SIGTERM without a trap: exit code %d, want 143", code)
	}
}

// A killed `overlab exec` takes its process with it, like a lost terminal.
func execKilled(t *testing.T, o *overlab) {
	for name, script := range map[string]string{
		"a process":                  "echo ready; exec sleep 4711",
		"one that ignores a hang-up": `trap "" HUP TERM; echo ready; sleep 4711; sleep 4711`,
	} {
		cmd := o.command("exec", "node-1", "--", "sh", "-c", script)
		startReady(t, cmd)
		sleeps := func() (n int) {
			for _, p := range processes() {
				if p.argv == "sleep\x004711\x00" && p.mentions(o.state) {
					n++
				}
			}
			return n
		}
		eventually(t, "the process sleeps", func() bool { return sleeps() > 0 })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		wait(t, cmd)
		eventually(t, name+" has ended", func() bool { return sleeps() == 0 })
	}
}

// terminal is a command on a terminal, and what it has shown.
type terminal struct {
	*os.File
	cmd *exec.Cmd

	mu    sync.Mutex
	shown bytes.Buffer
	done  chan struct{}
}

func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{File: f, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(term.done)
		buf := make([]byte, 4096)
		for {
			n, err := f.Read(buf)
			term.mu.Lock()
			term.shown.Write(buf[:n])
			term.mu.Unlock()
			if err != nil {
				return // EIO: the command has let go of the terminal
			}
		}
	}()
	t.Cleanup(func() { f.Close() })
	return term
}

func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.shown.String()
}

// expect waits until the terminal shows a text, and forgets what it has shown.
func (x *terminal) expect(t *testing.T, text string) string {
	t.Helper()
	if !poll(patience, func() bool { return strings.Contains(x.text(), text) }) {
		t.Fatalf("the terminal does not show %q but\n%s", text, x.text())
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	shown := x.shown.String()
	x.shown.Reset()
	return shown
}

func (x *terminal) typed(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(x, text); err != nil {
		t.Fatal(err)
	}
}

// exit waits for the command and returns its exit code.
func (x *terminal) exit(t *testing.T) int {
	t.Helper()
	code := wait(t, x.cmd)
	<-x.done
	return code
}

func execTerminal(t *testing.T, o *overlab) {
	x := onTerminal(t, o.command("exec", "node-1", "--", "sh", "-c", `tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo three; exit 3`))
	if code := x.exit(t); code != 3 {
		t.Errorf("exit code %d", code)
	}
	contains(t, x.text(), "/dev/pts/", "33 99", "three")
	// With a stream that is none there is no terminal.
	cmd := o.command("exec", "node-1", "--", "tty")
	cmd.Stdin = strings.NewReader("")
	if r := finish(t, cmd); r.code != 1 || !strings.Contains(r.out, "not a tty") {
		t.Error("tty without one:", r)
	}
}

func execTerminalResized(t *testing.T, o *overlab) {
	x := onTerminal(t, o.command("exec", "node-1", "--", "sh", "-c", `trap "stty size" WINCH; echo ready; read line; while read line; do :; done; exit 0`))
	x.expect(t, "ready")
	if err := pty.Setsize(x.File, &pty.Winsize{Rows: 44, Cols: 111}); err != nil {
		t.Fatal(err)
	}
	x.expect(t, "44 111")
	x.typed(t, "\x04\x04")
	if code := x.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func execTerminalInterrupt(t *testing.T, o *overlab) {
	for script, want := range map[string]int{
		`trap "exit 9" INT; echo ready; while :; do sleep 0.01; done`: 9,
		`echo ready; exec sleep 1000`:                                 128 + 2,
	} {
		x := onTerminal(t, o.command("exec", "node-1", "--", "sh", "-c", script))
		x.expect(t, "ready")
		x.typed(t, "\x03")
		if code := x.exit(t); code != want {
			t.Errorf("%s: Ctrl-C: exit code %d, want the process's, %d", script, code, want)
		}
	}
}

// `sleep 1000 &` and `exit` must not leave a person before a dead terminal.
func execTerminalBackground(t *testing.T, o *overlab) {
	x := onTerminal(t, o.command("exec", "node-1", "--", "sh", "-c", `(trap "" HUP; exec sleep 4712) & echo last words; exit 4`))
	if code := x.exit(t); code != 4 {
		t.Errorf("exit code %d", code)
	}
	contains(t, x.text(), "last words")
}

func execTerminalRestored(t *testing.T, o *overlab) {
	ours, theirs, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	go func() { _, _ = io.Copy(io.Discard, ours) }()
	mode := func() unix.Termios {
		m, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		return *m
	}
	before := mode()
	for _, argv := range [][]string{{"true"}, {"no-such-program"}, {"sh", "-c", "kill -9 $$"}} {
		cmd := o.command(append([]string{"exec", "node-1", "--"}, argv...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		finish(t, cmd)
		if after := mode(); after != before {
			t.Errorf("%q leaves the terminal in another mode: %+v, was %+v", argv, after, before)
		}
	}
}

func execShell(t *testing.T, o *overlab) {
	need(t, "ip")
	need(t, "bridge")
	x := onTerminal(t, o.command("shell", "node-1"))
	const prompt = "root@node-1:/# "
	x.expect(t, prompt)
	for _, c := range []struct {
		typed string
		shows []string
	}{
		{"ip netns", []string{"pod-3", "pod-4"}},
		{"ip netns exec pod-3 ip -4 -o addr", []string{"10.244.1.2/24"}},
		{"bridge fdb show dev flannel.1", []string{"dst 172.16.1.1 self permanent", "dst 172.16.1.3 self permanent"}},
		{"ip neigh show dev flannel.1", []string{"10.244.0.0 lladdr", "10.244.2.0 lladdr", "PERMANENT"}},
		{"cat /etc/hostname; id -u", []string{"node-1", "0"}},
	} {
		x.typed(t, c.typed+"\n")
		contains(t, x.expect(t, prompt), c.shows...)
	}
	// Ctrl-C ends the line, not the shell; the shell's exit code is ours.
	x.typed(t, "ip rou\x03")
	x.expect(t, prompt)
	x.typed(t, "exit 5\n")
	if code := x.exit(t); code != 5 {
		t.Errorf("exit code %d", code)
	}

	pod := onTerminal(t, o.command("shell", "pod-3"))
	pod.expect(t, "root@pod-3:/# ")
	pod.typed(t, "ip -o link\n")
	if shown := pod.expect(t, "root@pod-3:/# "); !strings.Contains(shown, "eth0") || strings.Contains(shown, "cni0") {
		t.Errorf("a pod's links: %s", shown)
	}
	pod.typed(t, "sleep 4713 &\nexit\n")
	if code := pod.exit(t); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// Without a terminal a shell reads its commands.
	cmd := o.command("shell", "node-2")
	cmd.Stdin = strings.NewReader(fmt.Sprintln("uname -n"))
	if r := finish(t, cmd); !strings.Contains(r.out, "node-2\n") {
		t.Error("shell < file:", r)
	}
}
