package labs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/topology"
)

var update = flag.Bool("update", false, "write what the exercises' commands print into their README.md")

// commandTimeout is more than any command of an exercise takes.
const commandTimeout = 30 * time.Second

// tools are what the articles' commands need on the machine.
var tools = []string{"ip", "bridge", "brctl", "ethtool", "tcpdump", "ping", "busybox", "netstat", "nsenter", "iptables-save"}

// TestExercises walks every exercise in its lab: each command prints what the
// exercise shows, and what the article printed.
//
// With OVERLAB_BIN, the programs are those in that folder; else they are
// built.
func TestExercises(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT TESTED: -short leaves the exercises out")
	}
	bin := programs(t)
	for _, l := range All() {
		t.Run(l.Name, func(t *testing.T) { walk(t, bin, l) })
	}
}

func walk(t *testing.T, bin string, l Lab) {
	need(t)
	spec, err := Load(l.Name)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := spec.Plan()
	if err != nil {
		t.Fatal(err)
	}
	exercise, err := parseExercise(l.Readme)
	if err != nil {
		t.Fatalf("%s/README.md: %v", l.Name, err)
	}
	article, err := readArticle(l)
	if err != nil {
		t.Fatalf("%s/%v", l.Name, err)
	}
	lab := up(t, bin, l)
	lab.run(t, exercise.steps)
	if t.Failed() {
		return
	}
	c := newComparison(string(l.Spec))
	article = lab.possible(t, plan, article, exercise)
	article.check(t, plan, c, exercise)
	if *update {
		keepUnchanged(c, exercise)
		if err := os.WriteFile(filepath.Join(l.Name, "README.md"), []byte(exercise.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, s := range exercise.steps {
		if s.impossible {
			continue
		}
		if diff := c.diff(s.command, s.shown, s.printed); diff != "" {
			t.Errorf("%s/README.md:%d: on %s, %s: the exercise shows -, the lab prints + (go test ./labs -update writes it anew):\n%s", l.Name, s.line, s.host, s.command, diff)
		}
	}
}

// keepUnchanged leaves an output in the file as it is if only what is volatile
// would change.
func keepUnchanged(c *comparison, e *exercise) {
	for _, s := range e.steps {
		if s.impossible || len(s.shown) > 0 && c.diff(s.command, s.shown, s.printed) == "" {
			s.printed = s.shown
		}
	}
}

// possible leaves out of an article what this machine's kernel cannot do.
func (l *runningLab) possible(t *testing.T, p *topology.Plan, a article, e *exercise) article {
	t.Helper()
	return slices.DeleteFunc(a, func(q *quote) bool {
		if q.condition == "" || l.command(t.Context(), "exec", "--name", l.name, q.host, "--", "sh", "-c", q.condition).Run() == nil {
			return false
		}
		t.Logf("NOT TESTED on %s: %s: this machine fails `%s`", q.host, q.run, q.condition)
		for _, s := range e.steps {
			s.impossible = s.impossible || sameCommand(p, q, s)
		}
		return true
	})
}

// need skips the test where a tool of the articles is missing.
func need(t *testing.T) {
	t.Helper()
	path := os.Getenv("PATH")
	t.Setenv("PATH", path+":/usr/local/sbin:/usr/sbin:/sbin")
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		t.Skipf("SKIPPED, NOT TESTED: the articles use %s (Debian's packages iproute2, bridge-utils, ethtool, tcpdump, iputils-ping, busybox, net-tools, util-linux and iptables have the tools)", strings.Join(missing, ", "))
	}
}

// programs returns a folder with the project's programs.
func programs(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("OVERLAB_BIN"); dir != "" {
		return dir
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "../cmd/overlab", "../cmd/overlabd", "../cmd/overlab-cni")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the programs: %v\n%s", err, out)
	}
	return dir
}

// runningLab is a lab that is up.
type runningLab struct {
	overlab string
	name    string
	env     []string
}

// up brings a lab up, apart from all others, until the test ends.
func up(t *testing.T, bin string, l Lab) *runningLab {
	t.Helper()
	lab := &runningLab{
		overlab: filepath.Join(bin, "overlab"), name: l.Label(),
		env: append(os.Environ(), "OVERLAB_STATE_DIR="+filepath.Join(t.TempDir(), "state"), "LC_ALL=C", "TERM=dumb"),
	}
	out, err := lab.command(t.Context(), "up", l.Name).CombinedOutput()
	if err != nil {
		if reason := cmp.Or(noNamespaces(string(out)), noTun(string(out)), noESP(string(out)), noContainers(string(out))); reason != "" {
			t.Skipf("SKIPPED, NOT TESTED: %s", reason)
		}
		t.Fatalf("overlab up %s: %v\n%s", l.Name, err, out)
	}
	t.Cleanup(func() {
		if out, err := lab.command(context.Background(), "down", lab.name).CombinedOutput(); err != nil {
			t.Errorf("overlab down %s: %v\n%s", lab.name, err, out)
		}
	})
	return lab
}

// noNamespaces tells whether a machine refuses an ordinary user's namespaces,
// from what `overlab up` says.
func noNamespaces(output string) string {
	if os.Geteuid() != 0 && strings.Contains(output, "user namespace") {
		return output
	}
	return ""
}

// noTun tells whether a machine has neither a kernel's device nor a TUN device
// that this user may use, from what `overlab up` says.
func noTun(output string) string {
	if strings.Contains(output, tuntap.Path) {
		return output
	}
	return ""
}

// noContainers tells whether a user or a machine has no containers, from what
// `overlab up` says.
func noContainers(output string) string {
	if strings.Contains(output, "spec.runtime: ") {
		return strings.TrimSpace(output)
	}
	return ""
}

// noESP tells whether a machine's kernel encrypts nothing, from what `overlab
// up` says.
func noESP(output string) string {
	if strings.Contains(output, "encrypts no ESP packets") {
		return strings.TrimSpace(output)
	}
	return ""
}

func (l *runningLab) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, l.overlab, args...)
	cmd.Env = l.env
	return cmd
}

// run runs the steps in their order.
func (l *runningLab) run(t *testing.T, steps []*step) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+len(steps))*commandTimeout)
	defer cancel()
	var left *process
	var leftStep *step
	finish := func() {
		if left == nil {
			return
		}
		lines, err := left.wait(t)
		if err != nil {
			t.Errorf("README.md:%d: on %s, %s: %v\n%s", leftStep.line, leftStep.host, leftStep.command, err, strings.Join(lines, "\n"))
		}
		leftStep.printed = lines
		left = nil
	}
	for i, s := range steps {
		p, err := l.start(ctx, s)
		if err != nil {
			t.Fatalf("README.md:%d: on %s, %s: %v", s.line, s.host, s.command, err)
		}
		if s.background {
			finish()
			if err := p.printed("listening on"); err != nil {
				t.Fatalf("README.md:%d: on %s, %s: %v", s.line, s.host, s.command, err)
			}
			left, leftStep = p, s
			continue
		}
		lines, err := p.wait(t)
		if err != nil {
			t.Errorf("README.md:%d: on %s, %s: %v\n%s", s.line, s.host, s.command, err, strings.Join(lines, "\n"))
		}
		s.printed = lines
		if i+1 == len(steps) || steps[i+1].background {
			finish()
		}
	}
	finish()
}

// process is a command of an exercise that runs. Its output is a terminal, as
// a reader's is: tools print line by line, and errors where they occur.
type process struct {
	cmd     *exec.Cmd
	cancel  context.CancelFunc
	copied  chan struct{}
	started time.Time

	mu     sync.Mutex
	output bytes.Buffer
	grown  chan struct{}
}

func (l *runningLab) start(ctx context.Context, s *step) (*process, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, commandTimeout, fmt.Errorf("not ended after %s", commandTimeout))
	p := &process{
		cmd:    l.command(ctx, "exec", "--name", l.name, s.host, "--", "sh", "-c", s.command),
		cancel: cancel, copied: make(chan struct{}), grown: make(chan struct{}, 1), started: time.Now(),
	}
	ours, theirs, err := pty.Open()
	if err != nil {
		cancel()
		return nil, err
	}
	defer theirs.Close()
	if _, err := term.MakeRaw(int(theirs.Fd())); err != nil { // no CR before LF
		cancel()
		return nil, errors.Join(err, ours.Close())
	}
	p.cmd.Stdout, p.cmd.Stderr = theirs, theirs
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, errors.Join(err, ours.Close())
	}
	go func() {
		defer close(p.copied)
		defer ours.Close()
		buf := make([]byte, 4096)
		for {
			n, err := ours.Read(buf)
			p.mu.Lock()
			p.output.Write(buf[:n])
			p.mu.Unlock()
			select {
			case p.grown <- struct{}{}:
			default:
			}
			if err != nil { // EIO, when every writer is gone
				return
			}
		}
	}()
	return p, nil
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.String()
}

// printed returns when the process has printed what.
func (p *process) printed(what string) error {
	deadline := time.After(commandTimeout)
	for !strings.Contains(p.text(), what) {
		select {
		case <-p.grown:
		case <-p.copied:
			if strings.Contains(p.text(), what) {
				return nil
			}
			return fmt.Errorf("it ended before it printed %q: %s", what, p.text())
		case <-deadline:
			return fmt.Errorf("it did not print %q in %s: %s", what, commandTimeout, p.text())
		}
	}
	return nil
}

// wait returns the lines that the process printed, when it has ended.
func (p *process) wait(t *testing.T) ([]string, error) {
	defer p.cancel()
	err := p.cmd.Wait()
	<-p.copied
	const slow = 5 * time.Second
	if took := time.Since(p.started); took > slow {
		t.Logf("SLOW: %s took %s", p.cmd.Args[len(p.cmd.Args)-1], took.Round(time.Millisecond))
	}
	text := strings.ReplaceAll(strings.TrimRight(p.text(), "\n"), "\r", "")
	if text == "" {
		return nil, err
	}
	return strings.Split(text, "\n"), err
}

// TestByHandIsOneOverlay: after the exercise's commands the lab passes the
// checks on every node and between all pairs of pods, and fails them before.
//
//	master, overlabd      by-hand, no agent      node, overlabd
//	  eth0 .1                eth0 .2                eth0 .3
//	    +-----------------------+----------------------+   172.16.1.0/24
func TestByHandIsOneOverlay(t *testing.T) {
	bin := programs(t)
	need(t)
	l, err := Find("by-hand")
	if err != nil {
		t.Fatal(err)
	}
	exercise, err := parseExercise(l.Readme)
	if err != nil {
		t.Fatal(err)
	}
	lab := up(t, bin, l)
	judge := func() (string, error) {
		out, err := lab.command(t.Context(), "test", "--name", lab.name).CombinedOutput()
		return string(out), err
	}
	if out, err := judge(); err == nil {
		t.Errorf("before the commands it is no overlay of three nodes, and passes:\n%s", out)
	}
	lab.run(t, exercise.steps)
	if out, err := judge(); err != nil {
		t.Errorf("overlab test: %v\n%s", err, out)
	}
	if out, err := lab.command(t.Context(), "diff", "--name", lab.name).CombinedOutput(); err != nil {
		t.Errorf("overlab diff: %v\n%s", err, out)
	}
}

// Every article's command is in its exercise, known without a lab.
func TestExercisesFollowTheArticles(t *testing.T) {
	for _, l := range All() {
		spec, err := Load(l.Name)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := spec.Plan()
		if err != nil {
			t.Fatal(err)
		}
		e, err := parseExercise(l.Readme)
		if err != nil {
			t.Fatalf("%s/README.md: %v", l.Name, err)
		}
		if len(e.steps) == 0 {
			t.Errorf("%s/README.md has no commands", l.Name)
		}
		checkHosts(t, plan, l, e)
		a, err := readArticle(l)
		if err != nil {
			t.Fatalf("%s/%v", l.Name, err)
		}
		for _, s := range e.steps {
			s.printed = s.shown
		}
		// What the machine that wrote the file could not do is not in it.
		a = slices.DeleteFunc(a, func(q *quote) bool { return q.condition != "" })
		a.check(t, plan, newComparison(string(l.Spec)), e)
	}
}

// checkHosts checks that every prompt names something of the lab.
func checkHosts(t *testing.T, p *topology.Plan, l Lab, e *exercise) {
	for _, s := range e.steps {
		known := p.Node(s.host) != nil || p.Pod(s.host) != nil || s.host == "underlay"
		for _, r := range p.Routers {
			known = known || r.Name == s.host
		}
		if !known {
			t.Errorf("%s/README.md:%d: the lab has no %s", l.Name, s.line, s.host)
		}
	}
}
