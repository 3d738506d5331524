package checks

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// leakChecks are on what must not be on the underlay. That something is absent
// is judged only where something like it was seen.
func leakChecks() []suite.Check {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	return []suite.Check{
		{
			ID: "WF-08", Title: "no bare pod packet, and none of one node, on the wire",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: noLeaks,
		},
		{
			ID: "WF-09", Title: "no ARP inside the tunnel",
			Source: fromSeeds, Profiles: []string{vxlan}, Needs: needs,
			Run: noARP,
		},
	}
}

// noLeaks pings across nodes and within them, and looks at all that the
// underlay carries.
func noLeaks(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	var points []suite.Point
	for _, n := range nodesWithPods(plan) {
		for _, i := range n.Interfaces {
			points = append(points, suite.Point{Node: n.Name, Interface: i.Name, Filter: filter.EtherType(0x0800)})
		}
	}
	var pings []suite.Ping
	for _, f := range ringOfFlows(plan) {
		pings = append(pings, suite.Ping{From: f.from, Ping: probe.Ping{Dst: f.to, ID: env.NewID(ctx)}})
	}
	across := len(pings)
	for _, p := range env.SameNodePairs().List {
		pings = append(pings, suite.Ping{From: p.From.Name, Ping: probe.Ping{Dst: p.To.Address.Addr(), ID: env.NewID(ctx)}})
	}
	seen, err := env.Capture(ctx, points, func(ctx context.Context) error {
		_, err := env.PingAll(ctx, pings)
		return err
	})
	if err != nil {
		return err
	}
	control := 0
	for _, at := range points {
		for _, direction := range []capture.Direction{capture.Out, capture.In} {
			for i, p := range pings {
				for _, f := range seen.Find(at, direction, p.ID) {
					control++
					if what := leak(env, f, i >= across); what != "" {
						env.Cite(f, p.ID)
						env.Fail(fmt.Sprintf("%s: echo of %s > %s", at, p.From, p.Dst), what, describe(env, f))
					}
				}
			}
		}
	}
	env.Evidence("%d exchanges between nodes, in %d frames, none bare; %d within nodes, in none", across, control, len(pings)-across)
	if err := seen.Trust(); err != nil {
		return err
	}
	if control == 0 {
		return suite.Inconclusivef("nothing of what was sent between nodes was seen on the underlay (WF-01)")
	}
	return nil
}

// leak says what was expected of a frame on the underlay that must not be
// there, or nothing.
func leak(env *suite.Env, f capture.Frame, within bool) string {
	if within {
		return "nothing of what stays within a node"
	}
	d := f.Decode(uint16(env.Plan().Network.Backend.Port))
	if net := env.Plan().Network.Network; net.Contains(d.IP.Src) || net.Contains(d.IP.Dst) {
		return "no pod's address in an outer header"
	}
	return ""
}

func describe(env *suite.Env, f capture.Frame) string {
	d := f.Decode(uint16(env.Plan().Network.Backend.Port))
	tunnel := "bare"
	if d.Encapsulated() {
		tunnel = "VXLAN"
	}
	return fmt.Sprintf("%s, %s > %s", tunnel, d.IP.Src, d.IP.Dst)
}

func noARP(ctx context.Context, env *suite.Env) error {
	x, err := suite.Shared(env, exchangesOnUnderlay(env.Plan()), func(ctx context.Context) (*exchanges, error) {
		return exchange(ctx, env, ringOfFlows(env.Plan()))
	})
	if err != nil {
		return err
	}
	plan := env.Plan()
	tunnelled := 0
	for _, n := range nodesWithPods(plan) {
		at := suite.Point{Node: n.Name, Interface: n.Underlay().Name}
		for _, f := range x.capture.All(at, capture.Out) {
			d := f.Decode(uint16(plan.Network.Backend.Port))
			if !d.Encapsulated() {
				continue
			}
			tunnelled++
			if d.Inner.Has(capture.LayerARP) {
				env.Cite(f, uuid.Nil)
				env.Fail(at.String(), "no ARP inside the tunnel", fmt.Sprintf("ARP, %s asks for %s", d.Inner.ARP.SenderIP, d.Inner.ARP.TargetIP))
			}
		}
	}
	env.Evidence("%d frames in the tunnel, from %s, none with ARP", tunnelled, count(len(nodesWithPods(plan)), "node"))
	if err := x.capture.Trust(); err != nil {
		return err
	}
	if tunnelled == 0 {
		return suite.Inconclusivef("nothing was seen in the tunnel (WF-01)")
	}
	return nil
}
