package suite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Options say what to run and how.
type Options struct {
	Select Selection
	// Timeouts is DefaultTimeouts if zero.
	Timeouts Timeouts
	// Parallel is how many harmless checks run at once, 4 if zero.
	Parallel int
	// MaxPairs bounds how many pairs of pods one check tries, 4096 if zero;
	// a check that tries fewer than there are says so.
	MaxPairs int
	// Ring is the size of each capture's buffer; if zero, 2 MiB in blocks that
	// suit the small packets of probes and a reader that is 256 ms late.
	Ring capture.Ring
	// Spare, where set, says why nothing of the lab may be changed: checks that
	// disturb it or forge frames are not applicable for that reason.
	Spare string
	// Unsupported features are those that the agent declares not to have.
	Unsupported []Feature
	// Exemptions are checks that the agent is declared to fail.
	Exemptions []Exemption
	// BeforeDisturbing, when set, is told what the checks that alter nothing have
	// found, before one that alters something begins: what is asked of the lab
	// then is asked of the lab that they have judged.
	BeforeDisturbing func(ctx context.Context, found []Result)
	// OnStart and OnResult, when set, are told as a check begins and ends,
	// one call at a time.
	OnStart  func(Check)
	OnResult func(Result)
}

func (o *Options) defaults() {
	if o.Timeouts == (Timeouts{}) {
		o.Timeouts = DefaultTimeouts()
	}
	if o.Parallel < 1 {
		o.Parallel = 4
	}
	if o.Ring == (capture.Ring{}) {
		o.Ring = capture.Ring{BlockSize: 16 << 10, Blocks: 128, Retire: 2 * time.Millisecond}
	}
	if o.MaxPairs < 1 {
		o.MaxPairs = 4096
	}
}

// Run runs the selected checks against a lab. The error says that nothing
// could be run: the selection is wrong, or the lab cannot be entered. When
// ctx ends, what has not begun is skipped, and the results so far are valid.
func (s *Suite) Run(ctx context.Context, lab topology.Lab, o Options) (*Results, error) {
	list, err := s.choose(o.Select)
	if err != nil {
		return nil, err
	}
	r := newRun(ctx, lab, o)
	defer r.close()
	// A run that is interrupted before it begins has results, all skipped.
	if err := r.enter(ctx); err != nil && ctx.Err() == nil {
		return nil, err
	}
	r.record.observed(ctx, limitsKind, limits{r.o.Timeouts, r.o.MaxPairs}, nil)
	started := time.Now()
	results := make([]Result, len(list))
	r.harmless(ctx, list, results)
	if o.BeforeDisturbing != nil && ctx.Err() == nil {
		o.BeforeDisturbing(ctx, slices.DeleteFunc(slices.Clone(results), func(res Result) bool { return res.ID == "" }))
	}
	r.disturbing(ctx, list, results)
	r.record.close()
	out := r.results(results, started)
	out.Interrupted = ctx.Err() != nil
	return out, nil
}

// run is one run of a suite.
type run struct {
	lab topology.Lab
	// plan is the lab's when the run began, now that of after a restart.
	plan, now *topology.Plan
	o         Options
	features  []Feature
	// ctx outlives a check: what checks share must not end with the first.
	ctx context.Context

	sessions memos[*probe.Session]
	// memory is that of the checks that alter nothing.
	memory memory
	frames frames
	// record is what is measured; replay, in its place, is where it was.
	record *Record
	replay *replay
	// lacked says of checks what was not in the replayed record.
	lacked map[string]string
	// background is what ends by itself, and must before the run returns.
	background sync.WaitGroup
	report     sync.Mutex
}

func newRun(ctx context.Context, lab topology.Lab, o Options) *run {
	o.defaults()
	plan := lab.Plan()
	r := &run{lab: lab, plan: plan, now: plan, o: o, ctx: ctx, record: &Record{}}
	r.features = Features(r.plan)
	r.frames.port = uint16(r.plan.Network.Backend.Port)
	return r
}

// enter opens one session, to learn early whether the lab can be entered.
func (r *run) enter(ctx context.Context) error {
	if len(r.plan.Nodes) == 0 {
		return errors.New("the lab has no nodes")
	}
	_, err := r.session(ctx, r.plan.Nodes[0].Name)
	return err
}

func (r *run) close() {
	r.background.Wait()
	for _, s := range r.sessions.values() {
		_ = s.Close() // the sockets are gone either way, and nothing is lost
	}
}

func (r *run) session(ctx context.Context, name string) (*probe.Session, error) {
	return r.sessions.get(name, func() (*probe.Session, error) {
		if r.replay != nil {
			return r.replay.session(name), nil
		}
		ns, err := r.lab.Namespace(name)
		if err != nil {
			return nil, err
		}
		return r.open(ctx, name, ns)
	})
}

// open opens a session whose requests are recorded under a name.
func (r *run) open(ctx context.Context, name string, ns topology.Namespace) (*probe.Session, error) {
	session, err := probe.Enter(ctx, ns)
	if err != nil {
		return nil, err
	}
	session.Listen(r.record.heard(name))
	return session, nil
}

// planFor is what the lab is judged against.
func (r *run) planFor(over6 bool) *topology.Plan {
	if over6 {
		return r.now.Over6()
	}
	return r.now
}

// renew takes a new plan, and closes the sessions of a node and its pods.
func (r *run) renew(node string, plan *topology.Plan) {
	gone := []string{node}
	for _, p := range r.now.PodsOn(node) {
		gone = append(gone, p.Name)
	}
	for _, name := range gone {
		if s, open := r.sessions.drop(name); open {
			_ = s.Close() // its namespace is gone, and nothing is lost
		}
	}
	r.now = plan
}

func (r *run) harmless(ctx context.Context, list []chosen, results []Result) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, r.o.Parallel)
	for i, c := range list {
		if c.Disturbs && !c.skip {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			results[i] = r.one(ctx, c)
			<-slots
		})
	}
	wg.Wait()
}

// disturbing runs the checks of each part of the lab in their order, those of
// several parts side by side, and then those that must be alone.
func (r *run) disturbing(ctx context.Context, list []chosen, results []Result) {
	var alone []int
	parts := map[string][]int{}
	for i, c := range list {
		switch {
		case !c.Disturbs || c.skip:
		case c.Part == "":
			alone = append(alone, i)
		default:
			parts[c.Part] = append(parts[c.Part], i)
		}
	}
	inOrder := func(which []int) {
		for _, i := range which {
			results[i] = r.one(ctx, list[i])
		}
	}
	var wg sync.WaitGroup
	for _, which := range parts {
		wg.Go(func() { inOrder(which) })
	}
	wg.Wait()
	inOrder(alone)
}

// one runs one check, or says why it does not.
func (r *run) one(ctx context.Context, c chosen) Result {
	res := Result{
		ID: c.ID, Level: c.Level, Title: c.Title, Source: c.Source, Profiles: c.Profiles, Started: time.Now(),
	}
	missing := slices.IndexFunc(c.Needs, func(f Feature) bool { return !slices.Contains(r.features, f) })
	declared := slices.IndexFunc(c.Needs, func(f Feature) bool { return slices.Contains(r.o.Unsupported, f) })
	switch {
	case c.skip:
		res.Verdict, res.Reason = Skipped, "by the selection"
	case ctx.Err() != nil:
		res.Verdict, res.Reason = Skipped, "the run was interrupted"
	case missing >= 0:
		res.Verdict, res.Reason = NotApplicable, fmt.Sprintf("the lab has no %s", c.Needs[missing])
	case r.o.Spare != "" && c.Disturbs:
		res.Verdict, res.Reason = NotApplicable, "it disturbs the lab, and "+r.o.Spare
	case r.o.Spare != "" && c.Forges:
		res.Verdict, res.Reason = NotApplicable, "it forges frames on the underlay, and "+r.o.Spare
	case declared >= 0:
		res.Verdict, res.Reason = Unsupported, fmt.Sprintf("the agent declares that it has no %s", c.Needs[declared])
	default:
		r.tell(func() {
			if r.o.OnStart != nil {
				r.o.OnStart(c.Check)
			}
		})
		r.measure(ctx, c.Check, &res)
		r.exempt(&res)
	}
	res.Took = time.Since(res.Started)
	r.tell(func() {
		if r.o.OnResult != nil {
			r.o.OnResult(res)
		}
	})
	return res
}

// exempt changes a fail that was declared.
func (r *run) exempt(res *Result) {
	i := slices.IndexFunc(r.o.Exemptions, func(e Exemption) bool { return e.Check == res.ID })
	if i >= 0 && res.Verdict == Fail {
		res.Verdict, res.Reason = Exempt, "declared: "+r.o.Exemptions[i].Reason
	}
}

func (r *run) tell(f func()) {
	r.report.Lock()
	defer r.report.Unlock()
	f()
}

// grace is how long a check may take to notice that its time is over.
const grace = time.Second

// measure calls the check's function. Neither a panic nor a function that
// never returns loses the verdict.
func (r *run) measure(ctx context.Context, c Check, res *Result) {
	limit := r.o.Timeouts.Check
	if c.Disturbs {
		limit += r.o.Timeouts.Outage
	}
	ctx, cancel := context.WithTimeoutCause(withScope(ctx, c.ID), limit, Inconclusivef("the check took longer than %v", limit))
	defer cancel()
	env := &Env{run: r, id: c.ID, plan: r.planFor(c.OverIPv6), over6: c.OverIPv6, memory: &r.memory, own: c.Disturbs}
	if env.own {
		env.memory = new(memory)
	}
	done := make(chan error, 1)
	go func() {
		err := errors.New("the check ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = Inconclusivef("the check panicked: %v\n%s", p, debug.Stack())
			}
			done <- err
		}()
		err = c.Run(ctx, env)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(grace):
			err = fmt.Errorf("%w, and it does not stop", context.Cause(ctx))
		}
	}
	restoring, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.o.Timeouts.Restart)
	defer cancel()
	if left := env.restored(restoring); err == nil {
		err = left
	} else if left != nil {
		err = fmt.Errorf("%w; %w", err, left)
	}
	r.lacks(c.ID, err)
	env.seal(res)
	if env.own {
		r.keep(env.memory.states.all())
	}
	res.Verdict, res.Reason = verdict(res.Findings, err)
}

func (r *run) results(list []Result, started time.Time) *Results {
	return &Results{
		Lab: r.plan.Name, Provider: r.plan.Provider,
		Started: started, Took: time.Since(started),
		Results: list, Frames: r.frames.list(),
		Spare: r.o.Spare,
		Plan:  r.plan, States: r.memory.states.all(), Record: r.record,
	}
}

// keep adds to what the report shows of namespaces that no harmless check has
// looked at.
func (r *run) keep(states map[string]*probe.State) {
	for name, st := range states {
		// The state that is there stays, and what makes it cannot fail.
		_, _ = r.memory.states.get(name, func() (*probe.State, error) { return st, nil })
	}
}

// memory is what checks measure once.
type memory struct {
	states memos[*probe.State]
	shared memos[any]
}

// memos keeps values that are made once, by name. What could not be made is
// tried again by the next who asks.
type memos[T any] struct {
	mu sync.Mutex
	m  map[string]*memo[T]
}

type memo[T any] struct {
	mu    sync.Mutex
	made  bool
	value T
}

func (ms *memos[T]) get(name string, create func() (T, error)) (T, error) {
	ms.mu.Lock()
	if ms.m == nil {
		ms.m = map[string]*memo[T]{}
	}
	m := ms.m[name]
	if m == nil {
		m = new(memo[T])
		ms.m[name] = m
	}
	ms.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.made {
		return m.value, nil
	}
	v, err := create()
	if err == nil {
		m.value, m.made = v, true
	}
	return v, err
}

// drop forgets one value, and returns it if there is one.
func (ms *memos[T]) drop(name string) (value T, there bool) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.m[name]
	delete(ms.m, name)
	if m == nil {
		return value, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.value, m.made
}

// all returns every value.
func (ms *memos[T]) all() map[string]T {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	out := map[string]T{}
	for name, m := range ms.m {
		m.mu.Lock()
		if m.made {
			out[name] = m.value
		}
		m.mu.Unlock()
	}
	return out
}

func (ms *memos[T]) values() []T { return slices.Collect(maps.Values(ms.all())) }
