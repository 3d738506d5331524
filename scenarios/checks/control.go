package checks

import (
	"cmp"
	"context"
	"fmt"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func controlChecks() []suite.Check {
	needs := []suite.Feature{suite.IPv4, suite.Peers, suite.FullMesh}
	return []suite.Check{
		{
			ID: "CP-01", Title: "each node has a PERMANENT neighbour for each peer",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: func(ctx context.Context, env *suite.Env) error {
				return eachNode(ctx, env, "neighbours", neighbours)
			},
		},
		{
			ID: "CP-02", Title: "each node has a permanent FDB entry for each peer",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: func(ctx context.Context, env *suite.Env) error {
				return eachNode(ctx, env, "entries", forwarding)
			},
		},
		{
			ID: "CP-03", Title: "each node has an onlink route for each peer, none else",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: func(ctx context.Context, env *suite.Env) error {
				return eachNode(ctx, env, "routes", routes)
			},
		},
	}
}

// mesh is what one node ought to know of its peers.
type mesh struct {
	plan  *topology.Plan
	node  *topology.Node
	state *probe.State
	peers []peer
}

// peer is a peer as its own kernel describes it.
type peer struct {
	*topology.Node
	mac topology.MAC
}

// eachNode judges the mesh of every node; judge returns how many entries are as
// they ought to be, and one of them. A peer whose VTEP is missing has no
// MAC that others could know; that is a finding about the peer.
func eachNode(ctx context.Context, env *suite.Env, what string, judge func(*suite.Env, mesh) (int, string)) error {
	plan := env.Plan()
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	macs := map[string]topology.MAC{}
	for _, n := range plan.Nodes {
		if l := states[n.Name].Link(vtep(plan)); l != nil {
			macs[n.Name] = l.MAC
		} else {
			env.Fail(n.Name+" "+vtep(plan), "a VXLAN device", "no such device")
		}
	}
	good, example := 0, ""
	for i := range plan.Nodes {
		m := mesh{plan: plan, node: &plan.Nodes[i], state: states[plan.Nodes[i].Name]}
		for j := range plan.Nodes {
			p := &plan.Nodes[j]
			if mac, ok := macs[p.Name]; ok && i != j {
				m.peers = append(m.peers, peer{p, mac})
			}
		}
		n, last := judge(env, m)
		good += n
		example = cmp.Or(example, last)
	}
	all := len(plan.Nodes) * (len(plan.Nodes) - 1)
	env.Evidence("%d of %d %s, as %s", good, all, what, cmp.Or(example, "none"))
	return nil
}

func neighbours(env *suite.Env, m mesh) (good int, example string) {
	dev := vtep(m.plan)
	for _, p := range m.peers {
		want := probe.Neighbour{IP: p.PodCIDR.Masked().Addr(), Dev: dev, MAC: p.mac, State: "PERMANENT"}
		if env.Expect(fmt.Sprintf("%s, peer %s", m.node.Name, p.Name), m.state, match.HaveNeighbour(want)) {
			good, example = good+1, want.String()
		}
	}
	for _, have := range m.state.NeighboursOn(dev) {
		if have.State == "PERMANENT" && sameFamily(m.plan, have.IP) && !m.isPeer(have) {
			env.Fail(m.node.Name, "no PERMANENT neighbour but the peers'", have.String())
		}
	}
	return good, example
}

// isPeer reports whether a neighbour has a peer's address; what else is wrong
// with it has been said of the peer.
func (m mesh) isPeer(n probe.Neighbour) bool {
	for _, p := range m.peers {
		if n.IP == p.PodCIDR.Masked().Addr() {
			return true
		}
	}
	return false
}

func forwarding(env *suite.Env, m mesh) (good int, example string) {
	dev := vtep(m.plan)
	peers := map[topology.MAC]bool{}
	for _, p := range m.peers {
		peers[p.mac] = true
		want := probe.FDBEntry{MAC: p.mac, Dev: dev, Dst: p.PublicIP(), Self: true, State: "permanent"}
		if env.Expect(fmt.Sprintf("%s, peer %s", m.node.Name, p.Name), m.state, match.HaveFDB(want)) {
			good, example = good+1, want.String()
		}
	}
	for _, have := range m.state.FDBOf(dev) {
		switch {
		case have.MAC.IsZero():
			env.Fail(m.node.Name, "no all-zero FDB entry, which floods", have.String())
		case !peers[have.MAC] && have.Dst.IsValid():
			env.Fail(m.node.Name, "no FDB entry but the peers'", have.String())
		}
	}
	return good, example
}

func routes(env *suite.Env, m mesh) (good int, example string) {
	dev := vtep(m.plan)
	for _, p := range m.peers {
		want := probe.Route{Dst: p.PodCIDR.Masked(), Via: p.PodCIDR.Masked().Addr(), Dev: dev, Onlink: true}
		if env.Expect(fmt.Sprintf("%s, peer %s", m.node.Name, p.Name), m.state, match.HaveRoute(want)) {
			good, example = good+1, want.String()
		}
	}
	for _, have := range m.state.Routes {
		if !sameFamily(m.plan, have.Dst.Addr()) {
			continue
		}
		overlay := have.Dev == dev || have.Dst.Bits() >= m.plan.Network.Network.Bits() && m.plan.Network.Network.Contains(have.Dst.Addr())
		if overlay && !m.isOwn(have) && !m.isPeerRoute(have) {
			env.Fail(m.node.Name, "no route into the overlay but the peers' and its own", have.String())
		}
	}
	return good, example
}

// isOwn reports whether a route is the node's to its own pods, or that which
// comes with an IPv6 address of the VTEP.
func (m mesh) isOwn(r probe.Route) bool {
	own := m.node.PodCIDR.Masked()
	return r.Dst == own && r.Dev == bridge || m.plan.Is6() && r.Dst == single(own.Addr()) && r.Dev == vtep(m.plan) && r.Protocol == "kernel"
}

func (m mesh) isPeerRoute(r probe.Route) bool {
	for _, p := range m.peers {
		if r.Dst == p.PodCIDR.Masked() {
			return true
		}
	}
	return false
}
