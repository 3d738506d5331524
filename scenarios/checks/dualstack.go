package checks

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/suite"
)

// overIPv6 makes DS-01 of the checks that judge IPv4: each core check again,
// under its own name behind DS-01's, by the plan as IPv6 sees it, and those of
// what an overlay must survive whatever their level.
func overIPv6(all []suite.Check) []suite.Check {
	var out []suite.Check
	for _, c := range all {
		survives := slices.Contains(c.Profiles, resilience)
		if cmp.Or(c.Level, suite.Core) != suite.Core && !survives || !carriesIPv6(c) || slices.Contains(onlyIPv4(), c.ID) {
			continue
		}
		c.ID, c.Level, c.OverIPv6 = "DS-01/"+c.ID, suite.Extended, true
		c.Title = "IPv6: " + strings.Replace(c.Title, " .1", " ::1", 1)
		c.Profiles = append([]string{dualStack}, c.Profiles...)
		c.Needs = append([]suite.Feature{suite.IPv6}, slices.DeleteFunc(slices.Clone(c.Needs), func(f suite.Feature) bool { return f == suite.IPv4 })...)
		out = append(out, c)
	}
	return out
}

// onlyIPv4 are those that IPv6 has no part in, or which read IPv4's headers: with
// a link go IPv6's addresses, which are not the agent's to restore (RS-07);
// nothing fragments IPv6 on its way (MTU-05, WF-07); what the links have, both
// families share (MTU-06); TCP's segments, an outer source port and forged or
// marked packets are judged by IPv4's alone (MTU-04, WF-05, NT-03, NT-04).
func onlyIPv4() []string {
	return []string{"RS-07", "MTU-04", "MTU-05", "MTU-06", "WF-05", "WF-07", "NT-03", "NT-04"}
}

// carriesIPv6 reports whether a check judges IPv4, and by a backend that has
// IPv6 as well. Nothing maps ports of nodes over IPv6.
func carriesIPv6(c suite.Check) bool {
	return slices.Contains(c.Needs, suite.IPv4) && !slices.ContainsFunc(c.Needs, func(f suite.Feature) bool {
		return f == suite.IPIP || f == suite.WireGuard || f == suite.IPsec || f == suite.UDP || f == suite.PodPorts
	})
}

// maxPaths bounds the pairs whose path is measured: where packets vanish a
// measurement waits for a dozen answers.
const maxPaths = 64

// overlayMTU6 is the check of IPv6's own MTU: VXLAN adds an outer IPv6 header of
// 40 bytes, UDP 8, VXLAN 8 and the inner Ethernet header, 14.
func overlayMTU6() []suite.Check {
	return []suite.Check{{
		ID: "MTU-07", Level: suite.Extended, Title: "IPv6: VTEP and pods have 70 bytes less than the underlay",
		Source: fromFlannel, Profiles: []string{dualStack, vxlan}, OverIPv6: true,
		Needs: []suite.Feature{suite.IPv6, suite.CrossNodePods, suite.FullMesh},
		Run:   room6,
	}}
}

// room6 judges the devices of IPv6, and measures what passes between pods. That
// their own kernel is who refuses more shows that pods know the MTU; a node
// would name it to each of them for each destination anew.
func room6(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		st, err := env.State(ctx, n.Name)
		if err != nil {
			return err
		}
		if l := st.Link(vtep(plan)); l == nil {
			env.Fail(n.Name+" "+vtep(plan), "a VXLAN device", "no such device")
		} else {
			env.Expect(n.Name+" "+l.Name, l, match.HaveMTU(plan.OverlayMTU(n)))
		}
	}
	pairs := env.CrossNodePairs()
	pairs.List = pairs.List[:min(maxPaths, len(pairs.List))]
	// A path that is not there at all has no MTU; and the first packet of all
	// waits for a neighbour to be found, which is no black hole.
	pongs, err := pingSizes(ctx, env, pairs, make([]int, len(pairs.List)))
	if err != nil {
		return err
	}
	found := make([]int, len(pairs.List))
	var there []int
	for i, p := range pairs.List {
		if env.Expect(p.String(), pongs[i], match.BeAnswered()) {
			there = append(there, i)
		}
	}
	err = suite.Each(there, func(i int) error {
		var err error
		found[i], err = measureRoom6(ctx, env, pairs.List[i])
		return err
	})
	env.Evidence("%s over %s: path MTU %s, underlay %d", pairs, vtep(plan), sizeRange(found), plan.Nodes[0].Underlay().MTU)
	return err
}

// measureRoom6 judges the path between two pods, and returns its MTU.
func measureRoom6(ctx context.Context, env *suite.Env, p suite.Pair) (int, error) {
	from, err := env.Session(ctx, p.From.Name)
	if err != nil {
		return 0, err
	}
	limit := env.Plan().Node(p.From.Node).Underlay().MTU
	m, err := from.PathMTU(ctx, p.To.Address.Addr(), limit, env.Timeouts().Reply)
	if err != nil {
		return 0, err
	}
	env.Expect(p.String(), m, match.HavePathMTU(min(podMTU(env, p.From.Node), podMTU(env, p.To.Node))))
	return m.MTU, nil
}
