package capture

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/net/bpf"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// The kinds of requests by which a tap is used from elsewhere: tapRequest and
// the tap's number; takeRequest and taken; a number and nothing.
const (
	kindOpen  = "tap-open"
	kindTake  = "tap-take"
	kindClose = "tap-close"
)

// tapRequest is what a far tap is opened with. The filter is assembled already.
type tapRequest struct {
	Interface string               `json:"interface"`
	Program   []bpf.RawInstruction `json:"program"`
	SnapLen   int                  `json:"snapLen"`
	Ring      Ring                 `json:"ring"`
	MaxBytes  int                  `json:"maxBytes"`
}

// takeRequest asks for the frames since the last time; with Flush, for all that
// passed before it, as Tap.Flush has it, within Wait.
type takeRequest struct {
	ID    uint64        `json:"id"`
	Flush bool          `json:"flush,omitempty"`
	Wait  time.Duration `json:"wait,omitempty"`
}

type taken struct {
	Frames  []Frame `json:"frames"`
	Stats   Stats   `json:"stats"`
	Signals uint64  `json:"signals"`
}

// A Server opens taps in one namespace for who is elsewhere.
type Server struct {
	ns   topology.Namespace
	mu   sync.Mutex
	last uint64
	taps map[uint64]*Tap
}

// NewServer makes a server of taps in a namespace of this machine.
func NewServer(ns topology.Namespace) *Server {
	return &Server{ns: ns, taps: map[uint64]*Tap{}}
}

// Handlers are the server's part of a probe session (probe.Serve).
func (v *Server) Handlers() map[string]probe.Handler {
	return map[string]probe.Handler{
		kindOpen:  probe.HandlerOf(v.open),
		kindTake:  probe.HandlerOf(v.take),
		kindClose: probe.HandlerOf(func(_ context.Context, id uint64) (struct{}, error) { return struct{}{}, v.end(id) }),
	}
}

// Close ends all taps.
func (v *Server) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for id, t := range v.taps {
		errs = append(errs, t.Close())
		delete(v.taps, id)
	}
	return errors.Join(errs...)
}

func (v *Server) open(_ context.Context, r tapRequest) (uint64, error) {
	t, err := Open(v.ns, Options{Interface: r.Interface, SnapLen: r.SnapLen, Ring: r.Ring, MaxBytes: r.MaxBytes, program: r.Program})
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.last++
	v.taps[v.last] = t
	return v.last, nil
}

func (v *Server) take(ctx context.Context, r takeRequest) (taken, error) {
	v.mu.Lock()
	t := v.taps[r.ID]
	v.mu.Unlock()
	if t == nil {
		return taken{}, fmt.Errorf("there is no tap %d", r.ID)
	}
	var err error
	if r.Flush {
		waiting, cancel := context.WithTimeoutCause(ctx, r.Wait, fmt.Errorf("not within %v", r.Wait))
		err = t.Flush(waiting)
		cancel()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count()
	out := taken{Frames: t.frames, Stats: t.stats, Signals: t.signals}
	t.frames, t.size = nil, 0
	return out, errors.Join(err, t.err)
}

func (v *Server) end(id uint64) error {
	v.mu.Lock()
	t := v.taps[id]
	delete(v.taps, id)
	v.mu.Unlock()
	if t == nil {
		return nil
	}
	return t.Close()
}

// farTap is a tap at the other end of a session.
type farTap struct {
	session *probe.Session
	id      uint64
	ahead   time.Duration // of the clock there
	polled  chan struct{} // closed when nothing more is fetched by itself
	stop    context.CancelFunc
	taking  sync.Mutex // frames are kept in the order in which they came
}

const (
	// poll is how often the frames of a far tap are fetched where they are
	// wanted as they come.
	poll = 100 * time.Millisecond
	// farGrace is how much longer than what it asks for an answer may take.
	farGrace = 5 * time.Second
)

// OpenIn starts a capture in the namespace of a session that is served
// elsewhere (probe.OpenRemote). Times of frames are by the clock of the machine
// where they passed; where that is off by more than can be measured
// (Session.Clock), they are moved to this machine's.
func OpenIn(ctx context.Context, s *probe.Session, o Options) (*Tap, error) {
	t := &Tap{name: s.Name() + ":" + o.Interface, done: make(chan struct{})}
	fail := func(err error) (*Tap, error) { return nil, fmt.Errorf("capture on %s: %w", t.name, err) }
	if s.Peer() == nil {
		return fail(errors.New("the session is this process's own"))
	}
	o.defaults()
	if err := o.Ring.defaults(); err != nil {
		return fail(err)
	}
	program, err := o.assemble()
	if err != nil {
		return fail(err)
	}
	t.o = o
	t.far = &farTap{session: s, polled: make(chan struct{}), stop: func() {}}
	ahead, within, err := s.Clock(ctx)
	if err != nil {
		return fail(err)
	}
	if ahead.Abs() > within {
		t.far.ahead = ahead
	}
	request := tapRequest{Interface: o.Interface, Program: program, SnapLen: o.SnapLen, Ring: o.Ring, MaxBytes: o.MaxBytes}
	if err := s.Peer().Ask(ctx, kindOpen, request, &t.far.id); err != nil {
		return fail(err)
	}
	if o.Handle == nil {
		close(t.far.polled)
		return t, nil
	}
	polling, stop := context.WithCancel(context.WithoutCancel(ctx))
	t.far.stop = stop
	go t.poll(polling)
	return t, nil
}

// poll fetches frames until ctx ends.
func (t *Tap) poll(ctx context.Context) {
	defer close(t.far.polled)
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := t.fetch(ctx, false); err != nil && ctx.Err() == nil {
			t.mu.Lock()
			t.err = errors.Join(t.err, err)
			t.mu.Unlock()
			return
		}
	}
}

// fetch brings what the far tap has seen.
func (t *Tap) fetch(ctx context.Context, flush bool) error {
	r := takeRequest{ID: t.far.id, Flush: flush, Wait: farGrace}
	if deadline, ok := ctx.Deadline(); ok {
		r.Wait = max(0, time.Until(deadline))
	}
	// The other end keeps the time; what it has seen until then is wanted.
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.Wait+farGrace)
	defer cancel()
	t.far.taking.Lock()
	defer t.far.taking.Unlock()
	var got taken
	err := t.far.session.Peer().Ask(asking, kindTake, r, &got)
	if err != nil {
		err = fmt.Errorf("capture on %s: %w", t.name, err)
	}
	t.mu.Lock()
	if got.Stats.Received >= t.stats.Received { // not those of an answer that did not come
		t.stats, t.signals = got.Stats, got.Signals
	}
	t.mu.Unlock()
	for _, f := range got.Frames {
		f.Tap, f.Time = t.name, f.Time.Add(-t.far.ahead)
		t.keep(f)
	}
	return err
}

func (f *farTap) close() error {
	f.stop()
	<-f.polled
	ctx, cancel := context.WithTimeout(context.Background(), farGrace)
	defer cancel()
	return f.session.Peer().Ask(ctx, kindClose, f.id, &struct{}{})
}
