package agent

import (
	"context"
	"errors"
	"time"

	"github.com/overlab/overlab/agent/lease"
)

// holder gets the node's lease and keeps it.
type holder struct {
	agent *Agent
	claim lease.Claim
	// grants are what was acquired, newest only.
	grants mailbox[lease.Grant]
	// again asks for the lease to be acquired again, attrs with others, announce
	// for it to be announced.
	again, announce chan struct{}
	attrs           mailbox[lease.Attrs]
	restores        backoff   // between two that are acquired again
	restored        time.Time // when the last was
}

// renewalRetry is the pause after a renewal that failed, as in flannel
// (pkg/subnet/etcd/local_manager.go). It is less where the margin is short, for
// several tries to fit into it.
const renewalRetry = time.Minute

// peace is how long a lease that was written over must stay as it is, for the
// next time to be restored at once.
const peace = 10 * time.Second

func newHolder(a *Agent, c lease.Claim) *holder {
	return &holder{
		agent: a, claim: c,
		grants: newMailbox[lease.Grant](), again: make(chan struct{}, 1), announce: make(chan struct{}, 1), attrs: newMailbox[lease.Attrs](),
		restores: backoff{first: 10 * time.Millisecond, last: 5 * time.Second},
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

// announceSoon asks for the node to be announced, and does not wait.
func (h *holder) announceSoon() {
	select {
	case h.announce <- struct{}{}:
	default:
	}
}

func (h *holder) run(ctx context.Context) {
	for {
		g, ok := h.acquire(ctx)
		if !ok {
			return
		}
		h.claim.Previous, h.claim.Expires = g.Lease.Key, g.TTL > 0
		h.tellEnd(g.TTL)
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
		g, err := h.agent.Store.Acquire(ctx, h.claim)
		if ctx.Err() != nil {
			return g, false
		}
		h.agent.status.set(topicLease, err)
		if err == nil {
			h.agent.Log.Info("lease acquired", "subnet", g.Lease.Key, "publicIP", h.claim.Config.Identity(h.claim.Attrs), "ttl", g.TTL)
			return g, true
		}
		if err.Error() != said {
			said = err.Error()
			h.agent.Log.Error("no lease; trying again", "err", err)
		}
		if !retry.wait(ctx) {
			return g, false
		}
	}
}

// calm waits before a lease is restored that was restored just before: another
// program may want something else, and would do so for ever. false when ctx has
// ended.
func (h *holder) calm(ctx context.Context) bool {
	last := h.restored
	h.restored = time.Now()
	if h.restored.Sub(last) > peace {
		h.restores.reset()
		return true
	}
	return h.restores.wait(ctx)
}

// announced announces the node, if the store does; false asks to try again.
func (h *holder) announced(ctx context.Context) bool {
	a, ok := h.agent.Store.(lease.Announcer)
	if !ok {
		return true
	}
	err := a.Announce(ctx)
	if err != nil && ctx.Err() == nil {
		h.agent.Log.Warn("could not announce that the node's network is up; trying again", "err", err)
	}
	return err == nil
}

// keep renews the lease until it is lost; false when ctx has ended.
func (h *holder) keep(ctx context.Context, g lease.Grant) bool {
	renewal := time.NewTimer(h.untilRenewal(g.TTL))
	defer renewal.Stop()
	if g.TTL == 0 {
		renewal.Stop()
	}
	reannounce := time.NewTimer(0)
	defer reannounce.Stop()
	reannounce.Stop()
	retry := backoff{first: 100 * time.Millisecond, last: 10 * time.Second}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-h.again:
			return h.calm(ctx)
		case <-h.announce:
			reannounce.Reset(0)
		case <-reannounce.C:
			if !h.announced(ctx) {
				reannounce.Reset(retry.next())
			}
		case <-renewal.C:
			ttl, err := h.agent.Store.Renew(ctx, g.Lease)
			h.agent.Observer.Renewed(err)
			if errors.Is(err, lease.ErrExpired) {
				h.agent.Log.Warn("the lease has expired; acquiring it again", "subnet", g.Lease.Key)
				return true
			}
			wait := h.untilRenewal(ttl)
			if err == nil {
				h.tellEnd(ttl)
			} else {
				wait = min(renewalRetry, h.agent.RenewMargin/4)
				h.agent.Log.Warn("the lease could not be renewed; trying again", "in", wait, "err", err)
			}
			renewal.Reset(wait)
		}
	}
}

func (h *holder) untilRenewal(ttl time.Duration) time.Duration {
	if ttl <= h.agent.RenewMargin {
		return ttl / 2
	}
	return ttl - h.agent.RenewMargin
}

// tellEnd tells the observer when a lease ends that lives for ttl from now.
func (h *holder) tellEnd(ttl time.Duration) {
	var until time.Time
	if ttl > 0 {
		until = time.Now().Add(ttl)
	}
	h.agent.Observer.Leased(until)
}
