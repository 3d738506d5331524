package suite

import (
	"context"
	"net/netip"
	"time"

	"github.com/overlab/overlab/harness/probe"
)

// A Flow is numbered datagrams from one node or pod to another.
type Flow struct {
	env    *Env
	name   string
	stream *probe.Stream // nil in a replay
}

// StartFlow begins to send them; Wait is the run's.
func (e *Env) StartFlow(ctx context.Context, from, to string, f probe.Flow) (*Flow, error) {
	out := &Flow{env: e, name: "flow from " + from + " to " + to}
	f.Wait = e.Timeouts().Reply
	err := Act(ctx, e, out.name+" begins", func() error {
		a, err := e.Session(ctx, from)
		if err != nil {
			return err
		}
		b, err := e.Session(ctx, to)
		if err != nil {
			return err
		}
		out.stream, err = a.StartFlow(ctx, b, f)
		return err
	})
	return out, err
}

// Sent is how many datagrams were sent so far; a replay has sent none.
func (f *Flow) Sent() int {
	if f.stream == nil {
		return 0
	}
	return f.stream.Sent()
}

// Reach returns when that many have been sent since the beginning.
func (f *Flow) Reach(ctx context.Context, total int) error {
	if f.stream == nil {
		return nil // it was waited for then
	}
	return f.stream.Reach(ctx, total)
}

// Stop ends the flow and tells what became of each datagram.
func (f *Flow) Stop(ctx context.Context) (*probe.FlowReport, error) {
	log, err := Observe(ctx, f.env, f.name, func() (*probe.FlowLog, error) { return f.stream.Stop(ctx) })
	if err != nil {
		return nil, err
	}
	return log.Report(), nil
}

// Throughput sends TCP from one node or pod to another, at an address that it
// has, for a time. It returns the bits a second that were received.
func (e *Env) Throughput(ctx context.Context, from, to string, at netip.Addr, during time.Duration) (float64, error) {
	return Observe(ctx, e, "throughput from "+from+" to "+to, func() (float64, error) {
		a, err := e.Session(ctx, from)
		if err != nil {
			return 0, err
		}
		b, err := e.Session(ctx, to)
		if err != nil {
			return 0, err
		}
		return a.Throughput(ctx, b, at, during)
	})
}
