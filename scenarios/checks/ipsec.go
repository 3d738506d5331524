package checks

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// protoESP is the IP protocol of RFC 4303.
const protoESP = 50

// encryptedByESP judges what leaves the nodes while pods and nodes ping pods of the
// next node. What is in ESP cannot be told apart, so that ESP is counted; what
// is in the clear carries the ping's identifier.
func encryptedByESP(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	wire := filter.Protocol(protoESP).Or(filter.UDP()).Or(filter.ICMP()).Or(filter.Protocol(protoIPIP))
	points := map[string]suite.Point{}
	var list []suite.Point
	for _, n := range nodesWithPods(plan) {
		points[n.Name] = suite.Point{Node: n.Name, Interface: n.Underlay().Name, Filter: wire}
		list = append(list, points[n.Name])
	}
	flows := ringOfFlows(plan)
	pings := make([]suite.Ping, len(flows))
	for i, f := range flows {
		pings[i] = suite.Ping{From: f.from, Ping: probe.Ping{Dst: f.to, DF: true, ID: env.NewID(ctx)}}
	}
	var pongs []probe.Pong
	seen, err := env.Capture(ctx, list, func(ctx context.Context) (err error) {
		pongs, err = env.PingAll(ctx, pings)
		return err
	})
	if err != nil {
		return err
	}
	due, clear := map[[2]*topology.Node]int{}, 0
	for i, f := range flows {
		if pongs[i].Sent > 0 {
			due[[2]*topology.Node{f.src, f.dst}]++
		}
		if len(pongs[i].Replies) > 0 {
			due[[2]*topology.Node{f.dst, f.src}]++
		}
		// The kernel shows what it has decrypted as if the interface had
		// received it, so only what is sent counts.
		for _, end := range []*topology.Node{f.src, f.dst} {
			for _, frame := range seen.Find(points[end.Name], capture.Out, pongs[i].ID) {
				clear++
				env.Cite(frame, pongs[i].ID)
				packet := frame.Decode(0)
				env.Fail(fmt.Sprintf("%s: ping of %s > %s", points[end.Name], f.from, f.to), "ESP", fmt.Sprintf("in the clear, IP protocol %d", packet.IP.Protocol))
			}
		}
	}
	total := 0
	for pair, n := range due {
		src, dst := pair[0], pair[1]
		frames := espFrames(seen.All(points[src.Name], capture.Out), src, dst)
		total += len(frames)
		if len(frames) < n {
			env.Fail(fmt.Sprintf("%s, to %s", points[src.Name], dst.Name), fmt.Sprintf("%s of ESP %s > %s at least", count(n, "packet"), src.PublicIP(), dst.PublicIP()), fmt.Sprint(len(frames)))
		}
		if len(frames) > 0 {
			env.Cite(frames[0], uuid.Nil)
		}
	}
	env.Evidence("%s of ESP, %s in the clear, in %s; mtu %d", count(total, "packet"), count(clear, "packet"), count(len(flows), "exchange"), plan.OverlayMTU(&plan.Nodes[0]))
	return seen.Trust()
}

// espFrames are those of ESP between two nodes.
func espFrames(frames []capture.Frame, src, dst *topology.Node) []capture.Frame {
	var out []capture.Frame
	for _, f := range frames {
		if p := f.Decode(0); p.IP.Protocol == protoESP && p.IP.Src == src.PublicIP() && p.IP.Dst == dst.PublicIP() {
			out = append(out, f)
		}
	}
	return out
}
