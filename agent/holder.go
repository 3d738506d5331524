package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/overlab/overlab/agent/lease"
)

// holder gets the node's lease and keeps it.
type holder struct {
	store  lease.Store
	claim  lease.Claim
	margin time.Duration
	status *status
	log    *slog.Logger
	// grants are what was acquired, newest only.
	grants mailbox[lease.Grant]
	// again asks for the lease to be acquired again, attrs with others.
	again chan struct{}
	attrs mailbox[lease.Attrs]
}

func newHolder(s lease.Store, c lease.Claim, margin time.Duration, st *status, log *slog.Logger) *holder {
	return &holder{
		store: s, claim: c, margin: margin, status: st, log: log,
		grants: newMailbox[lease.Grant](), again: make(chan struct{}, 1), attrs: newMailbox[lease.Attrs](),
	}
}

// reacquire asks for the lease to be acquired again, and does not wait.
func (h *holder) reacquire() {
	select {
	case h.again <- struct{}{}:
	default:
	}
}

// republish asks for the lease to be written anew, and does not wait.
func (h *holder) republish(a lease.Attrs) {
	h.attrs.put(a)
	h.reacquire()
}

func (h *holder) run(ctx context.Context) {
	for {
		g, ok := h.acquire(ctx)
		if !ok {
			return
		}
		h.claim.Previous, h.claim.Expires = g.Lease.Key.Subnet, g.TTL > 0
		h.grants.put(g)
		if !h.keep(ctx, g) {
			return
		}
	}
}

// acquire tries until it succeeds; false when ctx has ended.
func (h *holder) acquire(ctx context.Context) (lease.Grant, bool) {
	retry := backoff{first: 20 * time.Millisecond, last: 2 * time.Second}
	said := ""
	for {
		select {
		case h.claim.Attrs = <-h.attrs.ch:
		default:
		}
		g, err := h.store.Acquire(ctx, h.claim)
		if ctx.Err() != nil {
			return g, false
		}
		h.status.set(topicLease, err)
		if err == nil {
			h.log.Info("lease acquired", "subnet", g.Lease.Key, "publicIP", h.claim.Attrs.PublicIP, "ttl", g.TTL)
			return g, true
		}
		if err.Error() != said {
			said = err.Error()
			h.log.Error("no lease; trying again", "err", err)
		}
		if !retry.wait(ctx) {
			return g, false
		}
	}
}

// keep renews the lease until it is lost; false when ctx has ended.
func (h *holder) keep(ctx context.Context, g lease.Grant) bool {
	renewal := time.NewTimer(h.untilRenewal(g.TTL))
	defer renewal.Stop()
	if g.TTL == 0 {
		renewal.Stop()
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-h.again:
			return true
		case <-renewal.C:
			ttl, err := h.store.Renew(ctx, g.Lease)
			if errors.Is(err, lease.ErrExpired) {
				h.log.Warn("the lease has expired; acquiring it again", "subnet", g.Lease.Key)
				return true
			}
			wait := h.untilRenewal(ttl)
			if err != nil {
				h.log.Warn("the lease could not be renewed; trying again in a minute", "err", err)
				wait = time.Minute
			}
			renewal.Reset(wait)
		}
	}
}

func (h *holder) untilRenewal(ttl time.Duration) time.Duration {
	if ttl <= h.margin {
		return ttl / 2
	}
	return ttl - h.margin
}
