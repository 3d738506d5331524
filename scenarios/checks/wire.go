package checks

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func wireChecks() []suite.Check {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	return []suite.Check{
		{
			ID: "WF-01", Title: "packets travel in UDP to the port, from VTEP to VTEP",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: wireCheck(func(env *suite.Env, p packet) {
				env.Expect(p.String(), p.decoded, match.GoBetween(p.src.PublicIP(), p.dst.PublicIP(), env.Plan().Network.Backend.Port))
			}, func(p packet) string {
				return fmt.Sprintf("%s.%d > %s.%d", p.decoded.IP.Src, p.decoded.UDP.Src, p.decoded.IP.Dst, p.decoded.UDP.Dst)
			}, mustBeSeen),
		},
		{
			ID: "WF-02", Title: "VXLAN flags are 0x08, reserved bits 0, the VNI right",
			Source: "RFC 7348 section 5", Profiles: []string{vxlan}, Needs: needs,
			Run: wireCheck(func(env *suite.Env, p packet) {
				env.Expect(p.String(), p.decoded, match.HaveVXLANHeader(env.Plan().Network.Backend.VNI))
			}, func(p packet) string { return p.decoded.VXLAN.String() }, cannotBeJudged),
		},
		{
			ID: "WF-03", Title: "the inner MACs are the VTEPs', without a VLAN tag",
			Source: "RFC 7348 section 6.1", Profiles: []string{vxlan}, Needs: needs,
			Run: wireCheck(func(env *suite.Env, p packet) {
				env.Expect(p.String(), p.decoded, match.HaveInnerMACs(p.srcMAC, p.dstMAC))
			}, func(p packet) string { return fmt.Sprintf("%s > %s", p.decoded.Inner.Eth.Src, p.decoded.Inner.Eth.Dst) }, cannotBeJudged),
		},
		{
			ID: "WF-04", Title: "inner TTL 63 from a pod, 64 from a host; outer TTL 64",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: wireCheck(func(env *suite.Env, p packet) {
				env.Expect(p.String(), p.decoded, match.HaveInnerTTL(p.innerTTL))
				env.Expect(p.String(), p.decoded, match.HaveOuterTTL(initialTTL))
			}, func(p packet) string {
				return fmt.Sprintf("inner ttl %d, outer ttl %d", p.decoded.Inner.IP.TTL, p.decoded.IP.TTL)
			}, cannotBeJudged),
		},
	}
}

// exchangesOnUnderlay names what the checks on the wire of one family share.
func exchangesOnUnderlay(plan *topology.Plan) string {
	return fmt.Sprintf("exchanges on the underlay of %s", plan.Network.Network)
}

// wireCheck judges every packet that the exchanges have put on the underlay
// and shows one of them; absence judges those that should have been there and
// were not.
func wireCheck(judge func(*suite.Env, packet), show func(packet) string, absence func(*suite.Env, []packet) error) func(context.Context, *suite.Env) error {
	return func(ctx context.Context, env *suite.Env) error {
		x, err := suite.Shared(env, exchangesOnUnderlay(env.Plan()), func(ctx context.Context) (*exchanges, error) {
			return exchange(ctx, env, ringOfFlows(env.Plan()))
		})
		if err != nil {
			return err
		}
		for _, p := range x.packets {
			env.Cite(p.frame, p.id)
			judge(env, p)
		}
		if len(x.packets) > 0 {
			env.Evidence("%s in %d exchanges, as %s", count(len(x.packets), "packet"), x.tried, show(x.packets[0]))
		}
		if err := x.capture.Trust(); err != nil {
			return err
		}
		return absence(env, x.absent)
	}
}

// mustBeSeen judges that every packet was seen at all; the other checks on
// the wire judge what was seen, and say nothing of what was not.
func mustBeSeen(env *suite.Env, absent []packet) error {
	for _, p := range absent {
		env.Fail(p.String(), "a packet leaving "+p.at.Interface, "none, and the capture dropped nothing")
	}
	return nil
}

func cannotBeJudged(_ *suite.Env, absent []packet) error {
	if len(absent) == 0 {
		return nil
	}
	return suite.Inconclusivef("%s not seen on the underlay (WF-01)", count(len(absent), "packet"))
}

// flow is a ping across the underlay.
type flow struct {
	from     string
	src, dst *topology.Node
	to       netip.Addr
	// ttl is what the request and the reply have left when they are
	// encapsulated.
	requestTTL, replyTTL int
}

// packet is one direction of a flow, to be seen where its sender sends it.
type packet struct {
	flow           flow
	reply          bool
	src, dst       *topology.Node
	srcMAC, dstMAC topology.MAC
	at             suite.Point
	id             uuid.UUID
	innerTTL       int
	frame          capture.Frame
	decoded        capture.Packet
}

func (p packet) String() string {
	kind := "request"
	if p.reply {
		kind = "reply"
	}
	return fmt.Sprintf("%s: echo %s of %s > %s", p.at, kind, p.flow.from, p.flow.to)
}

// exchanges are all flows, captured once for all the checks on the wire.
type exchanges struct {
	capture *suite.Capture
	// tried counts the flows; packets are those that were seen, absent those
	// that must have passed and were not.
	tried           int
	packets, absent []packet
}

// protoIPIP is the IP protocol of RFC 2003.
const protoIPIP = 4

// exchange pings along the flows, and captures on every node's underlay
// interface meanwhile.
func exchange(ctx context.Context, env *suite.Env, flows []flow) (*exchanges, error) {
	plan := env.Plan()
	points := map[string]suite.Point{}
	var list []suite.Point
	for _, n := range nodesWithPods(plan) {
		points[n.Name] = suite.Point{Node: n.Name, Interface: n.Underlay().Name, Filter: carriers(plan)}
		list = append(list, points[n.Name])
	}
	pings := make([]suite.Ping, len(flows))
	for i, f := range flows {
		pings[i] = suite.Ping{From: f.from, Ping: probe.Ping{Dst: f.to, DF: true, ID: env.NewID(ctx)}}
	}
	var pongs []probe.Pong
	seen, err := env.Capture(ctx, list, func(ctx context.Context) error {
		var err error
		pongs, err = env.PingAll(ctx, pings)
		return err
	})
	if err != nil {
		return nil, err
	}
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return nil, err
	}
	mac := func(n *topology.Node) topology.MAC {
		if l := states[n.Name].Link(vtep(plan)); l != nil {
			return l.MAC
		}
		return topology.MAC{}
	}
	x := &exchanges{capture: seen, tried: len(flows)}
	for i, f := range flows {
		request := packet{
			flow: f, src: f.src, dst: f.dst, srcMAC: mac(f.src), dstMAC: mac(f.dst),
			at: points[f.src.Name], id: pongs[i].ID, innerTTL: f.requestTTL,
		}
		x.add(request, pongs[i].Sent > 0)
		reply := packet{
			flow: f, reply: true, src: f.dst, dst: f.src, srcMAC: mac(f.dst), dstMAC: mac(f.src),
			at: points[f.dst.Name], id: pongs[i].ID, innerTTL: f.replyTTL,
		}
		x.add(reply, len(pongs[i].Replies) > 0)
	}
	return x, nil
}

// carriers is everything that could carry the family's pings, on any port or
// bare.
func carriers(plan *topology.Plan) filter.Filter {
	all := filter.UDP().Or(filter.Protocol(protoIPIP))
	if plan.Is6() {
		return all.Or(filter.UDP6()).Or(filter.ICMPv6())
	}
	return all.Or(filter.ICMP())
}

// ringOfFlows has, for each node with pods, one flow from its first pod and
// one from the node itself, to the first pod of the next.
func ringOfFlows(plan *topology.Plan) []flow {
	var flows []flow
	nodes := nodesWithPods(plan)
	for i, src := range nodes {
		flows = append(flows, flowsBetween(plan, src, nodes[(i+1)%len(nodes)])...)
	}
	return flows
}

// flowsBetween has one flow from a node's first pod and one from the node
// itself, to the first pod of another.
func flowsBetween(plan *topology.Plan, src, dst *topology.Node) []flow {
	f := flow{src: src, dst: dst, to: plan.PodsOn(dst.Name)[0].Address.Addr(), replyTTL: initialTTL - 1}
	pod, host := f, f
	pod.from, pod.requestTTL = plan.PodsOn(src.Name)[0].Name, initialTTL-1
	host.from, host.requestTTL = src.Name, initialTTL
	return []flow{pod, host}
}

// add looks for a packet where its sender sends it; due says that it must
// have passed there.
func (x *exchanges) add(p packet, due bool) {
	frames := x.capture.Find(p.at, capture.Out, p.id)
	for _, f := range frames {
		// VXLAN on a wrong port is still VXLAN, so that each check finds only
		// its own fault.
		outer := f.Decode(0)
		d := f.Decode(outer.UDP.Dst)
		if in := d.Innermost(); in.IsICMP() && in.IsEchoReply() == p.reply {
			p.frame, p.decoded = f, d
			x.packets = append(x.packets, p)
			return
		}
	}
	if due {
		x.absent = append(x.absent, p)
	}
}
