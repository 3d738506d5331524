package suite_test

import (
	"context"
	"testing"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

// A check makes findings of the differences that are its own, and of no others.
//
//	master --- node-1     172.16.1.0/24, no agents, no store
func TestDifferences(t *testing.T) {
	plan := labtest.Plan(2, 1, 1500)
	for i := range plan.Nodes {
		plan.Nodes[i].Agent.ByHand = true
	}
	lab := labtest.Up(t, plan)
	lab.Exec(t, "node-1", "ip", "route", "del", "10.244.0.0/24")
	lab.Exec(t, "node-1", "ip", "neigh", "del", "10.244.0.0", "dev", "flannel.1")
	r := run(t, lab, suite.Options{}, check("X-01", func(ctx context.Context, env *suite.Env) error {
		d, err := env.Differences(ctx, "node-1", "master")
		if err != nil {
			return err
		}
		n := env.FailEntries(d, func(e oracle.Entry) bool { return e.Kind == oracle.KindRoute })
		env.Evidence("%d of %d", n, len(d.Entries))
		return nil
	}))
	got := r.Results[0]
	want := suite.Finding{Where: "node-1 ip route", Expected: "10.244.0.0/24 via 10.244.0.0 dev flannel.1 onlink", Seen: "no such entry"}
	if got.Verdict != suite.Fail || got.Evidence != "1 of 2" || len(got.Findings) != 1 || got.Findings[0] != want {
		t.Errorf("%+v, want the finding %+v", got, want)
	}
}
