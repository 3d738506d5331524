package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/overlab/overlab/harness/suite"
)

// ConformanceVersion names the conformance report's schema.
const ConformanceVersion = "overlab/conformance/v1alpha1"

// Conformance is a claim that others can compare: which agent, on what, was
// asked which checks, and with what outcome. It is laid out after the
// conformance reports of Kubernetes' Gateway API.
type Conformance struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Date       time.Time `json:"date"`
	// Overlab is the version of the program that judged.
	Overlab     string                 `json:"overlab"`
	Agent       suite.Agent            `json:"agent"`
	Environment ConformanceEnvironment `json:"environment"`
	// Partial says that the run was interrupted, or was of chosen checks only:
	// then no profile is claimed.
	Partial  bool                 `json:"partial"`
	Profiles []ConformanceProfile `json:"profiles"`
	// Deviations are the checks that neither passed nor did not apply.
	Deviations []Deviation `json:"deviations,omitempty"`
}

// ConformanceEnvironment says where it was.
type ConformanceEnvironment struct {
	Lab      string `json:"lab"`
	Provider string `json:"provider"`
	Backend  string `json:"backend"`
	Kernel   string `json:"kernel"`
	Platform string `json:"platform"`
	Nodes    int    `json:"nodes"`
	Pods     int    `json:"pods"`
}

// ConformanceProfile is the outcome for one profile.
type ConformanceProfile struct {
	Name string `json:"name"`
	// Core and the others are nil where no check of that level was asked.
	Core      *ConformanceLevel `json:"core,omitempty"`
	Extended  *ConformanceLevel `json:"extended,omitempty"`
	Hardening *ConformanceLevel `json:"hardening,omitempty"`
	Strict    *ConformanceLevel `json:"strict,omitempty"`
}

// ConformanceLevel is the outcome of one level of a profile.
type ConformanceLevel struct {
	// Result is success (all that applies passed), partial (all but declared
	// exemptions and what the agent declares not to support), failure,
	// inconclusive (nothing failed, something could not be judged), or
	// not-applicable.
	Result     string                `json:"result"`
	Statistics map[suite.Verdict]int `json:"statistics"`
}

// Deviation is a check that did not pass.
type Deviation struct {
	Check   string        `json:"check"`
	Title   string        `json:"title"`
	Level   suite.Level   `json:"level"`
	Verdict suite.Verdict `json:"verdict"`
	Reason  string        `json:"reason,omitempty"`
}

// NewConformance sums a report up.
func NewConformance(r *suite.Results) Conformance {
	c := Conformance{
		APIVersion: ConformanceVersion, Kind: "ConformanceReport", Date: r.Started.UTC(), Partial: r.Interrupted,
		Environment: ConformanceEnvironment{Lab: r.Lab, Provider: r.Provider},
	}
	if a := r.About; a != nil {
		c.Overlab, c.Agent = a.Overlab, a.Agent
		c.Environment.Backend, c.Environment.Kernel, c.Environment.Platform = a.Backend, a.Kernel, a.Platform
		c.Environment.Nodes, c.Environment.Pods = a.Nodes, a.Pods
		c.Partial = c.Partial || len(a.Checks) > 0 || len(a.Profiles) > 0
	}
	counts := map[string]map[suite.Level]map[suite.Verdict]int{}
	for _, res := range r.Results {
		for _, p := range res.Profiles {
			if counts[p] == nil {
				counts[p] = map[suite.Level]map[suite.Verdict]int{}
				c.Profiles = append(c.Profiles, ConformanceProfile{Name: p})
			}
			if counts[p][res.Level] == nil {
				counts[p][res.Level] = map[suite.Verdict]int{}
			}
			counts[p][res.Level][res.Verdict]++
		}
		if res.Verdict != suite.Pass && res.Verdict != suite.NotApplicable {
			c.Deviations = append(c.Deviations, Deviation{res.ID, res.Title, res.Level, res.Verdict, deviationReason(&res)})
		}
	}
	for i := range c.Profiles {
		p := &c.Profiles[i]
		of := counts[p.Name]
		p.Core, p.Extended = conformanceLevel(of[suite.Core]), conformanceLevel(of[suite.Extended])
		p.Hardening, p.Strict = conformanceLevel(of[suite.Hardening]), conformanceLevel(of[suite.Strict])
	}
	return c
}

func deviationReason(r *suite.Result) string {
	if r.Verdict == suite.Fail {
		return failMessage(r)
	}
	return r.Reason
}

func conformanceLevel(n map[suite.Verdict]int) *ConformanceLevel {
	if n == nil {
		return nil
	}
	l := &ConformanceLevel{Statistics: n}
	others := slices.DeleteFunc(suite.Verdicts(), func(v suite.Verdict) bool {
		return v == suite.Pass || v == suite.NotApplicable || n[v] == 0
	})
	switch {
	case n[suite.Fail] > 0:
		l.Result = "failure"
	case n[suite.Inconclusive] > 0:
		l.Result = "inconclusive"
	case len(others) > 0:
		l.Result = "partial"
	case n[suite.Pass] == 0:
		l.Result = "not-applicable"
	default:
		l.Result = "success"
	}
	return l
}

// ConformanceYAML writes the conformance report.
func ConformanceYAML(w io.Writer, r *suite.Results) error {
	b, err := json.Marshal(NewConformance(r))
	var doc yaml.Node
	if err == nil {
		err = yaml.Unmarshal(b, &doc) // JSON is YAML, and keeps the keys' order
	}
	if err == nil {
		plain(&doc)
		enc := yaml.NewEncoder(w)
		enc.SetIndent(2)
		err = errors.Join(enc.Encode(&doc), enc.Close())
	}
	if err != nil {
		return fmt.Errorf("write conformance report: %w", err)
	}
	return nil
}

// plain takes JSON's braces and quotes off.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}
