package probe

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
)

// The kinds of requests by which flows are sent and received elsewhere: an
// identifier and a port; a collecting and arrivals; a flowing and a number;
// a reaching and how many were sent; a number and sendings.
const (
	kindFlowExpect  = "flow-expect"
	kindFlowCollect = "flow-collect"
	kindFlowSend    = "flow-send"
	kindFlowReach   = "flow-reach"
	kindFlowStop    = "flow-stop"
)

type (
	collecting struct {
		ID     uuid.UUID     `json:"id"`
		Wanted int           `json:"wanted"`
		Wait   time.Duration `json:"wait"`
	}
	flowing struct {
		Flow Flow           `json:"flow"`
		At   netip.AddrPort `json:"at"`
	}
	reaching struct {
		ID    uint64 `json:"id"`
		Total int    `json:"total"`
	}
)

// flowHandlers answer requests for flows.
func flowHandlers() map[string]Handler {
	return map[string]Handler{
		kindFlowExpect: handler(func(ctx context.Context, s *Session, id uuid.UUID) (uint16, error) { return s.flows.expect(ctx, id) }),
		kindFlowCollect: handler(func(ctx context.Context, s *Session, c collecting) (arrivals, error) {
			return s.flows.collect(ctx, c.ID, c.Wanted, c.Wait)
		}),
		// It goes on when the request is answered, until it is stopped or the
		// session ends.
		kindFlowSend: handler(func(_ context.Context, s *Session, f flowing) (uint64, error) {
			return s.held.keep(s.flows.begin(context.Background(), f.Flow, f.At)), nil
		}),
		kindFlowReach: handler(func(ctx context.Context, s *Session, r reaching) (int, error) {
			out, ok := s.held.of(r.ID).(*sender)
			if !ok {
				return 0, fmt.Errorf("there is no flow %d", r.ID)
			}
			return out.reach(ctx, r.Total)
		}),
		kindFlowStop: handler(func(ctx context.Context, s *Session, id uint64) ([]sending, error) {
			out, ok := s.held.of(id).(*sender)
			if !ok {
				return nil, fmt.Errorf("there is no flow %d", id)
			}
			sent, err := out.stop(ctx)
			if err == nil {
				err = s.held.end(id)
			}
			return sent, err
		}),
	}
}

// farSink receives a flow where a session is served.
type farSink struct{ peer Peer }

func (f farSink) expect(ctx context.Context, id uuid.UUID) (port uint16, err error) {
	err = f.peer.Ask(ctx, kindFlowExpect, id, &port)
	return port, err
}

func (f farSink) collect(ctx context.Context, id uuid.UUID, wanted int, wait time.Duration) (got arrivals, err error) {
	err = f.peer.Ask(ctx, kindFlowCollect, collecting{id, wanted, wait}, &got)
	return got, err
}

// farSource sends a flow where a session is served.
type farSource struct {
	far
	// ahead is by how much the clock there is, as far as it can be told.
	ahead time.Duration
	ended func() bool // keeps the end of the context from ending it
}

func (s *Session) farSource(ctx context.Context, f Flow, at netip.AddrPort) (*farSource, error) {
	ahead, within, err := s.Clock(ctx)
	if err != nil {
		return nil, err
	}
	if ahead.Abs() <= within {
		ahead = 0
	}
	out := &farSource{far: far{peer: s.peer}, ahead: ahead}
	if err := s.peer.Ask(ctx, kindFlowSend, flowing{f, at}, &out.id); err != nil {
		return nil, err
	}
	out.ended = context.AfterFunc(ctx, func() { _ = out.Close() }) // the session's end ends it too
	return out, nil
}

func (f *farSource) reach(ctx context.Context, total int) (n int, err error) {
	err = f.peer.Ask(ctx, kindFlowReach, reaching{f.id, total}, &n)
	return n, err
}

func (f *farSource) stop(ctx context.Context) (sent []sending, err error) {
	f.ended()
	err = f.peer.Ask(ctx, kindFlowStop, f.id, &sent)
	for i := range sent {
		sent[i].From, sent[i].Until = sent[i].From.Add(-f.ahead), sent[i].Until.Add(-f.ahead)
	}
	return sent, err
}
