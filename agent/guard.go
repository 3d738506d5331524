package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/overlab/overlab/agent/firewall"
)

// guard keeps the firewall's rules, beside the loop: it runs other programs,
// and no lease should wait for those.
type guard struct {
	agent *Agent
	// configs are what the rules are to be, one of each of the network's
	// families, newest only.
	configs mailbox[[]firewall.Config]
	said    string // what the log was told of last
	// repairing says that the rules were in place before.
	repairing bool
}

func newGuard(a *Agent) *guard {
	if !a.guarded() {
		a.status.set(topicFirewall, nil)
	}
	return &guard{agent: a, configs: newMailbox[[]firewall.Config]()}
}

// guarded reports whether there are any rules to keep.
func (a *Agent) guarded() bool { return a.Forward || a.Masquerade }

func (g *guard) run(ctx context.Context) {
	if !g.agent.guarded() {
		return
	}
	ticker := time.NewTicker(g.agent.FirewallResync)
	defer ticker.Stop()
	var walls []*firewall.Firewall
	for {
		var answer chan error
		select {
		case <-ctx.Done():
			return
		case configs := <-g.configs.ch:
			walls = g.build(ctx, configs)
			g.repairing = false
		case answer = <-g.agent.rules:
		case <-ticker.C:
		}
		err := errNotYet
		if walls != nil {
			err = g.look(ctx, walls)
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
func (g *guard) look(ctx context.Context, walls []*firewall.Firewall) error {
	var errs []error
	for _, f := range walls {
		changed, err := f.Ensure(ctx)
		errs = append(errs, err)
		switch {
		case err == nil && changed && g.repairing:
			g.agent.Observer.Repaired("firewall")
			g.agent.Log.Warn("firewall rules were missing or altered, and are restored", "carrier", f.Carrier())
		case err == nil && changed:
			g.agent.Log.Info("firewall rules programmed", "carrier", f.Carrier())
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
