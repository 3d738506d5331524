package agent

import (
	"context"
	"errors"
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
}

func newGuard(a *Agent) *guard {
	if !a.Forward && !a.Masquerade {
		a.status.set(topicFirewall, nil)
	}
	return &guard{agent: a, configs: newMailbox[[]firewall.Config]()}
}

func (g *guard) run(ctx context.Context) {
	if !g.agent.Forward && !g.agent.Masquerade {
		return
	}
	ticker := time.NewTicker(g.agent.FirewallResync)
	defer ticker.Stop()
	var walls []*firewall.Firewall
	said, repairing := "", false
	for {
		select {
		case <-ctx.Done():
			return
		case configs := <-g.configs.ch:
			walls, repairing = g.build(ctx, configs), false
		case <-ticker.C:
		}
		if walls == nil {
			continue
		}
		var errs []error
		for _, f := range walls {
			changed, err := f.Ensure(ctx)
			errs = append(errs, err)
			switch {
			case err == nil && changed && repairing:
				g.agent.Log.Warn("firewall rules were missing or altered, and are restored", "carrier", f.Carrier())
			case err == nil && changed:
				g.agent.Log.Info("firewall rules programmed", "carrier", f.Carrier())
			}
		}
		if ctx.Err() != nil {
			return
		}
		err := errors.Join(errs...)
		g.agent.status.set(topicFirewall, err)
		switch {
		case err == nil:
			said, repairing = "", true
		case err.Error() != said:
			said = err.Error()
			g.agent.Log.Error("the firewall's rules could not be programmed", "err", err)
		}
	}
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
