package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/overlab/overlab/agent/firewall"
)

// guard keeps the firewall's rules, beside the loop: it runs other programs,
// and no lease should wait for those.
type guard struct {
	agent *Agent
	// configs are what the rules are to be, newest only.
	configs mailbox[firewall.Config]
	said    string // what the log was told of last
	// repairing says that the rules were in place before.
	repairing bool
}

func newGuard(a *Agent) *guard {
	if !a.guarded() {
		a.status.set(topicFirewall, nil)
	}
	return &guard{agent: a, configs: newMailbox[firewall.Config]()}
}

// guarded reports whether there are any rules to keep.
func (a *Agent) guarded() bool { return a.Forward || a.Masquerade }

func (g *guard) run(ctx context.Context) {
	if !g.agent.guarded() {
		return
	}
	ticker := time.NewTicker(g.agent.FirewallResync)
	defer ticker.Stop()
	var f *firewall.Firewall
	for {
		var answer chan error
		select {
		case <-ctx.Done():
			return
		case c := <-g.configs.ch:
			f = firewall.New(c, g.agent.Log)
			g.repairing = false
		case answer = <-g.agent.rules:
		case <-ticker.C:
		}
		err := errNotYet
		if f != nil {
			err = g.look(ctx, f)
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
func (g *guard) look(ctx context.Context, f *firewall.Firewall) error {
	changed, err := f.Ensure(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	g.agent.status.set(topicFirewall, err)
	switch {
	case err != nil && err.Error() != g.said:
		g.said = err.Error()
		g.agent.Log.Error("the firewall's rules could not be programmed", "err", err)
	case err == nil && changed && g.repairing:
		g.agent.Observer.Repaired("firewall")
		g.agent.Log.Warn("firewall rules were missing or altered, and are restored", "carrier", f.Carrier())
	case err == nil && changed:
		g.agent.Log.Info("firewall rules programmed", "carrier", f.Carrier())
	}
	if err == nil {
		g.said, g.repairing = "", true
	}
	return err
}
