package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/kubernetes"
)

// check refuses flags that make no sense, all at once. Without a number of
// runs, --until-fail has no end.
func (f *testFlags) check(counted bool) error {
	var errs []error
	if f.scale <= 0 {
		errs = append(errs, fmt.Errorf("--timeout-scale=%g: it must be above 0", f.scale))
	}
	if f.outage <= 0 {
		errs = append(errs, fmt.Errorf("--outage=%v: it must be above 0", f.outage))
	}
	if f.buffer < leastBuffer || f.buffer > 1<<20 {
		errs = append(errs, fmt.Errorf("--capture-buffer=%d: it is in KiB, from %d to 1048576", f.buffer, leastBuffer))
	}
	if f.timeout < 0 {
		errs = append(errs, fmt.Errorf("--timeout=%v: it must not be below 0", f.timeout))
	}
	if f.untilFail && !counted {
		f.repeat = 0
	}
	if f.repeat < 0 || f.repeat == 0 && !f.untilFail {
		errs = append(errs, fmt.Errorf("--repeat=%d: at least one run; without end is --until-fail", f.repeat))
	}
	for _, r := range f.reports {
		format, file, ok := strings.Cut(r, "=")
		switch {
		case !ok || file == "":
			errs = append(errs, fmt.Errorf("--report=%s: it takes FORMAT=FILE, as html=report.html", r))
		case !report.Known(format):
			errs = append(errs, fmt.Errorf("--report=%s: %q is none of %s", r, format, strings.Join(report.Formats(), ", ")))
		}
	}
	return errors.Join(errs...)
}

// leastBuffer is the smallest buffer of a capture, in KiB: a page.
const leastBuffer = 4

// ring is the buffer in blocks that suit the small packets of probes: a block
// that holds one of them holds no other until it was read.
func (f *testFlags) ring() capture.Ring {
	block := 16 << 10
	if f.buffer<<10 < 2*block {
		block = leastBuffer << 10
	}
	return capture.Ring{BlockSize: block, Blocks: f.buffer << 10 / block, Retire: 2 * time.Millisecond}
}

// explained reports whether somebody will read more than the terminal.
func (f *testFlags) explained() bool {
	return f.explain || f.evidence != "" || len(f.reports) > 0 || f.output.value == "html"
}

// testRun runs the checks, once or again and again, with the lab's namespaces
// within reach.
type testRun struct {
	command
	f        testFlags
	suite    *suite.Suite
	lab      topology.Lab
	options  suite.Options
	selected int
	about    *suite.About
	// reports is the folder of the last report, in the lab's state folder.
	reports string
	// worst is the first run of the worst exit code; made and unsound count
	// the runs, and those that did not end with 0.
	worst         *suite.Results
	made, unsound int
}

func (c command) runTests(ctx context.Context, s *suite.Suite, lab topology.Lab, f testFlags, selection suite.Selection) error {
	list, err := s.Select(selection)
	if err != nil {
		return err
	}
	reports, err := reportFolder(ctx, lab)
	if err != nil {
		return err
	}
	t := &testRun{
		reports: reports,
		command: c, f: f, suite: s, lab: lab, selected: len(list), about: about(lab, f, selection),
		options: suite.Options{Select: selection, Timeouts: suite.DefaultTimeouts().Scale(f.scale), Ring: f.ring(), Spare: c.spared()},
	}
	t.options.Timeouts.Outage = f.outage
	for _, e := range f.exempt {
		check, reason, _ := strings.Cut(e, "=")
		t.options.Exemptions = append(t.options.Exemptions, suite.Exemption{Check: check, Reason: reason})
	}
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("--timeout=%v is over", f.timeout))
		defer cancel()
	}
	for more := true; more; {
		if more, err = t.once(ctx); err != nil {
			return err
		}
	}
	return t.end()
}

// once makes one run, and says whether another is to follow.
func (t *testRun) once(ctx context.Context) (more bool, err error) {
	var repeat *suite.Repeat
	if t.f.repeat != 1 {
		repeat = &suite.Repeat{Run: t.made + 1, Runs: t.f.repeat}
	}
	streams, err := t.openStreams(repeat)
	if err != nil {
		return false, err
	}
	progress := newProgress(t.streams.err, t.selected)
	o := t.options
	why := &explanation{run: t}
	o.BeforeDisturbing = func(ctx context.Context, found []suite.Result) {
		progress.explains(found)
		why.of(ctx, found)
	}
	o.OnStart = progress.started
	o.OnResult = func(r suite.Result) {
		progress.ended(r)
		streams.result(r)
	}
	results, err := t.suite.Run(ctx, t.lab, o)
	progress.clear()
	if err != nil {
		return false, errors.Join(err, streams.close())
	}
	if t.f.repeat == 0 && results.Interrupted && t.made > 0 && results.Count(suite.Fail) == 0 {
		// Runs without end are ended in the midst of one, which does not count.
		return false, errors.Join(streams.end(results), streams.close())
	}
	t.made++
	results.About, results.Repeat = t.about, repeat
	why.of(ctx, results.Results) // if only what disturbs the lab failed
	why.add(results)
	if err := errors.Join(streams.end(results), streams.close()); err != nil {
		return false, err
	}
	if results.ExitCode() != exitPassed {
		t.unsound++
	}
	if t.worst == nil || worse(results.ExitCode(), t.worst.ExitCode()) {
		t.worst = results
		if _, err := report.Evidence(t.reports, results); err != nil {
			return false, err
		}
	}
	if repeat != nil && t.f.output.value == "text" {
		if err := t.tell(results); err != nil {
			return false, err
		}
	}
	last := ctx.Err() != nil || t.f.untilFail && results.ExitCode() != exitPassed
	return !last && (t.f.repeat == 0 || t.made < t.f.repeat), nil
}

// worse reports whether exit code a is worse than b: a fail is worse than what
// could not be judged.
func worse(a, b int) bool {
	order := []int{exitPassed, exitInconclusive, exitFailed}
	return slices.Index(order, a) > slices.Index(order, b)
}

// tell prints one of several runs: a line if all is well.
func (t *testRun) tell(r *suite.Results) error {
	number := fmt.Sprintf("run %d", t.made)
	if t.f.repeat > 0 {
		number += fmt.Sprintf(" of %d", t.f.repeat)
	}
	fmt.Fprintf(t.out, "%s: %s\n", number, report.Summary(r, report.TextOptions{Color: colours(t.out)}))
	if r.ExitCode() == exitPassed {
		return nil
	}
	return report.Text(t.out, unsoundOnly(r), report.TextOptions{Color: colours(t.out), Frames: t.f.frames})
}

// unsoundOnly leaves out what passed or did not apply.
func unsoundOnly(r *suite.Results) *suite.Results {
	out := *r
	out.Results = slices.DeleteFunc(slices.Clone(r.Results), func(x suite.Result) bool {
		return x.Verdict != suite.Fail && x.Verdict != suite.Inconclusive
	})
	return &out
}

// end prints the report of the worst run, and exits with its code.
func (t *testRun) end() error {
	r := t.worst
	if r.Repeat != nil {
		r.Repeat.Runs, r.Repeat.Unsound = t.made, t.unsound
		if _, err := report.Evidence(t.reports, r); err != nil {
			return err
		}
	}
	var err error
	switch {
	case t.f.output.value == "jsonl": // it was printed as it came
	case t.f.output.value == "text" && r.Repeat != nil:
		_, err = fmt.Fprintf(t.out, "%d runs, %d of them not sound\n", t.made, t.unsound)
	case t.f.output.value == "text":
		err = report.Text(t.out, r, report.TextOptions{Color: colours(t.out), Frames: t.f.frames})
	default:
		err = report.Write(t.out, t.f.output.value, r)
	}
	if err == nil {
		err = writeReports(t.f.reports, r)
	}
	if err != nil {
		return err
	}
	if code := r.ExitCode(); code != exitPassed {
		return &exitError{code: code}
	}
	return nil
}

// resultStreams are where results go as they come: to the state folder, so that
// something is left of a run that is killed, and to standard output if JSON
// lines are asked for.
type resultStreams struct {
	all  []*report.Stream
	file *os.File
}

// openStreams replaces the last report in the lab's state folder.
func (t *testRun) openStreams(repeat *suite.Repeat) (*resultStreams, error) {
	s := new(resultStreams)
	head := &suite.Results{Lab: t.lab.Plan().Name, Provider: t.lab.Plan().Provider, Started: time.Now(), About: t.about, Repeat: repeat}
	if t.worst == nil {
		dir := t.reports
		if err := os.RemoveAll(dir); err != nil {
			return nil, fmt.Errorf("remove the last report: %w", err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make the folder of the report: %w", err)
		}
		var err error
		if s.file, err = os.Create(filepath.Join(dir, report.StreamFile)); err != nil {
			return nil, fmt.Errorf("begin the report: %w", err)
		}
		s.all = append(s.all, report.NewStream(s.file, head, t.selected))
	}
	if t.f.output.value == "jsonl" {
		s.all = append(s.all, report.NewStream(t.out, head, t.selected))
	}
	return s, nil
}

func (s *resultStreams) result(r suite.Result) {
	for _, x := range s.all {
		x.Result(r)
	}
}

func (s *resultStreams) end(r *suite.Results) error {
	var errs []error
	for _, x := range s.all {
		errs = append(errs, x.End(r))
	}
	return errors.Join(errs...)
}

func (s *resultStreams) close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// about says what is judged.
func about(lab topology.Lab, f testFlags, selection suite.Selection) *suite.About {
	p := lab.Plan()
	a := &suite.About{
		Overlab: buildVersion(), Agent: agentOf(p), Backend: p.Network.Backend.Type, Network: p.Network.Network.String(),
		Nodes: len(p.Nodes), Pods: len(p.Pods), Platform: runtime.GOOS + "/" + runtime.GOARCH, Processors: runtime.NumCPU(),
		Levels: selection.Levels, Checks: selection.Only, Profiles: selection.Profiles,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		a.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	if cluster, ok := lab.(*kubernetes.Lab); ok {
		m := cluster.Machine()
		a.Kernel, a.Platform, a.Processors = m.Kernel, m.Platform, m.Processors
		name, version := cluster.Found().Network.Agent()
		a.Agent = suite.Agent{Name: cmp.Or(name, p.Network.Backend.Type), Version: version}
	}
	if f.agent != "" {
		a.Agent.Name, a.Agent.Version, _ = strings.Cut(f.agent, "@")
	}
	return a
}

// agentOf is the agent of the first node that has one. Of a program that is not
// the bundled one the version is not asked: it might not know the flag, and
// begin to work.
func agentOf(p *topology.Plan) suite.Agent {
	for i := range p.Nodes {
		switch a := p.Nodes[i].Agent; {
		case a.ByHand:
		case len(a.Command) == 0:
			return suite.Agent{Name: "overlabd", Version: buildVersion(), Command: []string{"overlabd"}}
		default:
			return suite.Agent{Name: filepath.Base(a.Command[0]), Command: a.Command}
		}
	}
	return suite.Agent{Name: "by hand"}
}
