package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/suite"
)

// The elements of JUnit's XML, as Jenkins, GitLab and the others read it.
type (
	junitSuites struct {
		XMLName xml.Name     `xml:"testsuites"`
		Name    string       `xml:"name,attr"`
		Time    string       `xml:"time,attr"`
		Suites  []junitSuite `xml:"testsuite"`
		junitCounts
	}
	junitCounts struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
	}
	junitSuite struct {
		Name       string          `xml:"name,attr"`
		Time       string          `xml:"time,attr"`
		Timestamp  string          `xml:"timestamp,attr"`
		Properties []junitProperty `xml:"properties>property,omitempty"`
		Cases      []junitCase     `xml:"testcase"`
		junitCounts
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitProblem `xml:"failure"`
		Error   *junitProblem `xml:"error"`
		Skipped *junitProblem `xml:"skipped"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitProblem struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes the report as JUnit's XML: one suite for each group of
// identifiers (TTL, WF). What is inconclusive is an error, so that no reader
// takes it for a pass; what is not applicable, unsupported, skipped or exempt
// counts as skipped.
func JUnit(w io.Writer, r *suite.Results) error {
	all := junitSuites{Name: "overlab " + r.Lab, Time: junitTime(r.Took)}
	at := map[string]int{}
	took := map[string]time.Duration{}
	for i := range r.Results {
		res := &r.Results[i]
		group := groupOf(res.ID)
		if _, ok := at[group]; !ok {
			at[group] = len(all.Suites)
			all.Suites = append(all.Suites, junitSuite{
				Name: group, Timestamp: r.Started.UTC().Format("2006-01-02T15:04:05"), Properties: properties(r),
			})
		}
		s := &all.Suites[at[group]]
		c := junitResult(group, res)
		if c.Failure != nil {
			c.Failure.Text += likeliest(r)
		}
		s.Cases = append(s.Cases, c)
		s.count(&c)
		all.count(&c)
		took[group] += res.Took
		s.Time = junitTime(took[group])
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return fmt.Errorf("write JUnit report: %w", err)
	}
	enc := xml.NewEncoder(w)
	enc.Indent("", "  ")
	if err := enc.Encode(all); err != nil {
		return fmt.Errorf("write JUnit report: %w", err)
	}
	if _, err := io.WriteString(w, "\n"); err != nil {
		return fmt.Errorf("write JUnit report: %w", err)
	}
	return nil
}

// groupOf is an identifier without its number, as WF of WF-01, and DS-01/WF of
// DS-01/WF-01.
func groupOf(id string) string {
	if i := strings.LastIndexByte(id, '-'); i > 0 {
		return id[:i]
	}
	return id
}

func (n *junitCounts) count(c *junitCase) {
	n.Tests++
	switch {
	case c.Failure != nil:
		n.Failures++
	case c.Error != nil:
		n.Errors++
	case c.Skipped != nil:
		n.Skipped++
	}
}

func junitResult(group string, r *suite.Result) junitCase {
	c := junitCase{Class: "overlab." + group, Name: r.ID + " " + r.Title, Time: junitTime(r.Took), Output: r.Evidence}
	switch r.Verdict {
	case suite.Pass:
	case suite.Fail:
		c.Failure = &junitProblem{Message: failMessage(r), Type: "fail", Text: findingsText(r)}
	case suite.Inconclusive:
		c.Error = &junitProblem{Message: r.Reason, Type: "inconclusive"}
	default:
		c.Skipped = &junitProblem{Message: string(r.Verdict) + ": " + r.Reason, Text: findingsText(r)}
	}
	return c
}

func failMessage(r *suite.Result) string {
	n := len(r.Findings) + r.More
	if n == 0 {
		return r.Reason
	}
	s := r.Findings[0].String()
	if n > 1 {
		s += fmt.Sprintf(" (and %d more)", n-1)
	}
	return s
}

func findingsText(r *suite.Result) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintln(&b, f)
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "and %d more\n", r.More)
	}
	if r.Verdict == suite.Fail && r.Reason != "" {
		fmt.Fprintln(&b, r.Reason)
	}
	return b.String()
}

// likeliest is what failures most likely come from: a server shows what a test
// says, and nothing that stands beside the tests.
func likeliest(r *suite.Results) string {
	if r.Diagnosis == nil || len(r.Diagnosis.Causes) == 0 {
		return ""
	}
	c := r.Diagnosis.Causes[0]
	s := "most likely because: " + c.Title + "\n"
	for _, e := range c.Evidence {
		s += "  " + e + "\n"
	}
	for _, m := range c.Mend {
		s += fmt.Sprintf("  to mend it on %s: %s\n", c.Space, m)
	}
	return s
}

func properties(r *suite.Results) []junitProperty {
	out := []junitProperty{{"lab", r.Lab}, {"provider", r.Provider}}
	if r.Interrupted {
		out = append(out, junitProperty{"interrupted", "true"})
	}
	if a := r.About; a != nil {
		out = append(out, junitProperty{"backend", a.Backend}, junitProperty{"agent", a.Agent.Name},
			junitProperty{"agent.version", a.Agent.Version}, junitProperty{"kernel", a.Kernel},
			junitProperty{"platform", a.Platform}, junitProperty{"overlab", a.Overlab})
	}
	return out
}

func junitTime(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
