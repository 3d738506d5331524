package checks_test

import (
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

// TestSoundDualStack: a lab of both families passes in both.
func TestSoundDualStack(t *testing.T) {
	for name, c := range map[string]struct {
		backend string
		passed  int
	}{
		"vxlan":   {"vxlan", 36},
		"host-gw": {"host-gw", 22},
	} {
		t.Run(name, func(t *testing.T) {
			plan := labtest.DualPlan(3, 2, 1500)
			plan.Network.Backend.Type = c.backend
			lab := labtest.Up(t, plan)
			startStore(t, lab)
			r := run(t, lab, suite.Options{})
			for _, res := range r.Results {
				t.Log(res.ID, res.Verdict, res.Evidence, res.Reason)
				if res.Verdict != suite.Pass && res.Verdict != suite.NotApplicable {
					t.Error(text(res))
				}
			}
			if passed := r.Count(suite.Pass); passed != c.passed {
				t.Errorf("%d checks passed, want %d", passed, c.passed)
			}
		})
	}
}
