package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/overlab/overlab/agent/firewall"
)

// guard keeps the firewall's rules, beside the loop: it runs other programs,
// and no lease should wait for those.
type guard struct {
	agent *Agent
	// wanted is what the rules are to be, newest only.
	wanted mailbox[rules]
	said   string // what the log was told of last
	// unshielded says that the tunnel's rules of an earlier agent were looked for,
	// where there are to be none.
	unshielded bool
	// repairing says that the rules were in place before.
	repairing bool
}

// rules are what a node's firewall is to be.
type rules struct {
	// configs are one of each of the network's families; none where the agent
	// has no such rules to keep.
	configs []firewall.Config
	shield  firewall.Shield
}

func (r rules) equal(o rules) bool {
	return slices.Equal(r.configs, o.configs) && r.shield.Equal(o.shield)
}

func newGuard(a *Agent) *guard {
	if !a.guarded() {
		a.status.set(topicFirewall, nil)
	}
	return &guard{agent: a, wanted: newMailbox[rules]()}
}

// guarded reports whether there are any rules to keep.
func (a *Agent) guarded() bool { return a.Forward || a.Masquerade || a.Harden }

func (g *guard) run(ctx context.Context) {
	if !g.agent.guarded() {
		return
	}
	ticker := time.NewTicker(g.agent.FirewallResync)
	defer ticker.Stop()
	var walls []*firewall.Firewall
	var now *rules
	for {
		var answer chan error
		select {
		case <-ctx.Done():
			return
		case next := <-g.wanted.ch:
			if now == nil || !slices.Equal(now.configs, next.configs) {
				walls = g.build(ctx, next.configs)
			}
			now, g.repairing = &next, false
		case answer = <-g.agent.rules:
		case <-ticker.C:
		}
		err := errNotYet
		if now != nil {
			err = g.look(ctx, walls, now.shield)
		}
		if answer != nil {
			if err != nil {
				err = fmt.Errorf("%s: %w", topicFirewall, err)
			}
			answer <- err
		}
	}
}

// look puts the rules in place.
func (g *guard) look(ctx context.Context, walls []*firewall.Firewall, shield firewall.Shield) error {
	var errs []error
	ensure := func(carrier string, do func(context.Context) (bool, error)) {
		changed, err := do(ctx)
		errs = append(errs, err)
		switch {
		case err == nil && changed && g.repairing:
			g.agent.Observer.Repaired("firewall")
			g.agent.Log.Warn("firewall rules were missing or altered, and are restored", "carrier", carrier)
		case err == nil && changed:
			g.agent.Log.Info("firewall rules programmed", "carrier", carrier)
		}
	}
	for _, f := range walls {
		ensure(f.Carrier(), f.Ensure)
	}
	switch {
	case shield.Port != 0:
		ensure("nftables, the tunnel's", shield.Ensure)
		g.unshielded = false
	case !g.unshielded:
		g.unshielded = true
		if _, err := shield.Ensure(ctx); err != nil && ctx.Err() == nil {
			g.agent.Log.Warn("could not look for rules of an earlier agent", "rules", "the tunnel's", "err", err)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err := errors.Join(errs...)
	g.agent.status.set(topicFirewall, err)
	switch {
	case err == nil:
		g.said, g.repairing = "", true
	case err.Error() != g.said:
		g.said = err.Error()
		g.agent.Log.Error("the firewall's rules could not be programmed", "err", err)
	}
	return err
}

// build makes the firewalls. Of IPv6, an agent of a network that had it may
// have left rules.
func (g *guard) build(ctx context.Context, configs []firewall.Config) []*firewall.Firewall {
	var walls []*firewall.Firewall
	left := true
	for _, c := range configs {
		walls = append(walls, firewall.New(c, g.agent.Log))
		left = left && c.Network.Addr().Is4()
	}
	if left {
		if err := firewall.RemoveIPv6(ctx); err != nil && ctx.Err() == nil {
			g.agent.Log.Warn("could not look for rules of an earlier agent", "family", "IPv6", "err", err)
		}
	}
	return walls
}
