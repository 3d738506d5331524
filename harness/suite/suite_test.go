package suite_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/onsi/gomega"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

func check(id string, run func(context.Context, *suite.Env) error) suite.Check {
	return suite.Check{ID: id, Title: "something is true", Run: run}
}

func pass(context.Context, *suite.Env) error { return nil }

func newSuite(t testing.TB, checks ...suite.Check) *suite.Suite {
	t.Helper()
	s, err := suite.New(checks)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, lab topology.Lab, o suite.Options, checks ...suite.Check) *suite.Results {
	t.Helper()
	r, err := newSuite(t, checks...).Run(t.Context(), lab, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestNewRefuses(t *testing.T) {
	_, err := suite.New([]suite.Check{check("A-01", pass), check("A-01", pass), check("", pass), {ID: "A-02", Title: "x"}})
	for _, want := range []string{"check A-01: there are two", "check 2 (\"\")", "check 3 (\"A-02\")"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestSelect(t *testing.T) {
	s := newSuite(t,
		suite.Check{ID: "TTL-01", Title: "x", Run: pass, Profiles: []string{"model"}},
		suite.Check{ID: "WF-01", Title: "x", Run: pass, Profiles: []string{"vxlan"}, Level: suite.Strict},
		suite.Check{ID: "WF-02", Title: "x", Run: pass, Profiles: []string{"vxlan", "model"}},
	)
	for _, c := range []struct {
		sel  suite.Selection
		want string
	}{
		{suite.Selection{}, "TTL-01 WF-01 WF-02"},
		{suite.Selection{Only: []string{"wf"}}, "WF-01 WF-02"},
		{suite.Selection{Only: []string{"WF-02$", "TTL-0[12]"}}, "TTL-01 WF-02"},
		{suite.Selection{Levels: []suite.Level{suite.Core}}, "TTL-01 WF-02"},
		{suite.Selection{Profiles: []string{"model"}, Skip: []string{"TTL"}}, "WF-02"},
		{suite.Selection{Only: []string{"F-01"}}, "error: none of TTL-01, WF-01, WF-02 matches"},
		{suite.Selection{Only: []string{"("}}, "error: missing closing )"},
		{suite.Selection{Skip: []string{"nothing"}}, "error: skip checks \"nothing\""},
		{suite.Selection{Levels: []suite.Level{"X"}}, "error: no check has level \"X\""},
		{suite.Selection{Profiles: []string{"vxlna"}}, "error: no check has profile \"vxlna\""},
	} {
		list, err := s.Select(c.sel)
		var ids []string
		for _, check := range list {
			ids = append(ids, check.ID)
		}
		got := strings.Join(ids, " ")
		if want, isErr := strings.CutPrefix(c.want, "error: "); isErr {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v, want an error about %q", c.sel, err, want)
			}
		} else if err != nil || got != c.want {
			t.Errorf("%+v: %q, %v, want %q", c.sel, got, err, c.want)
		}
	}
}

// TestVerdicts: however a check ends, it has a verdict and a reason.
func TestVerdicts(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	hung := make(chan struct{})
	t.Cleanup(func() { close(hung) })
	o := suite.Options{
		Timeouts: suite.DefaultTimeouts(), Parallel: 20, Unsupported: []suite.Feature{suite.VXLAN},
		Select: suite.Selection{Skip: []string{"SKIP"}},
	}
	o.Timeouts.Check = 100 * time.Millisecond
	for _, c := range []struct {
		check   suite.Check
		verdict suite.Verdict
		says    string
	}{
		{check("PASS", pass), suite.Pass, ""},
		{check("FAIL", func(_ context.Context, e *suite.Env) error {
			e.Fail("node-1", "this", "that")
			return nil
		}), suite.Fail, "node-1: expected this, seen that"},
		{check("FAIL-INCOMPLETE", func(_ context.Context, e *suite.Env) error {
			e.Fail("node-1", "this", "that")
			return errors.New("and then it broke")
		}), suite.Fail, "and then it broke"},
		{check("ERROR", func(context.Context, *suite.Env) error { return errors.New("no socket") }), suite.Inconclusive, "no socket"},
		{check("INCONCLUSIVE", func(context.Context, *suite.Env) error {
			return fmt.Errorf("wrapped: %w", suite.Inconclusivef("%d frames lost", 7))
		}), suite.Inconclusive, "wrapped: 7 frames lost"},
		{check("NA", func(context.Context, *suite.Env) error { return suite.NotApplicablef("there is no %s", "pod") }), suite.NotApplicable, "there is no pod"},
		{check("PANIC", func(context.Context, *suite.Env) error { panic("oh") }), suite.Inconclusive, "the check panicked: oh"},
		{check("GOEXIT", func(context.Context, *suite.Env) error { runtime.Goexit(); return nil }), suite.Inconclusive, "ended its goroutine"},
		{check("SLOW", func(ctx context.Context, _ *suite.Env) error {
			<-ctx.Done()
			return context.Cause(ctx)
		}), suite.Inconclusive, "the check took longer than 100ms"},
		{check("SLOW-FAIL", func(ctx context.Context, e *suite.Env) error {
			e.Fail("node-1", "this", "that")
			<-ctx.Done()
			return context.Cause(ctx)
		}), suite.Fail, "seen that"},
		{check("HANGS", func(_ context.Context, e *suite.Env) error {
			<-hung
			e.Fail("too", "late", "to count")
			return nil
		}), suite.Inconclusive, "and it does not stop"},
		{check("SKIP", pass), suite.Skipped, "by the selection"},
		{suite.Check{ID: "NEEDS", Title: "x", Run: pass, Needs: []suite.Feature{suite.Peers}}, suite.NotApplicable, "the lab has no second node"},
		{suite.Check{ID: "DECLARED", Title: "x", Run: pass, Needs: []suite.Feature{suite.VXLAN}}, suite.Unsupported, "the agent declares that it has no vxlan backend"},
	} {
		t.Run(c.check.ID, func(t *testing.T) {
			o := o
			if c.check.ID != "SKIP" {
				o.Select = suite.Selection{}
			}
			r := run(t, lab, o, c.check).Results[0]
			said := fmt.Sprint(r.Reason, r.Findings)
			if r.Verdict != c.verdict || !strings.Contains(said, c.says) || r.ID != c.check.ID {
				t.Errorf("%s %s %s, want %s, %q", r.ID, r.Verdict, said, c.verdict, c.says)
			}
		})
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		verdicts []suite.Verdict
		want     int
	}{
		{nil, 3},
		{[]suite.Verdict{suite.Pass}, 0},
		{[]suite.Verdict{suite.Pass, suite.Skipped, suite.NotApplicable, suite.Unsupported}, 0},
		{[]suite.Verdict{suite.Pass, suite.Inconclusive, suite.Fail}, 1},
		{[]suite.Verdict{suite.Pass, suite.Inconclusive}, 3},
		{[]suite.Verdict{suite.Inconclusive}, 3},
		{[]suite.Verdict{suite.Skipped, suite.NotApplicable}, 3},
	} {
		var r suite.Results
		for _, v := range c.verdicts {
			r.Results = append(r.Results, suite.Result{Verdict: v})
		}
		if got := r.ExitCode(); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.verdicts, got, c.want)
		}
	}
}

// TestDisturbingRunsAlone: never beside another, and after it nothing that
// was seen before is believed.
func TestDisturbingRunsAlone(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	var running, most, beside atomic.Int32
	work := func(disturbs bool) func(context.Context, *suite.Env) error {
		return func(ctx context.Context, e *suite.Env) error {
			n := running.Add(1)
			defer running.Add(-1)
			most.Store(max(most.Load(), n))
			s, err := e.Session(ctx, "master")
			if err != nil {
				return err
			}
			for range 20 {
				if _, err := s.State(ctx); err != nil {
					return err
				}
			}
			if disturbs && running.Load() > 1 {
				beside.Add(1)
			}
			return nil
		}
	}
	var dumps [2]*probe.State
	var checks []suite.Check
	for i := range 8 {
		checks = append(checks, check(fmt.Sprintf("H-%d", i), work(false)))
	}
	for i := range 2 {
		c := check(fmt.Sprintf("D-%d", i), func(ctx context.Context, e *suite.Env) error {
			var err error
			if dumps[i], err = e.State(ctx, "master"); err != nil {
				return err
			}
			if again, err := e.State(ctx, "master"); err != nil || again != dumps[i] {
				return errors.New("two dumps within one check")
			}
			return work(true)(ctx, e)
		})
		c.Disturbs = true
		checks = append([]suite.Check{c}, checks...)
	}
	var started, ended []string
	r := run(t, lab, suite.Options{
		Parallel: 3,
		OnStart:  func(c suite.Check) { started = append(started, c.ID) },
		OnResult: func(r suite.Result) { ended = append(ended, r.ID) },
	}, checks...)
	if r.Count(suite.Pass) != len(checks) {
		t.Errorf("%+v", r.Results)
	}
	if most.Load() < 2 || most.Load() > 3 || beside.Load() != 0 {
		t.Errorf("%d checks ran at once, want 2 to 3; %d beside a disturbing one", most.Load(), beside.Load())
	}
	if dumps[0] == dumps[1] {
		t.Error("a dump outlived a check that disturbs")
	}
	if r.Results[0].ID != "D-1" || r.States["master"] == nil {
		t.Errorf("first result %s; dumps %v", r.Results[0].ID, r.States)
	}
	if len(started) != len(checks) || len(ended) != len(checks) || !slices.Contains(started[8:], "D-0") {
		t.Errorf("started %v, ended %v", started, ended)
	}
}

// Disturbing checks of two parts of the lab meet, those of one part and those
// of none do not.
func TestParts(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	running := map[string]*atomic.Int32{"a": {}, "b": {}, "": {}}
	met := map[string]chan struct{}{"a": make(chan struct{}), "b": make(chan struct{})}
	disturbing := func(id, part string, meets string) suite.Check {
		c := check(id, func(ctx context.Context, _ *suite.Env) error {
			if n := running[part].Add(1); n > 1 {
				return fmt.Errorf("%d of part %q at once", n, part)
			}
			defer running[part].Add(-1)
			if part == "" && running["a"].Load()+running["b"].Load() > 0 {
				return errors.New("not alone")
			}
			if meets == "" {
				return nil
			}
			close(met[part])
			select {
			case <-met[meets]:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		c.Disturbs, c.Part = true, part
		return c
	}
	r := run(t, lab, suite.Options{}, disturbing("Z", "", ""), disturbing("A-1", "a", "b"), disturbing("A-2", "a", ""),
		disturbing("B-1", "b", "a"), disturbing("B-2", "b", ""), disturbing("Y", "", ""))
	for _, res := range r.Results {
		if res.Verdict != suite.Pass {
			t.Errorf("%s: %s %s", res.ID, res.Verdict, res.Reason)
		}
	}
}

func TestInterrupted(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newSuite(t,
		check("A", func(ctx context.Context, _ *suite.Env) error {
			cancel(errors.New("Ctrl-C"))
			<-ctx.Done()
			return context.Cause(ctx)
		}),
		check("B", pass))
	r, err := s.Run(ctx, lab, suite.Options{Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	if r.Results[0].Verdict != suite.Inconclusive || r.Results[0].Reason != "Ctrl-C" ||
		r.Results[1].Verdict != suite.Skipped || r.Results[1].Reason != "the run was interrupted" {
		t.Errorf("%+v", r.Results)
	}
}

// closed is a lab that cannot be entered.
type closed struct{ topology.Lab }

func (closed) Namespace(string) (topology.Namespace, error) { return nil, topology.ErrNoLab }

func TestNothingRuns(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	s := newSuite(t, check("A", pass))
	if _, err := s.Run(t.Context(), closed{lab}, suite.Options{}); !errors.Is(err, topology.ErrNoLab) {
		t.Errorf("a lab that cannot be entered: %v", err)
	}
	if _, err := s.Run(t.Context(), lab, suite.Options{Select: suite.Selection{Only: []string{"Z"}}}); err == nil {
		t.Error("a selection of nothing: no error")
	}
}

func TestExpect(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	good := probe.Link{Name: "eth0", MTU: 1450}
	r := run(t, lab, suite.Options{}, check("A", func(_ context.Context, e *suite.Env) error {
		for range 150 {
			if e.Expect("ok", good, match.HaveMTU(1450)) {
				e.Expect("node-1", &good, match.HaveMTU(1400))
			}
		}
		return nil
	}), check("B", func(_ context.Context, e *suite.Env) error {
		e.Expect("a", 1, gomega.Equal(2))
		e.Expect("b", 1, match.HaveMTU(2))
		return nil
	}))
	a, b := r.Results[0], r.Results[1]
	if len(a.Findings) != 100 || a.More != 50 || a.Findings[0].String() != "node-1: expected mtu 1400, seen eth0 has mtu 1450" {
		t.Errorf("%d findings and %d more, first %s", len(a.Findings), a.More, a.Findings[0])
	}
	if len(b.Findings) != 2 || !strings.Contains(b.Findings[0].Seen, "to equal") || !strings.Contains(b.Findings[1].Seen, "int given to a matcher that takes probe.Link") {
		t.Errorf("%v", b.Findings)
	}
}

func TestSharedIsMadeOnce(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	var made, failed atomic.Int32
	use := func(_ context.Context, e *suite.Env) error {
		v, err := suite.Shared(e, "number", func(context.Context) (int, error) { return int(made.Add(1)), nil })
		if err != nil || v != 1 {
			return fmt.Errorf("%d, %w", v, err)
		}
		_, err = suite.Shared(e, "broken", func(context.Context) (string, error) {
			failed.Add(1)
			return "", errors.New("broken")
		})
		if err == nil {
			return errors.New("no error")
		}
		return nil
	}
	r := run(t, lab, suite.Options{}, check("A", use), check("B", use), check("C", use))
	if r.Count(suite.Pass) != 3 || made.Load() != 1 || failed.Load() != 3 {
		t.Errorf("made %d times, failed %d times: %+v", made.Load(), failed.Load(), r.Results)
	}
}

// TestCite: one frame that two checks cite is one frame of the report.
func TestCite(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	at, id := time.Now(), uuid.New()
	frame := capture.Frame{Tap: "master:ens3", Time: at, Data: []byte("not much of a frame"), Length: 99}
	cite := func(_ context.Context, e *suite.Env) error {
		e.Cite(frame, id)
		e.Cite(frame, id)
		return nil
	}
	r := run(t, lab, suite.Options{Parallel: 1}, check("B", cite), check("A", cite))
	if len(r.Frames) != 1 || !slices.Equal(r.Frames[0].Checks, []string{"A", "B"}) || r.Frames[0].Number != 1 {
		t.Errorf("%+v", r.Frames)
	}
	for _, res := range r.Results {
		if !slices.Equal(res.Frames, []int{1}) {
			t.Errorf("%s cites %v", res.ID, res.Frames)
		}
	}
}

func TestTimeoutsScale(t *testing.T) {
	s := suite.DefaultTimeouts().Scale(2)
	if s.Reply != 800*time.Millisecond || s.Tries != 3 || s.Check != 2*time.Minute {
		t.Errorf("%+v", s)
	}
}

func TestCaptureErrors(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	nothing := func(context.Context) error { return nil }
	r := run(t, lab, suite.Options{},
		check("A", func(ctx context.Context, e *suite.Env) error {
			_, err := e.Capture(ctx, []suite.Point{{Node: "master", Interface: "nope"}}, nothing)
			return err
		}),
		check("B", func(ctx context.Context, e *suite.Env) error {
			_, err := e.Capture(ctx, []suite.Point{{Node: "nobody", Interface: "ens3"}}, nothing)
			return err
		}),
		check("C", func(ctx context.Context, e *suite.Env) error {
			_, err := e.Capture(ctx, []suite.Point{{Node: "master", Interface: "ens3"}}, func(context.Context) error { return errors.New("nothing done") })
			return err
		}))
	for i, want := range []string{"capture on master:nope", "nobody", "nothing done"} {
		if res := r.Results[i]; res.Verdict != suite.Inconclusive || !strings.Contains(res.Reason, want) {
			t.Errorf("%s: %s %s, want inconclusive: %s", res.ID, res.Verdict, res.Reason, want)
		}
	}
}

// TestRestore: what a check changes is put back, the last first, however the
// check ends; that it could not be is told.
func TestRestore(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	var order []string
	restore := func(e *suite.Env, name string, err error) {
		e.Restore(name, func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Errorf("%s is put back with a context that has ended", name)
			}
			order = append(order, name)
			return err
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	s := newSuite(t,
		check("A", func(_ context.Context, e *suite.Env) error {
			restore(e, "a1", nil)
			restore(e, "a2", nil)
			return nil
		}),
		check("B", func(_ context.Context, e *suite.Env) error {
			restore(e, "b", nil)
			panic("no")
		}),
		check("C", func(_ context.Context, e *suite.Env) error {
			restore(e, "c", errors.New("it broke"))
			return nil
		}),
		check("D", func(_ context.Context, e *suite.Env) error {
			restore(e, "d", errors.New("it broke"))
			e.Fail("x", "y", "z")
			return nil
		}),
		check("E", func(ctx context.Context, e *suite.Env) error {
			restore(e, "e", nil)
			cancel(errors.New("Ctrl-C"))
			<-ctx.Done()
			return context.Cause(ctx)
		}))
	r, err := s.Run(ctx, lab, suite.Options{Parallel: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "a2 a1 b c d e" {
		t.Errorf("put back: %s", got)
	}
	for i, want := range []suite.Verdict{suite.Pass, suite.Inconclusive, suite.Inconclusive, suite.Fail, suite.Inconclusive} {
		if res := r.Results[i]; res.Verdict != want {
			t.Errorf("%s is %s (%s), not %s", res.ID, res.Verdict, res.Reason, want)
		}
	}
	if why := r.Results[2].Reason; why != "c is not as before the check: it broke" {
		t.Errorf("reason %q", why)
	}
}

// growing is a lab whose plan another pod joins with each look.
type growing struct {
	topology.Lab
	pods int
}

func (g *growing) Plan() *topology.Plan {
	p := *g.Lab.Plan()
	g.pods++
	p.Name = fmt.Sprintf("lab-%d", g.pods)
	return &p
}

// TestReplayOfARenewedPlan: checks are replayed with the plan that they ran with,
// also where one that comes before them in the catalogue ran after them, and
// renewed it.
func TestReplayOfARenewedPlan(t *testing.T) {
	lab := &growing{Lab: labtest.Up(t, labtest.Plan(1, 1, 1500))}
	plan := func(_ context.Context, e *suite.Env) error {
		e.Evidence("%s", e.Plan().Name)
		return nil
	}
	alone, part := check("A", func(ctx context.Context, e *suite.Env) error {
		defer plan(ctx, e)
		return e.Renew(ctx, "master")
	}), check("B", plan)
	alone.Disturbs, part.Disturbs, part.Part = true, true, "part"
	s := newSuite(t, alone, part, check("C", plan))
	r, err := s.Run(t.Context(), lab, suite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := r.Results[0].Evidence, r.Results[1].Evidence; a == b || b != r.Results[2].Evidence {
		t.Errorf("the plans are %s and %s", a, b)
	}
	v, err := s.Verify(t.Context(), r)
	if err != nil || v.Count(suite.Holds) != 3 {
		t.Errorf("%+v, %v", v, err)
	}
}
