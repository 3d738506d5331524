package checks_test

import (
	"context"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/scenarios/checks"
	"github.com/overlab/overlab/topology"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func catalogue(t testing.TB) *suite.Suite {
	t.Helper()
	s, err := suite.New(checks.All())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// withoutAgents are the checks that a mesh passes which nobody looks after.
var withoutAgents = []string{"NM", "TTL", "DP", "CP-0[1-356]", "WF", "MTU-0[1-6]", "BE", "SE", "NT", "PF"}

// run runs the checks whose IDs match, or all that need no agent.
func run(t testing.TB, lab topology.Lab, o suite.Options, only ...string) *suite.Results {
	t.Helper()
	if o.Select.Only = only; len(only) == 0 {
		o.Select.Only = withoutAgents
	}
	if len(o.Select.Levels) == 0 { // the letter of the RFC and hardening are asked for by name
		o.Select.Levels = []suite.Level{suite.Core, suite.Extended, suite.Information}
	}
	r, err := catalogue(t).Run(t.Context(), lab, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// text is everything that a result says.
func text(r suite.Result) string {
	lines := []string{r.ID + " " + string(r.Verdict), "  " + r.Evidence, "  " + r.Reason}
	for _, f := range r.Findings {
		lines = append(lines, "  "+f.String())
	}
	return strings.Join(lines, "\n")
}

func startStore(t testing.TB, lab *labtest.Lab) {
	t.Helper()
	if err := lab.StartStore(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
}
