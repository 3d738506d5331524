package checks_test

import (
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/fartest"
	"github.com/overlab/overlab/internal/labtest"
)

// TestRemoteLab: of machines that can only be asked, and must be left as they
// are, the harmless checks give the verdicts that they give of this one's, and
// the others say why they do not run.
func TestRemoteLab(t *testing.T) {
	near := labtest.Up(t, labtest.Plan(3, 2, 1500))
	lab := fartest.Lab(near)
	const why = "nothing here is the harness's to change"
	r := run(t, lab, suite.Options{Spare: why})
	here := run(t, near, suite.Options{})
	ran := 0
	for i, res := range r.Results {
		disturbs := strings.Contains(res.Reason, why)
		switch {
		case disturbs && res.Verdict == suite.NotApplicable:
		case strings.HasPrefix(res.ID, "SE-") || disturbs:
			t.Errorf("%s was not spared: %s %s", res.ID, res.Verdict, res.Reason)
		case res.Verdict != here.Results[i].Verdict:
			t.Error(text(res))
		case res.Verdict == suite.Pass:
			ran++
		}
	}
	if ran < 25 {
		t.Errorf("%d checks passed", ran)
	}
}
