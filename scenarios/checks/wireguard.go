package checks

import (
	"context"
	"net/netip"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// secret is the name that flannel gives its WireGuard device.
const secret = "flannel-wg"

// encrypted judges the devices, and what leaves the nodes while packets pass
// between them. No packet can be told from another there, so what is looked for
// is that none is in the clear, and that every message is WireGuard's.
func encrypted(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	for i := range plan.Nodes {
		expectSecret(env, &plan.Nodes[i], states[plan.Nodes[i].Name])
	}
	x, err := exchange(ctx, env, ringOfFlows(plan))
	if err != nil {
		return err
	}
	port := plan.Network.Backend.ListenPort
	for _, p := range x.packets { // found by what they carry
		env.Cite(p.frame, p.id)
		env.Expect(p.String(), p.decoded, match.BeWireGuard(p.src.PublicIP(), p.dst.PublicIP(), port))
	}
	sent := messages(env, x.capture)
	if err := x.capture.Trust(); err != nil {
		return err
	}
	for _, p := range x.absent { // as they ought to be
		if sent[direction{p.src.PublicIP(), p.dst.PublicIP()}] == 0 {
			env.Fail(p.String(), "WireGuard data leaving "+p.at.Interface, "none, and the capture dropped nothing")
		}
	}
	env.Evidence("%s, mtu %d; no packet in the clear, and WireGuard data both ways, in %d exchanges", count(len(plan.Nodes), "device"), plan.OverlayMTU(&plan.Nodes[0]), x.tried)
	return nil
}

// expectSecret judges a node's device. Its kind is "wireguard", or "tun" where
// a process does the work.
func expectSecret(env *suite.Env, n *topology.Node, s *probe.State) {
	where, l := n.Name+" "+secret, s.Link(secret)
	if l == nil {
		env.Fail(where, "a WireGuard device", "no such device")
		return
	}
	expectDevice(env, where, n, l)
	env.Expect(n.Name, s, match.HaveRoute(probe.Route{Dst: env.Plan().Network.Network.Masked(), Dev: secret}))
}

// direction is from one node's address to another's.
type direction struct{ src, dst netip.Addr }

// messages judges every datagram to WireGuard's port that leaves a node, and
// counts those that carry packets.
func messages(env *suite.Env, seen *suite.Capture) map[direction]int {
	plan := env.Plan()
	port := plan.Network.Backend.ListenPort
	sent := map[direction]int{}
	for _, n := range nodesWithPods(plan) {
		at := suite.Point{Node: n.Name, Interface: n.Underlay().Name}
		for _, f := range seen.All(at, capture.Out) {
			d := f.Decode(0)
			if !d.Has(capture.LayerUDP) || int(d.UDP.Dst) != port || d.IP.Src != n.PublicIP() {
				continue
			}
			to := direction{d.IP.Src, d.IP.Dst}
			ok := env.Expect(at.String(), d, match.BeWireGuard(to.src, to.dst, port))
			if m, _ := d.WireGuard(); ok && !m.Carries() {
				continue
			}
			if !ok || sent[to] == 0 { // one of a kind is evidence enough
				env.Cite(f, uuid.Nil)
			}
			sent[to]++
		}
	}
	return sent
}
