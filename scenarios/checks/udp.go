package checks

import (
	"context"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// proxy is the name that flannel's udp backend gives its TUN device.
const proxy = "flannel0"

// inDatagrams judges the TUN devices, the one route to all pods, and what the
// proxies put on the wire: the packet as it came, less one hop.
func inDatagrams(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	for i := range plan.Nodes {
		expectProxy(env, &plan.Nodes[i], states[plan.Nodes[i].Name])
	}
	x, err := exchange(ctx, env, ringOfFlows(plan))
	if err != nil {
		return err
	}
	for _, p := range x.packets {
		env.Cite(p.frame, p.id)
		expectDatagram(env, plan, p)
	}
	env.Evidence("%s, mtu %d; %s in %d exchanges", count(len(plan.Nodes), "device"), plan.OverlayMTU(&plan.Nodes[0]), count(len(x.packets), "packet"), x.tried)
	return x.whole(env)
}

func expectProxy(env *suite.Env, n *topology.Node, s *probe.State) {
	where, l := n.Name+" "+proxy, s.Link(proxy)
	if l == nil || l.Kind != "tun" {
		env.Fail(where, "a TUN device", "no such device")
		return
	}
	expectDevice(env, where, n, l)
	env.Expect(n.Name, s, match.HaveRoute(probe.Route{Dst: env.Plan().Network.Network.Masked(), Dev: proxy}))
}

// expectDatagram judges a packet that must be the whole of a datagram.
func expectDatagram(env expecter, plan *topology.Plan, p packet) {
	if env.Expect(p.String(), p.decoded, match.CarryIPv4(p.src.PublicIP(), p.dst.PublicIP(), plan.Network.Backend.Port)) {
		env.Expect(p.String(), p.decoded, match.HaveInnerTTL(p.innerTTL-1))
	}
}
