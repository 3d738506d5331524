package agent

import (
	"context"
	"time"

	"github.com/overlab/overlab/agent/firewall"
)

// guard keeps the firewall's rules, beside the loop: it runs other programs,
// and no lease should wait for those.
type guard struct {
	agent *Agent
	// configs are what the rules are to be, newest only.
	configs mailbox[firewall.Config]
}

func newGuard(a *Agent) *guard {
	if !a.Forward && !a.Masquerade {
		a.status.set(topicFirewall, nil)
	}
	return &guard{agent: a, configs: newMailbox[firewall.Config]()}
}

func (g *guard) run(ctx context.Context) {
	if !g.agent.Forward && !g.agent.Masquerade {
		return
	}
	ticker := time.NewTicker(g.agent.FirewallResync)
	defer ticker.Stop()
	var f *firewall.Firewall
	said, repairing := "", false
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-g.configs.ch:
			f = firewall.New(c, g.agent.Log)
			repairing = false
		case <-ticker.C:
		}
		if f == nil {
			continue
		}
		changed, err := f.Ensure(ctx)
		if ctx.Err() != nil {
			return
		}
		g.agent.status.set(topicFirewall, err)
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			g.agent.Log.Error("the firewall's rules could not be programmed", "err", err)
		case err == nil && changed && repairing:
			g.agent.Log.Warn("firewall rules were missing or altered, and are restored", "carrier", f.Carrier())
		case err == nil && changed:
			g.agent.Log.Info("firewall rules programmed", "carrier", f.Carrier())
		}
		if err == nil {
			said, repairing = "", true
		}
	}
}
