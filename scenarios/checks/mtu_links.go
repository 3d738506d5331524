package checks

import (
	"context"
	"fmt"
	"slices"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// pathMTUChecks change a link's or a path's MTU, or judge that of every link.
func pathMTUChecks() []suite.Check {
	across := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	return []suite.Check{
		{
			ID: "MTU-03", Title: "who sends more than the overlay's MTU is told the MTU",
			Source: fromSeeds, Profiles: []string{model}, Needs: across, Disturbs: true, Part: partOverlay,
			Run: toldMTU,
		},
		segmentSizeCheck(),
		{
			ID: "MTU-05", Title: "a smaller link on the way is no black hole",
			Source: "RFC 1191, RFC 7348 section 4.3", Profiles: []string{model}, Disturbs: true, Part: partOverlay,
			Needs: append(across, suite.SegmentPeers),
			Run:   smallerPath,
		},
		{
			ID: "MTU-06", Title: "the overlay's links have the underlay's MTU less tunnel",
			Source: fromSeeds, Profiles: []string{model}, Needs: []suite.Feature{suite.IPv4, suite.Pods, suite.Bridge},
			Run: linkMTUs,
		},
	}
}

// toldMTU gives a pod of each node the underlay's MTU, as one has that was
// wired by hand, and sends as much.
func toldMTU(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if plan.Network.Backend.Overhead() == 0 {
		return suite.NotApplicablef("the backend %s takes nothing off the underlay's MTU", plan.Network.Backend.Type)
	}
	all := nodesWithPods(plan)
	var nodes []*topology.Node
	var pings []suite.Ping
	for i, n := range all {
		pod, far := plan.PodsOn(n.Name)[0], tunnelled(plan, n, all[i+1:], all[:i])
		if far == nil {
			continue
		}
		nodes = append(nodes, n)
		if err := widen(ctx, env, pod.Name, n.Name, n.Underlay().MTU); err != nil {
			return err
		}
		to := plan.PodsOn(far.Name)[0]
		pings = append(pings, suite.Ping{From: pod.Name, Ping: probe.Ping{Dst: to.Address.Addr(), Size: n.Underlay().MTU, DF: true}})
	}
	if len(nodes) == 0 {
		return suite.NotApplicablef("no two nodes with pods have a tunnel between them")
	}
	pongs, err := env.PingAll(ctx, pings)
	if err != nil {
		return err
	}
	beTold := match.BeToldMTU
	if plan.Is6() {
		beTold = match.BeToldMTU6
	}
	told := 0
	for i, n := range nodes {
		where := fmt.Sprintf("%s (%s) > %s, %d bytes with DF", pings[i].From, n.Name, pings[i].Dst, pings[i].Size)
		if env.Expect(where, pongs[i], beTold(largestPacket(plan, n))) {
			told++
		}
	}
	env.Evidence("%s with an eth0 of %d bytes, %d told mtu %d", count(len(nodes), "pod"), nodes[0].Underlay().MTU, told, largestPacket(plan, nodes[0]))
	return nil
}

// largestPacket is the size in bytes that a node tells who sends more: its
// tunnel device's MTU. Without a device, over IPsec, the kernel tells what fits
// with AES-GCM: the underlay's MTU less an IPv4 header (20), SPI and sequence
// number (8), IV (8) and ICV (16; RFC 4106 sections 3.1 and 6), of which padding
// to 4 bytes leaves two to the trailer (RFC 4303 section 2.4).
func largestPacket(plan *topology.Plan, n *topology.Node) int {
	if plan.Network.Backend.Type == "ipsec" {
		return (n.Underlay().MTU-20-8-8-16)&^3 - 2
	}
	return plan.OverlayMTU(n)
}

// tunnelled is the first of those nodes that a node reaches through the tunnel:
// with DirectRouting, one of another segment.
func tunnelled(plan *topology.Plan, n *topology.Node, others ...[]*topology.Node) *topology.Node {
	for _, o := range slices.Concat(others...) {
		if !plan.Network.Backend.DirectRouting || !sameSegment(n, o) {
			return o
		}
	}
	return nil
}

// widen gives both ends of a pod's veth another MTU, until the check ends.
func widen(ctx context.Context, env *suite.Env, pod, node string, mtu int) error {
	inPod, err := env.Session(ctx, pod)
	if err != nil {
		return err
	}
	onNode, err := env.Session(ctx, node)
	if err != nil {
		return err
	}
	states, err := env.States(ctx, []string{pod, node})
	if err != nil {
		return err
	}
	eth0 := states[pod].Link("eth0")
	if eth0 == nil || states[node].LinkByIndex(eth0.Peer) == nil {
		return suite.Inconclusivef("%s is not wired to %s (DP-02)", pod, node)
	}
	port := states[node].LinkByIndex(eth0.Peer)
	env.Restore("the MTU of "+pod, func(ctx context.Context) error {
		if err := inPod.Change(ctx, probe.Change{Link: "eth0", MTU: eth0.MTU}); err != nil {
			return err
		}
		return onNode.Change(ctx, probe.Change{Link: port.Name, MTU: port.MTU})
	})
	if err := onNode.Change(ctx, probe.Change{Link: port.Name, MTU: mtu}); err != nil {
		return err
	}
	return inPod.Change(ctx, probe.Change{Link: "eth0", MTU: mtu})
}

// less is by how much the smaller link's MTU is below the underlay's.
const less = 100

// smallerPath tells a node that a link on its way to a peer is smaller than the
// others, as it learns from a router's ICMP, and sends packets that do not fit.
func smallerPath(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	f, err := samePair(env)
	if err != nil {
		return err
	}
	node, err := env.Session(ctx, f.from.Name)
	if err != nil {
		return err
	}
	path := probe.Route{Dst: hostPrefix(f.to.PublicIP()), Dev: f.from.Underlay().Name}
	mtu := f.from.Underlay().MTU - less
	env.Restore("the routes of "+f.from.Name, func(ctx context.Context) error {
		st, err := node.State(ctx)
		if err != nil {
			return err
		}
		for _, r := range st.Routes {
			if r.Dst == path.Dst {
				return node.Change(ctx, probe.Change{Delete: true, Route: &path})
			}
		}
		return nil
	})
	if err := node.Change(ctx, probe.Change{Route: &path, MTU: mtu}); err != nil {
		return err
	}
	from, to := plan.PodsOn(f.from.Name)[0], plan.PodsOn(f.to.Name)[0]
	pair := suite.Pair{From: from, To: to}
	size := plan.OverlayMTU(f.from)
	pongs, err := env.PingAll(ctx, []suite.Ping{
		{From: from.Name, Ping: probe.Ping{Dst: to.Address.Addr(), Size: size, DF: true}},
		{From: from.Name, Ping: probe.Ping{Dst: to.Address.Addr()}},
	})
	if err != nil {
		return err
	}
	if !pongs[1].Answered() {
		return suite.Inconclusivef("%s: not even a small packet is answered (NM-02): %s", pair, pongs[1].String())
	}
	kind := "black hole"
	switch e := pongs[0].Error; {
	case len(pongs[0].Replies) > 0:
		kind = "fragmented"
	case e != nil && e.Type == 3 && e.Code == 4, pongs[0].Refused != nil && pongs[0].Refused.MTU > 0:
		kind = "told the MTU"
	default:
		env.Fail(fmt.Sprintf("%s, %d bytes with DF, a link of %d bytes on the way", pair, size, mtu), "an answer, or the MTU", pongs[0].String())
	}
	env.Evidence("%s, %d bytes with DF, a link of %d bytes on the way: %s", pair, size, mtu, kind)
	return nil
}

// linkMTUs compares the overlay's links with the MTU that the kernel has on
// each node's underlay interface.
func linkMTUs(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, append(nodeNames(plan), podNames(plan)...))
	if err != nil {
		return err
	}
	links := 0
	for i, n := range nodesWithPods(plan) {
		under := states[n.Name].Link(n.Underlay().Name)
		if under == nil {
			env.Fail(n.Name+" "+n.Underlay().Name, "a link", "no such link")
			continue
		}
		want := plan.OverlayMTU(over(n, under.MTU))
		judge := func(where string, l *probe.Link) {
			if l == nil {
				return // DP-01 to DP-04 ask for it
			}
			links++
			env.Expect(fmt.Sprintf("%s, over %s of %d bytes", where, under.Name, under.MTU), l, match.HaveMTU(want))
		}
		for _, name := range []string{bridge, vtep(plan), tunnel, secret} {
			judge(n.Name+" "+name, states[n.Name].Link(name))
		}
		for _, p := range plan.PodsOn(n.Name) {
			judge(p.Name+" eth0", states[p.Name].Link("eth0"))
		}
		if i == 0 {
			env.Evidence("%s: over %d bytes, %d", n.Name, under.MTU, want)
		}
	}
	if links == 0 {
		return suite.Inconclusivef("there is no link of the overlay to judge (DP-01)")
	}
	return nil
}

// over is the node as it would be planned over an underlay of that MTU.
func over(n *topology.Node, mtu int) *topology.Node {
	c := *n
	c.Interfaces = slices.Clone(n.Interfaces)
	c.Underlay().MTU = mtu
	return &c
}
