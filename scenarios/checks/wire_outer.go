package checks

import (
	"context"
	"fmt"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// outerChecks are on the outer headers' checksum and fragments.
func outerChecks() []suite.Check {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	checksums := func(ok ...capture.Checksum) func(context.Context, *suite.Env) error {
		return wireCheck(func(env *suite.Env, p packet) {
			have := p.frame.UDPChecksum()
			for _, want := range ok {
				if have == want {
					return
				}
			}
			env.Fail(p.String(), fmt.Sprintf("outer UDP checksum %s", ok[0]), fmt.Sprintf("%s (0x%04x)", have, p.decoded.UDP.Checksum))
		}, func(p packet) string { return "checksum " + string(p.frame.UDPChecksum()) }, cannotBeJudged)
	}
	return []suite.Check{
		{
			ID: "WF-06", Title: "the outer UDP checksum is zero or right",
			Source: "RFC 7348 section 5", Profiles: []string{vxlan}, Needs: needs,
			Run: checksums(capture.ChecksumNone, capture.ChecksumValid, capture.ChecksumPending),
		},
		{
			ID: "WF-06R", Level: suite.Strict, Title: "the outer UDP checksum is zero",
			Source: "RFC 7348 section 5", Profiles: []string{vxlan}, Needs: needs,
			Run: checksums(capture.ChecksumNone),
		},
		{
			ID: "WF-07", Title: "VTEPs do not fragment what pods send",
			Source: "RFC 7348 section 4.3", Profiles: []string{vxlan}, Needs: needs,
			Run: unfragmented,
		},
	}
}

// unfragmented pings with packets as long as each pod's own link takes, and
// looks for fragments between the nodes.
func unfragmented(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, podNames(plan))
	if err != nil {
		return err
	}
	var points []suite.Point
	var pings []suite.Ping
	nodes := nodesWithPods(plan)
	for i, n := range nodes {
		from, to := plan.PodsOn(n.Name)[0], plan.PodsOn(nodes[(i+1)%len(nodes)].Name)[0]
		l := states[from.Name].Link("eth0")
		if l == nil {
			return suite.Inconclusivef("%s has no eth0 (DP-02)", from.Name)
		}
		// Fragments of any protocol: what is not the first has no port.
		points = append(points, suite.Point{Node: n.Name, Interface: n.Underlay().Name, Filter: filter.Protocol(protoUDP)})
		pings = append(pings, suite.Ping{From: from.Name, Ping: probe.Ping{Dst: to.Address.Addr(), Size: l.MTU, ID: env.NewID(ctx)}})
	}
	seen, err := env.Capture(ctx, points, func(ctx context.Context) error {
		_, err := env.PingAll(ctx, pings)
		return err
	})
	if err != nil {
		return err
	}
	df := ""
	unseen := 0
	for i, at := range points {
		frames := seen.Find(at, capture.Out, pings[i].ID) // the first fragment has the identifier
		for _, f := range frames {
			d := f.Decode(uint16(plan.Network.Backend.Port))
			env.Cite(f, pings[i].ID)
			if d.IP.MF || d.IP.Offset != 0 {
				env.Fail(fmt.Sprintf("%s: %d bytes of %s", at, pings[i].Size, pings[i].From), "a whole outer packet", fmt.Sprintf("a fragment of %d bytes", d.IP.Length))
			}
			df = "not set"
			if d.IP.DF {
				df = "set"
			}
		}
		if len(frames) == 0 {
			unseen++
		}
	}
	env.Evidence("%s, packets of up to %d bytes, whole; DF of the outer header %s", count(len(points), "node"), pings[0].Size, df)
	if err := seen.Trust(); err != nil {
		return err
	}
	if unseen > 0 {
		return suite.Inconclusivef("%s not seen on the underlay (WF-01)", count(unseen, "packet"))
	}
	return nil
}

// protoUDP is UDP's IP protocol number.
const protoUDP = 17
