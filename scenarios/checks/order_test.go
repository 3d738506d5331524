package checks_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

// TestProgrammingIsJudged: an agent that programs a peer's route before what it
// leads to fails CP-04, one that serves some peers only fails SC-01.
//
//	master --- node-1     172.16.1.0/24, subnets for 60 nodes
func TestProgrammingIsJudged(t *testing.T) {
	served := 0
	for _, c := range []struct {
		name, check string
		serve       func(lease.Lease) string
		verdict     suite.Verdict
		want        []string
	}{
		{
			"in order", "CP-04", serving, suite.Pass,
			[]string{"2 of 2 nodes served a new lease of 10.244.60.0/24 in order"},
		},
		{
			"the route first", "CP-04", func(l lease.Lease) string { return toRoute(l) + toNeighbour(l) + toFDB(l) }, suite.Fail,
			[]string{
				"node-1, peer 10.244.60.0-24: expected first the neighbour, then the FDB entry, then the route, seen the neighbour as number 2, the FDB entry as 3, the route as 1",
				"master, peer 10.244.60.0-24",
			},
		},
		{
			"the FDB entry first", "CP-04", func(l lease.Lease) string { return toFDB(l) + toNeighbour(l) + toRoute(l) }, suite.Fail,
			[]string{"seen the neighbour as number 2, the FDB entry as 1, the route as 3"},
		},
		{
			"all peers", "SC-01", serving, suite.Pass,
			[]string{"N=50: 147 entries a node, a peer served after p50 ", "N=200 not tried, of 3 to 61"},
		},
		{
			"40 peers", "SC-01", func(l lease.Lease) string {
				if served++; served > 40 {
					return ""
				}
				return serving(l)
			}, suite.Fail,
			[]string{"expected 147 entries, 3 for each of 49 peers, seen after ", "41 neighbours, 41 FDB entries, 41 routes"},
		},
	} {
		t.Run(c.check+" "+c.name, func(t *testing.T) {
			plan := labtest.Plan(2, 1, 1500)
			plan.Network.SubnetMax = netip.MustParseAddr("10.244.60.0")
			lab := labtest.Up(t, plan)
			startStore(t, lab)
			agent := &careless{idle: idle{Lab: lab}, t: t, seen: map[netip.Prefix]lease.Lease{}, serve: c.serve}
			agent.start()
			res := run(t, agent, suite.Options{}, c.check).Results[0]
			got := strings.Join(strings.Fields(text(res)), " ")
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("it does not say %q", w)
				}
			}
			if res.Verdict != c.verdict {
				t.Errorf("want %s", c.verdict)
			}
			if t.Failed() {
				t.Log(text(res))
			}
			for _, res := range run(t, lab, suite.Options{}, "CP-0[123]").Results {
				if res.Verdict != suite.Pass {
					t.Errorf("the lab is not whole: %s", text(res))
				}
			}
		})
	}
}

// TestSubnetFileIsReplaced: an agent that changes subnet.env in place fails
// CP-05, whatever it writes.
func TestSubnetFileIsReplaced(t *testing.T) {
	const env = "/run/flannel/subnet.env"
	for _, c := range []struct {
		name, restart string
		verdict       suite.Verdict
		want          string
	}{
		{"moved over", "grep -v STALE " + env + " > /run/flannel/.new; mv /run/flannel/.new " + env, suite.Pass, "replaced in one step by the agent of master"},
		{"in place", "sed '/STALE/d' " + env + " > /run/flannel/.new; cat /run/flannel/.new > " + env, suite.Fail, "master /run/flannel/subnet.env: expected a whole file that takes the other's place in one step, seen the file was changed in place"},
		{"made anew", "sed '/STALE/d' " + env + " > /run/flannel/.new; rm " + env + "; cat /run/flannel/.new > " + env, suite.Fail, "seen the file was changed in place"},
		{"left", "true", suite.Pass, "not written by the agent of master, restarted, within 5s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
			restart := func(node string) { lab.Exec(t, node, "sh", "-c", c.restart) }
			res := run(t, idle{Lab: lab, restart: restart}, suite.Options{}, "CP-05").Results[0]
			if got := strings.Join(strings.Fields(text(res)), " "); res.Verdict != c.verdict || !strings.Contains(got, c.want) {
				t.Errorf("want %s, %q:\n%s", c.verdict, c.want, text(res))
			}
			if res := run(t, lab, suite.Options{}, "CP-05").Results[0]; res.Verdict != suite.Pass || strings.Contains(res.Evidence, "STALE") {
				t.Errorf("the file is not as before: %s", text(res))
			}
		})
	}
}
