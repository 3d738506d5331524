package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
)

// about are the results of report_test.go, with what else a run knows.
func about() *suite.Results {
	r := results()
	r.Frames = r.Frames[:1]
	r.About = &suite.About{
		Overlab: "v1", Agent: suite.Agent{Name: "flanneld", Version: "v0.27.0", Command: []string{"/opt/flanneld"}},
		Backend: "vxlan", Network: "10.244.0.0/16", Nodes: 3, Pods: 6, Kernel: "6.18.0", Platform: "linux/amd64", Processors: 2,
		Levels: []suite.Level{suite.Core},
	}
	for i := range r.Results {
		r.Results[i].Level, r.Results[i].Profiles = suite.Core, []string{"model"}
	}
	r.Attachments = []suite.Attachment{
		{Title: "A comparison", File: "diff.txt", Type: "text/plain", Data: []byte("- 10.244.2.0/24 <via> nobody")},
		{Title: "A drawing", File: "walk.svg", Type: "image/svg+xml", Data: []byte("<svg/>")},
		{Title: "A page", File: "walk.html", Type: "text/html", Data: []byte("<p>a page</p>")},
	}
	return r
}

func write(t *testing.T, format string, r *suite.Results) string {
	t.Helper()
	var b bytes.Buffer
	if err := report.Write(&b, format, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFormats(t *testing.T) {
	for _, f := range report.Formats() {
		if len(write(t, f, about())) == 0 || !report.Known(f) {
			t.Errorf("%s: nothing", f)
		}
		// A run that was cut off at once is a report too.
		if len(write(t, f, &suite.Results{Interrupted: true})) == 0 {
			t.Errorf("%s: nothing of an empty run", f)
		}
		if err := report.Write(full{}, f, about()); err == nil {
			t.Errorf("%s on a full disk: no error", f)
		}
	}
	if err := report.Write(io.Discard, "pdf", about()); err == nil || !strings.Contains(err.Error(), "html") {
		t.Error(err)
	}
}

// TestHTML: the page is whole, needs nothing else, and quotes what it shows.
func TestHTML(t *testing.T) {
	r := about()
	r.Results[1].Findings[0].Seen = `<script>alert("1")</script>`
	page := write(t, "html", r)
	for _, want := range []string{
		"One check failed.", "flanneld v0.27.0", "&lt;script&gt;", "10.244.1.96 &gt; 10.244.2.66: ICMP echo request",
		`href="#frame-1"`, `id="frame-1"`, "00000000  00 00", "- 10.244.2.0/24 &lt;via&gt; nobody",
		"data:image/svg&#43;xml;base64,", "sandbox", "prefers-color-scheme: dark", "node-1",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in the page", want)
		}
	}
	doc, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	for n := range doc.Descendants() {
		if n.Data == "script" || n.Data == "link" {
			t.Errorf("the page has a %s", n.Data)
		}
		for _, a := range n.Attr {
			outside := strings.HasPrefix(a.Val, "http") || strings.HasPrefix(a.Val, "//")
			if (a.Key == "src" || a.Key == "href") && outside {
				t.Errorf("the page loads %s", a.Val)
			}
		}
	}
}

func TestJUnit(t *testing.T) {
	text := write(t, "junit", about())
	var got struct {
		Tests    int `xml:"tests,attr"`
		Failures int `xml:"failures,attr"`
		Errors   int `xml:"errors,attr"`
		Skipped  int `xml:"skipped,attr"`
		Suites   []struct {
			Name  string `xml:"name,attr"`
			Cases []struct {
				Name    string `xml:"name,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
					Text    string `xml:",chardata"`
				} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	if got.Tests != 6 || got.Failures != 1 || got.Errors != 1 || got.Skipped != 3 {
		t.Errorf("%d tests, %d failures, %d errors, %d skipped", got.Tests, got.Failures, got.Errors, got.Skipped)
	}
	var names []string
	for _, s := range got.Suites {
		names = append(names, s.Name)
	}
	if s := strings.Join(names, " "); s != "TTL WF DP DS-01/TTL MTU" {
		t.Error(s)
	}
	if f := got.Suites[0].Cases[1].Failure; f == nil || !strings.Contains(f.Message, "a reply with ttl=62") || !strings.Contains(f.Text, "and 4 more") {
		t.Errorf("%+v", f)
	}
}

func TestConformance(t *testing.T) {
	got := write(t, "conformance", about())
	want := `apiVersion: overlab/conformance/v1alpha1
kind: ConformanceReport
date: "2024-05-06T07:26:48.356032Z"
overlab: v1
agent:
  name: flanneld
  version: v0.27.0
  command:
    - /opt/flanneld
environment:
  lab: default
  provider: netns
  backend: vxlan
  kernel: 6.18.0
  platform: linux/amd64
  nodes: 3
  pods: 6
partial: false
profiles:
  - name: model
    core:
      result: failure
`
	if !strings.HasPrefix(got, want) {
		t.Errorf("got\n%s\nwant it to begin\n%s", got, want)
	}
	for name, c := range map[string]struct {
		verdicts []suite.Verdict
		result   string
	}{
		"all pass":           {[]suite.Verdict{suite.Pass, suite.NotApplicable}, "success"},
		"unsupported":        {[]suite.Verdict{suite.Pass, suite.Unsupported}, "partial"},
		"inconclusive":       {[]suite.Verdict{suite.Pass, suite.Inconclusive, suite.Skipped}, "inconclusive"},
		"one fails":          {[]suite.Verdict{suite.Fail, suite.Inconclusive}, "failure"},
		"nothing is its own": {[]suite.Verdict{suite.NotApplicable}, "not-applicable"},
	} {
		r := &suite.Results{}
		for _, v := range c.verdicts {
			r.Results = append(r.Results, suite.Result{ID: "X-01", Level: suite.Extended, Profiles: []string{"vxlan"}, Verdict: v})
		}
		p := report.NewConformance(r).Profiles[0]
		if p.Core != nil || p.Extended == nil || p.Extended.Result != c.result {
			t.Errorf("%s: %+v", name, p.Extended)
		}
	}
}

// TestOpen: what Evidence writes, Open reads.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	want := about()
	want.Record = &suite.Record{
		Exchanges: []suite.Exchange{{Scope: "TTL-01", Session: "node-1", Kind: "state", Request: json.RawMessage(`{}`), Answer: json.RawMessage(`{"links":null}`)}},
		Captures:  []suite.RecordedCapture{{Scope: "WF", Points: []string{"node-1:ens3 udp"}, Doubts: []string{"one"}}},
	}
	if _, err := report.Evidence(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := report.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(write(t, "json", want), write(t, "json", got)); d != "" {
		t.Error(d)
	}
	if write(t, "html", want) != write(t, "html", got) {
		t.Error("the page of what was read is another one")
	}
	if len(got.Record.Exchanges) != 1 || len(got.Record.Captures) != 1 || got.Record.Captures[0].Doubts[0] != "one" {
		t.Errorf("%+v", got.Record)
	}
	file := filepath.Join(dir, "report.json")
	if alone, err := report.Open(file); err != nil || alone.Record != nil || len(alone.Results) != 6 {
		t.Errorf("the file alone: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"apiVersion":"overlab/report/v9"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := report.Open(dir); err == nil || !strings.Contains(err.Error(), "v9") {
		t.Errorf("another version: %v", err)
	}
	if _, err := report.Open(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no report is there") {
		t.Errorf("an empty folder: %v", err)
	}
}

// TestStreamCutOff: a stream is valid wherever it ends, and what is left of it
// never counts as a pass.
func TestStreamCutOff(t *testing.T) {
	whole := write(t, "jsonl", about())
	lines := strings.SplitAfter(whole, "\n")
	for _, c := range []struct {
		name    string
		text    string
		results int
		ended   bool
	}{
		{"whole", whole, 6, true},
		{"no end", strings.Join(lines[:7], ""), 6, false},
		{"in a line", strings.Join(lines[:3], "") + lines[3][:20], 2, false},
		{"no check", lines[0], 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, report.StreamFile), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := report.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Results) != c.results || r.Interrupted == c.ended || r.About == nil || r.ExitCode() == 0 {
				t.Errorf("%d results, interrupted %v, exit code %d", len(r.Results), r.Interrupted, r.ExitCode())
			}
			if r.Count(suite.Fail) == 0 && r.ExitCode() != 3 {
				t.Errorf("exit code %d of a run that was cut off", r.ExitCode())
			}
		})
	}
}
