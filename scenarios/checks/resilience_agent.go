package checks

import (
	"context"
	"fmt"
	"slices"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// maxRestarts is how many agents of a large lab are restarted.
const maxRestarts = 8

// agentsRestarted kills one agent after the other (RS-01).
func agentsRestarted(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if err := needs[suite.AgentRestarter](ctx, env, "restart agents"); err != nil {
		return err
	}
	before, _, err := storedLeases(ctx, env) // that others cannot be read is CP-06's to tell
	if err != nil {
		return err
	}
	nodes := withAgents(plan)
	all := len(nodes)
	nodes = nodes[max(0, all-maxRestarts):]
	flows, err := startTraffic(ctx, env, 100)
	if err != nil {
		return err
	}
	for i := range nodes {
		if err := restartUnseen(ctx, env, nodes[i]); err != nil {
			return err
		}
	}
	passed, err := flows.end(ctx, env)
	if err != nil {
		return err
	}
	after, _, err := storedLeases(ctx, env)
	if err != nil {
		return err
	}
	for _, l := range before {
		if !slices.Contains(after, l) {
			env.Fail("lease "+l.Key, fmt.Sprintf("as before: %+v", l), fmt.Sprintf("%+v", after))
		}
	}
	env.Evidence("%d of %s killed and restarted, %s", len(nodes), count(all, "agent"), passed)
	return nil
}

// restartUnseen restarts a node's agent, and judges that the node's entries are
// those of before.
func restartUnseen(ctx context.Context, env *suite.Env, n *topology.Node) error {
	st, err := stateOf(ctx, env, n.Name)
	if err != nil {
		return err
	}
	was := entries(env.Plan(), st)
	if err := restartAgent(ctx, env, n.Name); err != nil {
		return err
	}
	if st, err = stateOf(ctx, env, n.Name); err != nil {
		return err
	}
	if diff := changed(env.Plan(), was, st); diff != "" {
		env.Fail(n.Name, "the entries of before the agent's restart", diff)
	}
	return nil
}

// peerLeavesUnseen lets a peer go while an agent is away (RS-04).
func peerLeavesUnseen(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if err := needs[suite.AgentHolder](ctx, env, "keep agents ended"); err != nil {
		return err
	}
	g, err := newGhost(env)
	if err != nil {
		return err
	}
	flows, err := startTraffic(ctx, env, 100)
	if err != nil {
		return err
	}
	if _, err := g.join(ctx); err != nil {
		return err
	}
	nodes := withAgents(plan)
	node := nodes[len(nodes)-1]
	release, err := holdAgent(ctx, env, node.Name)
	if err != nil {
		return err
	}
	if err := deleteLease(ctx, env, g.lease.Key); err != nil {
		return err
	}
	st, err := stateOf(ctx, env, node.Name)
	if err != nil {
		return err
	}
	if g.missing(node, st) != "" {
		return suite.Inconclusivef("the entries of the peer were gone before its agent came back to see to them")
	}
	if err := release(ctx); err != nil {
		return err
	}
	took, err := g.gone(ctx)
	if err != nil {
		return err
	}
	passed, err := flows.end(ctx, env)
	env.Evidence("%s forgot %s within %v of its agent's return, %s", node.Name, g.subnet(), rounded(took), passed)
	return err
}

// storeOutage takes the store away for a while (RS-09).
func storeOutage(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if err := needs[suite.StoreHolder](ctx, env, "stop its store"); err != nil {
		return err
	}
	var g *ghost // none where the kernel's tables do not tell whom a node serves
	if tellsPeers(plan) {
		var err error
		if g, err = newGhost(env); err != nil {
			return err
		}
	}
	before := map[string][]string{}
	for _, name := range nodeNames(plan) {
		st, err := stateOf(ctx, env, name)
		if err != nil {
			return err
		}
		before[name] = entries(plan, st)
	}
	flows, err := startTraffic(ctx, env, 100)
	if err != nil {
		return err
	}
	release, err := holdStore(ctx, env)
	if err != nil {
		return err
	}
	const rate = 100
	if err := flows.more(ctx, int(env.Timeouts().Outage.Seconds()*rate)); err != nil {
		return err
	}
	if err := release(ctx); err != nil {
		return err
	}
	_, err = follow(ctx, env, "the entries of before the outage", func(n *topology.Node, st *probe.State) string {
		return changed(plan, before[n.Name], st)
	})
	if err != nil {
		return err
	}
	followed := ""
	if g != nil {
		took, err := g.join(ctx)
		if err != nil {
			return err
		}
		followed = fmt.Sprintf("; a new lease followed %v after its return", rounded(took))
	}
	passed, err := flows.end(ctx, env)
	env.Evidence("no store for %v, %s%s", env.Timeouts().Outage, passed, followed)
	return err
}
