package checks

import (
	"cmp"
	"context"
	"fmt"

	"github.com/onsi/gomega/types"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// backendChecks are what each backend puts on the wire, and the routes that
// lead there.
func backendChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "BE-01", Title: "host-gw: bare packets, straight to the peer, MTU kept",
			Source: fromFlannel, Profiles: []string{hostGW},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.HostGW},
			Run:   hostGateways,
		},
		{
			ID: "BE-02", Title: "udp: whole packets in UDP, port to port, one hop gone",
			Source: fromFlannel, Profiles: []string{udp},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.UDP},
			Run:   inDatagrams,
		},
		{
			ID: "BE-03", Title: "ipip: IP protocol 4 between nodes, the TTL inherited",
			Source: "RFC 2003, flannel", Profiles: []string{ipip},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.IPIP},
			Run:   ipInIP,
		},
		{
			ID: "BE-04", Title: "wireguard: encrypted in UDP between nodes, none in the clear",
			Source: "WireGuard section 5.4, flannel", Profiles: []string{wireguard},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.WireGuard},
			Run:   encrypted,
		},
		{
			ID: "BE-05", Title: "ipsec: ESP between nodes, no pod's packet in the clear",
			Source: "RFC 4303, flannel", Profiles: []string{ipsec},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.IPsec},
			Run:   encryptedByESP,
		},
		{
			ID: "BE-06", Title: "DirectRouting: no VXLAN between nodes of one segment",
			Source: fromFlannel, Profiles: []string{vxlan},
			Needs: []suite.Feature{suite.IPv4, suite.SegmentPeers, suite.DirectRouting},
			Run:   directRouting,
		},
	}
}

// hostGateways judges a backend that leaves everything to routes.
func hostGateways(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, append(nodeNames(plan), podNames(plan)...))
	if err != nil {
		return err
	}
	routes, example := peerRoutes(env, states)
	for _, pod := range plan.Pods {
		if eth0 := states[pod.Name].Link("eth0"); eth0 != nil { // DP-02 asks for it
			env.Expect(pod.Name+" eth0", eth0, match.HaveMTU(plan.Node(pod.Node).Underlay().MTU))
		}
	}
	x, err := exchange(ctx, env, ringOfFlows(plan))
	if err != nil {
		return err
	}
	for _, p := range x.packets {
		env.Cite(p.frame, p.id)
		expectBare(env, p)
	}
	env.Evidence("%s, as %s; %s bare in %d exchanges", count(routes, "route"), cmp.Or(example, "none"), count(len(x.packets), "packet"), x.tried)
	return x.whole(env)
}

// tunnel is the name that flannel gives its IP-in-IP device.
const tunnel = "flannel.ipip"

// ipInIP judges the tunnel's devices, and what they put on the wire.
func ipInIP(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		where, l := n.Name+" "+tunnel, states[n.Name].Link(tunnel)
		if l == nil || l.Kind != "ipip" && l.Kind != "tun" { // the latter where a process does the work
			env.Fail(where, "an IP-in-IP device", "no such device")
			continue
		}
		expectDevice(env, where, n, l)
	}
	x, err := exchange(ctx, env, ringOfFlows(plan))
	if err != nil {
		return err
	}
	for _, p := range x.packets {
		env.Cite(p.frame, p.id)
		expectIPIP(env, p)
	}
	env.Evidence("%s, mtu %d; %s in %d exchanges", count(len(plan.Nodes), "device"), plan.OverlayMTU(&plan.Nodes[0]), count(len(x.packets), "packet"), x.tried)
	return x.whole(env)
}

// expecter is the part of an Env that judges one packet.
type expecter interface {
	Expect(where string, actual any, m types.GomegaMatcher) bool
}

// expectIPIP judges a packet that must be in the tunnel. A device without a TTL
// of its own, which flannel's is, copies the inner one.
func expectIPIP(env expecter, p packet) {
	if env.Expect(p.String(), p.decoded, match.BeIPIP(p.src.PublicIP(), p.dst.PublicIP())) {
		env.Expect(p.String(), p.decoded, match.HaveInnerTTL(p.innerTTL))
		env.Expect(p.String(), p.decoded, match.HaveOuterTTL(p.innerTTL))
	}
}

// directRouting judges the pairs of nodes on one segment, and that the others
// are served by VXLAN still.
func directRouting(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	routes, example := peerRoutes(env, states)
	x, err := exchange(ctx, env, flowsBySegment(plan))
	if err != nil {
		return err
	}
	bare, encapsulated := 0, 0
	for _, p := range x.packets {
		env.Cite(p.frame, p.id)
		if sameSegment(p.src, p.dst) {
			expectBare(env, p)
			bare++
			continue
		}
		env.Expect(p.String(), p.decoded, match.BeEncapsulated(plan.Network.Backend.VNI, plan.Network.Backend.Port))
		encapsulated++
	}
	env.Evidence("%s, as %s; %s within segments, %d between", count(routes, "route"), cmp.Or(example, "none"), count(bare, "packet"), encapsulated)
	return x.whole(env)
}

// sameSegment reports whether no router is between two nodes' agents.
func sameSegment(a, b *topology.Node) bool { return a.Underlay().Segment == b.Underlay().Segment }

// flowsBySegment has, for each node with pods, flows to the next one of its
// own segment and to the next one of another.
func flowsBySegment(plan *topology.Plan) []flow {
	var flows []flow
	nodes := nodesWithPods(plan)
	for i, src := range nodes {
		tried := map[bool]bool{}
		for k := 1; k < len(nodes); k++ {
			dst := nodes[(i+k)%len(nodes)]
			if same := sameSegment(src, dst); !tried[same] {
				tried[same] = true
				flows = append(flows, flowsBetween(plan, src, dst)...)
			}
		}
	}
	return flows
}

// peerRoutes judges every node's route to every other node's pods, and returns
// how many are as they ought to be, and one of them that is bare.
func peerRoutes(env *suite.Env, states map[string]*probe.State) (good int, example string) {
	plan := env.Plan()
	for i := range plan.Nodes {
		for j := range plan.Nodes {
			n, p := &plan.Nodes[i], &plan.Nodes[j]
			if i == j {
				continue
			}
			want := peerRoute(plan, n, p)
			if !env.Expect(fmt.Sprintf("%s, peer %s", n.Name, p.Name), states[n.Name], match.HaveRoute(want)) {
				continue
			}
			good++
			if !want.Onlink {
				example = cmp.Or(example, want.String())
			}
		}
	}
	return good, example
}

// peerRoute is a node's route to a peer's pods: by the peer's own address on
// one segment, through the VTEP between segments.
func peerRoute(plan *topology.Plan, n, peer *topology.Node) probe.Route {
	if sameSegment(n, peer) {
		return probe.Route{Dst: peer.PodCIDR.Masked(), Via: peer.PublicIP(), Dev: n.Underlay().Name}
	}
	return probe.Route{Dst: peer.PodCIDR.Masked(), Via: peer.PodCIDR.Masked().Addr(), Dev: vtep(plan), Onlink: true}
}

// expectBare judges a packet that must not be in a tunnel: it goes to the
// peer's own interface, with the TTL that one hop has left.
func expectBare(env *suite.Env, p packet) {
	if env.Expect(p.String(), p.decoded, match.BeBare()) {
		env.Expect(p.String(), p.decoded, match.HaveNextHop(p.dst.Underlay().MAC))
		env.Expect(p.String(), p.decoded, match.HaveOuterTTL(p.innerTTL))
	}
}

// whole judges that every packet was seen, in a capture that can be trusted.
func (x *exchanges) whole(env *suite.Env) error {
	if err := x.capture.Trust(); err != nil {
		return err
	}
	return mustBeSeen(env, x.absent)
}

// expectDevice judges what the devices of all tunnels that carry bare IP have in
// common.
func expectDevice(env *suite.Env, where string, n *topology.Node, l *probe.Link) {
	env.Expect(where, l, match.BeUp())
	env.Expect(where, l, match.HaveMTU(env.Plan().OverlayMTU(n)))
	env.Expect(where, l, match.HaveOnlyAddress(single(n.PodCIDR.Masked().Addr())))
}
