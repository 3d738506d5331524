package suite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/onsi/gomega/types"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Env is what a check sees: the lab, the means to measure it, and a record of
// what it found. It is safe for concurrent use.
type Env struct {
	run *run
	id  string
	// over6 says that the check judges the plan over IPv6.
	over6 bool
	// memory is all harmless checks', or that of one which disturbs the lab: it
	// must not be judged by what others saw before.
	memory *memory
	own    bool

	mu       sync.Mutex
	plan     *topology.Plan
	sealed   bool
	evidence string
	findings []Finding
	more     int
	frames   []int
	restores []restore
}

// restore puts back one thing that a check changes.
type restore struct {
	what string
	do   func(context.Context) error
}

// Lab returns the lab.
func (e *Env) Lab() topology.Lab { return e.run.lab }

// Plan returns the plan that the lab is judged against, over IPv6 for a check
// that says so.
func (e *Env) Plan() *topology.Plan {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.plan
}

// Renew takes the lab's plan anew, and drops the sessions of a node and its
// pods: after their machine has restarted they are other namespaces. Only a check
// that runs alone may ask for it.
func (e *Env) Renew(ctx context.Context, node string) error {
	plan, err := Observe(ctx, e, "the plan after "+node+" has restarted", func() (*topology.Plan, error) { return e.run.lab.Plan(), nil })
	if err != nil {
		return err
	}
	e.run.renew(node, plan)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plan = e.run.planFor(e.over6)
	return nil
}

// Timeouts returns the run's table.
func (e *Env) Timeouts() Timeouts { return e.run.o.Timeouts }

// Session returns the probe session of a node or pod. All checks share it.
// Streams, monitors and recordings are Env's, which keeps what they saw.
func (e *Env) Session(ctx context.Context, name string) (*probe.Session, error) {
	return e.run.session(ctx, name)
}

// OpenSession opens a session in a namespace of the check's own, which a replay
// knows by its name. The caller closes it.
func (e *Env) OpenSession(ctx context.Context, name string, namespace func() topology.Namespace) (*probe.Session, error) {
	if p := e.run.replay; p != nil {
		return p.session(name), nil
	}
	return e.run.open(ctx, name, namespace())
}

// State returns the state of a node or pod, dumped once: checks that run side
// by side judge the same dump. A check that disturbs the lab has dumps of its
// own, and asks the Session where it wants to see what it did.
func (e *Env) State(ctx context.Context, name string) (*probe.State, error) {
	st, err := e.memory.states.get(name, func() (*probe.State, error) {
		s, err := e.Session(ctx, name)
		if err != nil {
			return nil, err
		}
		return s.State(withScope(ctx, e.scope("states")))
	})
	e.run.lacks(e.id, err)
	return st, err
}

// scope is that of what is shared under a name.
func (e *Env) scope(name string) string {
	if e.own {
		return e.id + ", " + name
	}
	return name
}

// Shared returns what make makes, made once and shared by all checks that ask
// under the same key; a check that disturbs the lab shares nothing. The context that make gets does not end with the check.
func Shared[T any](e *Env, key string, create func(context.Context) (T, error)) (T, error) {
	v, err := e.memory.shared.get(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(e.run.ctx, e.Timeouts().Check)
		defer cancel()
		return create(withScope(ctx, e.scope(key)))
	})
	e.run.lacks(e.id, err)
	t, _ := v.(T)
	return t, err
}

// Evidence states in one line what was measured.
func (e *Env) Evidence(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.sealed {
		e.evidence = fmt.Sprintf(format, args...)
	}
}

// Restore registers what puts back a change, before it is made; what says what
// will be as it was, as "node-1's agent". It runs when the check is over,
// however it ended, also when the run was interrupted; those registered last
// run first. An error makes a pass inconclusive: what comes after may be judged
// by a lab that is not whole.
func (e *Env) Restore(what string, do func(context.Context) error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.restores = append(e.restores, restore{what, do})
}

// putBack runs what was registered.
func (e *Env) putBack(ctx context.Context) error {
	e.mu.Lock()
	restores := e.restores
	e.restores = nil
	e.mu.Unlock()
	var errs []error
	for _, r := range slices.Backward(restores) {
		if err := r.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s is not as before the check: %w", r.what, err))
		}
	}
	return errors.Join(errs...)
}

// maxFindings is how many findings a result holds: at scale one fault shows
// in thousands of places.
const maxFindings = 100

// Fail records that something is not as it ought to be. where names the node,
// pod or flow.
func (e *Env) Fail(where, expected, seen string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.sealed:
	case len(e.findings) < maxFindings:
		e.findings = append(e.findings, Finding{Where: where, Expected: expected, Seen: seen})
	default:
		e.more++
	}
}

// Expect records a finding unless the matcher accepts the value, and reports
// whether it does.
func (e *Env) Expect(where string, actual any, m types.GomegaMatcher) bool {
	ok, err := m.Match(actual)
	switch {
	case err != nil:
		e.Fail(where, "a value that can be judged", err.Error())
	case ok:
		return true
	default:
		if x, can := m.(match.Explainer); can {
			expected, seen := x.Explain(actual)
			e.Fail(where, expected, seen)
		} else {
			e.Fail(where, "a match", m.FailureMessage(actual))
		}
	}
	return false
}

// Cite records a frame as evidence; id is the identifier that it carries.
func (e *Env) Cite(f capture.Frame, id uuid.UUID) {
	n := e.run.frames.cite(f, id, e.id)
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.sealed && !slices.Contains(e.frames, n) {
		e.frames = append(e.frames, n)
	}
}

// seal moves the record into the result; a check that goes on after its time
// cannot change it any more.
func (e *Env) seal(r *Result) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sealed = true
	r.Evidence, r.Findings, r.More, r.Frames = e.evidence, e.findings, e.more, e.frames
}

// frames collects the cited frames of a run. A frame that several checks cite
// is kept once.
type frames struct {
	port uint16
	mu   sync.Mutex
	all  []Frame
}

func (fs *frames) cite(f capture.Frame, id uuid.UUID, check string) int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range fs.all {
		have := &fs.all[i]
		if have.Tap == f.Tap && have.Time.Equal(f.Time) && have.Probe == id && have.Direction == f.Direction {
			if !slices.Contains(have.Checks, check) {
				have.Checks = append(have.Checks, check)
			}
			return have.Number
		}
	}
	p := f.Decode(fs.port)
	fs.all = append(fs.all, Frame{
		Number: len(fs.all) + 1, Tap: f.Tap, Time: f.Time, Direction: f.Direction, Length: f.Length,
		Probe: id, Lines: p.Lines(), Checks: []string{check}, Captured: f,
	})
	return len(fs.all)
}

func (fs *frames) list() []Frame {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i := range fs.all {
		slices.Sort(fs.all[i].Checks)
	}
	return slices.Clone(fs.all)
}
