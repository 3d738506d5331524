package checks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/frame"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// natChecks are on where addresses are translated and where not. What is
// outside of the overlay is another node's address on the underlay: no packet
// goes to an address that the lab does not have.
func natChecks() []suite.Check {
	masquerade := []suite.Feature{suite.IPv4, suite.SegmentPeers, suite.Masquerade}
	return []suite.Check{
		{
			ID: "NT-01", Title: "a pod's packet arrives in a pod as it was sent",
			Source: fromBoth, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
			Run:   untranslated,
		},
		{
			ID: "NT-02", Title: "a pod is seen outside as its node",
			Source: fromFlannel, Profiles: []string{model}, Needs: masquerade,
			Run: masqueraded,
		},
		{
			ID: "NT-03", Title: "who comes from outside is seen by pods as it is",
			Source: fromFlannel, Profiles: []string{model}, Needs: masquerade,
			Run: outsideAsItIs,
		},
		{
			ID: "NT-04", Title: "what bears the mark 0x4000 is not masqueraded",
			Source: fromFlannel, Profiles: []string{model},
			Needs: append(slices.Clone(masquerade), suite.Connects, suite.NoKubeProxy), // the answer goes to the overlay's address
			Run:   markReturns,
		},
	}
}

// untranslated pings within and across nodes, and reads each request where it
// comes into the other pod.
func untranslated(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	nodes := nodesWithPods(plan)
	var pairs []suite.Pair
	for i, n := range nodes {
		pods := plan.PodsOn(n.Name)
		pairs = append(pairs, suite.Pair{From: pods[0], To: plan.PodsOn(nodes[(i+1)%len(nodes)].Name)[0]})
		if len(pods) > 1 {
			pairs = append(pairs, suite.Pair{From: pods[0], To: pods[1]})
		}
	}
	requests := filter.ICMP()
	if plan.Is6() {
		requests = filter.ICMPv6()
	}
	tapped := map[string]bool{}
	var points []suite.Point
	pings := make([]suite.Ping, len(pairs))
	for i, p := range pairs {
		pings[i] = suite.Ping{From: p.From.Name, Ping: probe.Ping{Dst: p.To.Address.Addr(), ID: env.NewID(ctx)}}
		if !tapped[p.To.Name] {
			tapped[p.To.Name] = true
			points = append(points, podPoint(p.To, requests))
		}
	}
	seen, err := env.Capture(ctx, points, func(ctx context.Context) error {
		_, err := env.PingAll(ctx, pings)
		return err
	})
	if err != nil {
		return err
	}
	arrived, good := 0, 0
	for i, p := range pairs {
		frames := seen.Find(podPoint(p.To, requests), capture.In, pings[i].ID)
		if len(frames) == 0 {
			continue
		}
		arrived++
		env.Cite(frames[0], pings[i].ID)
		d := frames[0].Decode(0)
		if expectEqual(env, p.String(), "source", p.From.Address.Addr(), d.IP.Src) {
			good++
		}
	}
	env.Evidence("%s, %d arrived, %d with their pod's address", count(len(pairs), "request"), arrived, good)
	if err := seen.Trust(); err != nil {
		return err
	}
	if arrived < len(pairs) {
		return suite.Inconclusivef("%d of %d requests did not arrive (NM-02)", len(pairs)-arrived, len(pairs))
	}
	return nil
}

func podPoint(p topology.Pod, f filter.Filter) suite.Point {
	return suite.Point{Node: p.Name, Interface: "eth0", Filter: f}
}

// outside is a node that masquerades and one of its segment, which stands for
// what is outside of the overlay.
type outside struct{ node, other *topology.Node }

func (o outside) address() netip.Addr { return o.other.Underlay().Address.Addr() }

// outsides are all nodes that masquerade, each with another node.
func outsides(plan *topology.Plan) []outside {
	var out []outside
	for _, n := range nodesWithPods(plan) {
		if !n.Agent.IPMasq || n.Agent.ByHand {
			continue
		}
		for j := range plan.Nodes {
			if other := &plan.Nodes[j]; other.Name != n.Name && sameSegment(n, other) {
				out = append(out, outside{n, other})
				break
			}
		}
	}
	return out
}

func masqueraded(ctx context.Context, env *suite.Env) error {
	all := outsides(env.Plan())
	for _, o := range all {
		pod, own := env.Plan().PodsOn(o.node.Name)[0], o.node.Underlay().Address.Addr()
		reply, err := env.EchoTo(ctx, pod.Name, o.other.Name, probe.Echo{Transport: probe.UDP, Server: netip.AddrPortFrom(o.address(), 0)})
		if err != nil {
			return err
		}
		env.Expect(fmt.Sprintf("%s (%s) > %s %s", pod.Name, o.node.Name, o.other.Name, o.address()), reply, match.BeSeenAs(own, o.address()))
	}
	return describeOutsides(env, all, "a pod is seen as its node")
}

func describeOutsides(env *suite.Env, all []outside, what string) error {
	if len(all) == 0 {
		return suite.NotApplicablef("no node that masquerades has a pod and another node on its segment")
	}
	o := all[0]
	env.Evidence("%s: %s, as %s (%s) by %s", count(len(all), "node"), what, o.node.Name, o.node.Underlay().Address.Addr(), o.other.Name)
	return nil
}

// outsideAsItIs sends a pod a datagram from another node's underlay address,
// by its own node, as a router of the underlay would.
func outsideAsItIs(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	all := outsides(plan)
	var points []suite.Point
	ids := make([]uuid.UUID, len(all))
	for _, o := range all {
		points = append(points, podPoint(plan.PodsOn(o.node.Name)[0], filter.UDP()))
	}
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	seen, err := env.Capture(ctx, points, func(ctx context.Context) error {
		for i, o := range all {
			pod := plan.PodsOn(o.node.Name)[0]
			target, err := env.Session(ctx, pod.Name)
			if err != nil {
				return err
			}
			port, err := target.EchoPort(probe.UDP)
			if err != nil {
				return err
			}
			from, err := env.Session(ctx, o.other.Name)
			if err != nil {
				return err
			}
			ids[i] = env.NewID(ctx)
			nic, next := states[o.other.Name].Link(o.other.Underlay().Name), states[o.node.Name].Link(o.node.Underlay().Name)
			if nic == nil || next == nil {
				return suite.Inconclusivef("%s or %s has no link to the underlay", o.other.Name, o.node.Name)
			}
			const sourcePort = 50001
			packet := frame.IPv4{Src: o.address(), Dst: pod.Address.Addr()}.UDP(sourcePort, port, ids[i][:])
			if err := from.Inject(ctx, nic.Name, frame.Ethernet(next.MAC, nic.MAC, frame.TypeIPv4, packet)); err != nil {
				return err
			}
			// An exchange over the same node comes after it.
			if _, err := env.PingAll(ctx, []suite.Ping{{From: o.node.Name, Ping: probe.Ping{Dst: pod.Address.Addr()}}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, o := range all {
		frames := seen.Find(points[i], capture.In, ids[i])
		if len(frames) == 0 {
			return suite.Inconclusivef("the datagram of %s did not reach %s", o.address(), points[i].Node)
		}
		env.Cite(frames[0], ids[i])
		d := frames[0].Decode(0)
		expectEqual(env, fmt.Sprintf("%s > %s (%s)", o.other.Name, points[i].Node, o.node.Name), "source", o.address(), d.IP.Src)
	}
	if err := seen.Trust(); err != nil {
		return err
	}
	return describeOutsides(env, all, "who is outside is seen as itself")
}

// proxyMark is the mark by which kube-proxy says that it masquerades a packet
// itself.
const proxyMark = 0x4000

// markReturns speaks to the outside from cni0's address, which the rules take
// for a pod's, with the mark and without.
func markReturns(ctx context.Context, env *suite.Env) error {
	all := outsides(env.Plan())
	for _, o := range all {
		own, gateway := o.node.Underlay().Address.Addr(), o.node.Gateway().Addr()
		ask := probe.Echo{Transport: probe.UDP, Server: netip.AddrPortFrom(o.address(), 0), From: gateway}
		control, err := env.EchoTo(ctx, o.node.Name, o.other.Name, ask)
		if err != nil {
			return err
		}
		if control.Seen.Addr() != own {
			return suite.Inconclusivef("%s: without the mark, %s is not masqueraded either: %s (NT-02)", o.node.Name, gateway, control.String())
		}
		ask.Mark = proxyMark
		marked, err := env.EchoTo(ctx, o.node.Name, o.other.Name, ask)
		if err != nil {
			return err
		}
		if marked.Failure != "" || marked.Seen.Addr() != gateway {
			env.Fail(fmt.Sprintf("%s, from %s with mark %#x > %s", o.node.Name, gateway, proxyMark, o.address()), "seen as "+gateway.String(), marked.String())
		}
	}
	return describeOutsides(env, all, "with the mark cni0's address is kept, without it is not")
}
