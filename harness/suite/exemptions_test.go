package suite_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

func someChecks() []suite.Check {
	judge := func(wrong bool) func(context.Context, *suite.Env) error {
		return func(_ context.Context, env *suite.Env) error {
			if wrong {
				env.Fail("node-1", "one", "other")
			}
			return nil
		}
	}
	return []suite.Check{
		{ID: "A-1", Title: "a", Run: judge(true)}, {ID: "A-2", Title: "b", Run: judge(false)},
		{ID: "A-3", Title: "c", Run: func(context.Context, *suite.Env) error { return suite.Inconclusivef("no") }},
	}
}

const exemptionsHead = "apiVersion: overlab/v1alpha1\nkind: Exemptions\nexemptions:\n"

func TestParseExemptions(t *testing.T) {
	got, err := suite.ParseExemptions("x.yaml", []byte(exemptionsHead+"- {check: A-1, reason: known}\n"), someChecks())
	if err != nil || !slices.Equal(got, []suite.Exemption{{Check: "A-1", Reason: "known"}}) {
		t.Error(got, err)
	}
	for text, want := range map[string]string{
		"":                            "x.yaml:1:1: the file is empty",
		"apiVersion: v2\nkind: Lab\n": `x.yaml:1:13: apiVersion is "v2"`,
		"kind: Exemptions\n":          `x.yaml:1:1: the key "apiVersion" is missing`,
		exemptionsHead + "- {check: A-9, reason: x}":                            `x.yaml:4:11: there is no check "A-9"`,
		exemptionsHead + "- {check: A-1}":                                       `x.yaml:4:3: the key "reason" is missing`,
		exemptionsHead + "- {check: A-1, reason: ''}":                           "x.yaml:4:24: an exemption needs a reason",
		exemptionsHead + "- {check: A-1, why: x}":                               `x.yaml:4:16: there is no key "why"; it takes check, reason`,
		exemptionsHead + "- A-1":                                                "x.yaml:4:3: a mapping of check, reason belongs here",
		exemptionsHead + "- {check: A-1, reason: x}\n- {check: A-1, reason: x}": "x.yaml:5:11: A-1 is there twice",
		exemptionsHead + "\t":                                                   "x.yaml: yaml: ",
	} {
		if _, err := suite.ParseExemptions("x.yaml", []byte(text), someChecks()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestExempt: an exemption turns a fail into exempt, with its findings, and
// nothing else into anything.
func TestExempt(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	r := run(t, lab, suite.Options{Exemptions: []suite.Exemption{
		{Check: "A-1", Reason: "known"}, {Check: "A-2", Reason: "known"}, {Check: "A-3", Reason: "known"},
	}}, someChecks()...)
	for i, want := range []suite.Verdict{suite.Exempt, suite.Pass, suite.Inconclusive} {
		if r.Results[i].Verdict != want {
			t.Errorf("%+v, want %s", r.Results[i], want)
		}
	}
	if first := r.Results[0]; first.Reason != "declared: known" || len(first.Findings) != 1 {
		t.Errorf("%+v", first)
	}
	if r.ExitCode() != 3 {
		t.Error(r.ExitCode())
	}
}
