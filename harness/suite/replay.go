package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// replay answers from a record what a run asks of a lab.
type replay struct {
	mu        sync.Mutex
	exchanges map[string][]Exchange
	captures  map[string][]RecordedCapture
	// missed says of scopes what was asked in vain.
	missed map[string]string
}

func newReplay(r *Record) *replay {
	p := &replay{exchanges: map[string][]Exchange{}, captures: map[string][]RecordedCapture{}, missed: map[string]string{}}
	for _, x := range r.Exchanges {
		key := exchangeKey(x.Scope, x.Session, x.Kind, x.Request)
		p.exchanges[key] = append(p.exchanges[key], x)
	}
	for _, c := range r.Captures {
		key := captureKey(c.Scope, c.Points)
		p.captures[key] = append(p.captures[key], c)
	}
	return p
}

// exchangeKey names what is asked, without what differs from run to run.
func exchangeKey(scope, session, kind string, request json.RawMessage) string {
	text := string(request)
	var fields map[string]any
	if json.Unmarshal(request, &fields) == nil && fields != nil {
		for _, of := range []string{"id", "wait", "tries"} {
			delete(fields, of)
		}
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			fmt.Fprintf(&b, "%s=%v ", name, fields[name])
		}
		text = b.String()
	}
	return strings.Join([]string{scope, session, kind, text}, "\n")
}

func captureKey(scope string, points []string) string {
	return scope + "\n" + strings.Join(points, "\n")
}

// next takes the first of a key's entries; the last one stays, for who asks
// until something has come true.
func next[T any](m map[string][]T, key string) (T, bool) {
	list := m[key]
	if len(list) == 0 {
		var none T
		return none, false
	}
	if len(list) > 1 {
		m[key] = list[1:]
	}
	return list[0], true
}

// recordedPeer is the peer of one session.
type recordedPeer struct {
	*replay
	session string
}

// Ask implements probe.Peer.
func (p recordedPeer) Ask(ctx context.Context, kind string, request, answer any) error {
	asked, err := json.Marshal(request)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := next(p.exchanges, exchangeKey(scopeOf(ctx), p.session, kind, asked))
	if !ok {
		return p.miss(ctx, kind+" in "+p.session)
	}
	return x.read(answer)
}

// miss notes that something was asked in vain.
func (p *replay) miss(ctx context.Context, what string) error {
	p.missed[scopeOf(ctx)] = fmt.Sprintf("%s: %v", what, ErrNotRecorded)
	return fmt.Errorf("%s: %w", what, ErrNotRecorded)
}

// read fills what answer points to, and returns the error that there was.
func (x *Exchange) read(answer any) error {
	if err := json.Unmarshal(x.Answer, answer); err != nil {
		return fmt.Errorf("read the recorded answer: %w", err)
	}
	switch {
	case x.Verdict != "":
		return &verdictError{x.Verdict, x.Error}
	case x.Error != "":
		return errors.New(x.Error)
	}
	return nil
}

// observed fills what seen points to with what Observe saw.
func (p *replay) observed(ctx context.Context, what string, seen any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := next(p.exchanges, exchangeKey(scopeOf(ctx), "", what, nil))
	if !ok {
		return p.miss(ctx, what)
	}
	return x.read(seen)
}

// Close implements probe.Peer.
func (recordedPeer) Close() error { return nil }

func (p *replay) session(name string) *probe.Session {
	return probe.Attach(name, recordedPeer{p, name})
}

func (p *replay) capture(ctx context.Context, points []Point) (*Capture, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x, ok := next(p.captures, captureKey(scopeOf(ctx), pointNames(points)))
	if !ok {
		return nil, fmt.Errorf("capture at %d points: %w", len(points), ErrNotRecorded)
	}
	c := &Capture{frames: map[string][]capture.Frame{}, doubts: x.Doubts}
	for _, f := range x.Frames {
		c.frames[f.Tap] = append(c.frames[f.Tap], f)
	}
	return c, nil
}

// recordedLab is a lab of which nothing is left but its plan.
type recordedLab struct{ plan *topology.Plan }

// Plan implements topology.Lab.
func (l recordedLab) Plan() *topology.Plan { return l.plan }

// Status implements topology.Lab.
func (l recordedLab) Status(context.Context) (topology.Status, error) {
	return topology.Status{}, fmt.Errorf("the lab's status: %w", ErrNotRecorded)
}

// Namespace implements topology.Lab.
func (l recordedLab) Namespace(name string) (topology.Namespace, error) {
	return nil, fmt.Errorf("enter %s: %w", name, ErrNotRecorded)
}

// Close implements topology.Lab.
func (l recordedLab) Close() error { return nil }
