package capture

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Source is a tap that Follow opens: in a namespace of this machine, or else by
// the session, where there is one.
type Source struct {
	Namespace topology.Namespace
	Session   *probe.Session
	Options
}

func (s *Source) open(ctx context.Context, o Options) (*Tap, error) {
	if s.Session != nil {
		return OpenIn(ctx, s.Session, o)
	}
	return Open(s.Namespace, o)
}

// Counted is what was counted at one tap, its sentinels left out.
type Counted struct {
	Tap string
	Stats
	Began, Ended time.Time
}

// Sink gets what Follow sees, from one goroutine.
type Sink interface {
	// Begin is called once all taps are bound.
	Begin() error
	// Frame is called for each frame; an error ends the capture.
	Frame(Frame) error
	// Settle is called when there is no frame left for the moment.
	Settle() error
}

// ErrEnough ends a Follow from its sink, and is no error of it.
var ErrEnough = errors.New("enough frames")

const (
	// settle is how long a frame is held back: those of other taps that were
	// seen before it may come later, by as much as a ring's retirement.
	settle = 30 * time.Millisecond
	// farSettle is that where a tap is on another machine: its frames are
	// fetched every so often, and its clock may be a little off.
	farSettle = 3 * poll
	// pace is how often frames are handed on.
	pace = 10 * time.Millisecond
	// lastWait is how long the taps' sentinels may take in the end.
	lastWait = 2 * time.Second
	// maxHeld bounds the frames that are held back, in bytes.
	maxHeld = 256 << 20
)

// Follow opens every tap and hands the frames of all on, in the order of their
// times, until ctx ends or the sink returns an error. It returns what was
// counted; an error says that a tap could not be opened, that the sink failed
// otherwise than with ErrEnough, or that frames may be missing without having
// been counted.
func Follow(ctx context.Context, sources []Source, sink Sink) ([]Counted, error) {
	f := &follower{}
	defer f.close()
	late := settle
	for _, s := range sources {
		if s.Session != nil {
			late = farSettle
		}
		o := s.Options
		o.Handle = f.hold
		t, err := s.open(ctx, o)
		if err != nil {
			return nil, err
		}
		f.taps = append(f.taps, t)
		f.began = append(f.began, time.Now())
	}
	err := sink.Begin()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case now := <-tick.C:
			err = f.hand(now.Add(-late), sink)
		}
	}
	if err == nil {
		err = errors.Join(f.flush(context.WithoutCancel(ctx)), f.hand(time.Now().Add(late), sink))
	}
	if errors.Is(err, ErrEnough) {
		err = nil
	}
	return f.count(), err
}

// follower holds frames back until they can be handed on in order.
type follower struct {
	taps  []*Tap
	began []time.Time

	mu   sync.Mutex
	held []Frame
	size int
	lost map[string]uint64
}

// hold is called by every tap's goroutine.
func (f *follower) hold(x Frame) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.size+len(x.Data) > maxHeld {
		if f.lost == nil {
			f.lost = map[string]uint64{}
		}
		f.lost[x.Tap]++
		return
	}
	f.size += len(x.Data)
	f.held = append(f.held, x)
}

// hand passes on the frames up to a time.
func (f *follower) hand(until time.Time, sink Sink) error {
	f.mu.Lock()
	slices.SortStableFunc(f.held, func(a, b Frame) int { return a.Time.Compare(b.Time) })
	n, _ := slices.BinarySearchFunc(f.held, until, func(x Frame, t time.Time) int {
		return cmp.Or(x.Time.Compare(t), -1) // those of the very time are due too
	})
	due := slices.Clone(f.held[:n])
	f.held = slices.Delete(f.held, 0, n)
	for _, x := range due {
		f.size -= len(x.Data)
	}
	f.mu.Unlock()
	for _, x := range due {
		if err := sink.Frame(x); err != nil {
			return err
		}
	}
	if len(due) == 0 {
		return nil
	}
	return sink.Settle()
}

// flush waits until every tap has handed over what passed it.
func (f *follower) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lastWait, fmt.Errorf("not within %v", lastWait))
	defer cancel()
	errs := make([]error, len(f.taps))
	var wg sync.WaitGroup
	for i, t := range f.taps {
		wg.Go(func() { errs[i] = t.Flush(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (f *follower) count() []Counted {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Counted
	for i, t := range f.taps {
		s := t.Stats()
		s.Received -= min(s.Received, t.seenSignals())
		s.Dropped += f.lost[t.Name()]
		out = append(out, Counted{Tap: t.Name(), Stats: s, Began: f.began[i], Ended: time.Now()})
	}
	return out
}

// seenSignals counts the sentinels, which the kernel counts with the frames.
func (t *Tap) seenSignals() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.signals
}

func (f *follower) close() {
	var wg sync.WaitGroup
	for _, t := range f.taps {
		wg.Go(func() { _ = t.Close() }) // what there was to lose is counted
	}
	wg.Wait()
}
