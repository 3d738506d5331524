package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestReports: one run, every form, and the verdicts derived again from its
// evidence; then with the evidence changed.
func TestReports(t *testing.T) {
	o := labUp(t)
	dir := t.TempDir()
	evidence := filepath.Join(dir, "evidence")
	args := []string{"test", "--level=C", "--skip=RS", "--evidence", evidence, "-o", "jsonl", "--agent", "flanneld@v0.27.0"}
	begins := map[string]string{
		"text": "pass ", "json": "{\n", "jsonl": `{"type":"start"`, "junit": "<?xml", "html": "<!doctype html>", "conformance": "apiVersion: overlab/conformance/v1alpha1\n",
	}
	for format := range begins {
		args = append(args, "--report", format+"="+filepath.Join(dir, "report."+format))
	}
	r := o.must(t, args...)
	for format, begin := range begins {
		b, err := os.ReadFile(filepath.Join(dir, "report."+format))
		if err != nil || !bytes.HasPrefix(b, []byte(begin)) {
			t.Errorf("%s: %.80s; %v", format, b, err)
		}
		if format == "html" && !strings.Contains(string(b), "flanneld v0.27.0") {
			t.Error("the page does not name the agent")
		}
	}
	types := map[string]int{}
	for line := range strings.Lines(r) {
		var l struct{ Type string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		types[l.Type]++
	}
	if types["start"] != 1 || types["end"] != 1 || types["check"] < 20 || types["frame"] == 0 {
		t.Errorf("lines of JSON by type: %v", types)
	}

	v := o.must(t, "verify", evidence)
	if !strings.Contains(v, "Holds           TTL-03  pass") || strings.Contains(v, "Contradicted") {
		t.Error(v)
	}
	file := filepath.Join(evidence, "exchanges.jsonl")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.ReplaceAll(b, []byte(`"ttl":62`), []byte(`"ttl":61`)), 0o600); err != nil {
		t.Fatal(err)
	}
	if v := o.run(t, "verify", evidence, "-o", "json"); v.code != exitFailed || !strings.Contains(v.out, `"contradicted"`) {
		t.Error(v)
	}
	if v := o.run(t, "verify", t.TempDir()); v.code != exitBroken || !strings.Contains(v.err, "no report is there") {
		t.Error(v)
	}
}

// TestReportOfABrokenLab: the page says what failed, how the lab differs from
// its plan, and where a packet ends.
func TestReportOfABrokenLab(t *testing.T) {
	need(t, "ip")
	o := labUp(t)
	o.must(t, "exec", "pod-3", "--", "ip", "route", "del", "default")
	o.must(t, "exec", "pod-3", "--", "ip", "route", "del", "10.244.0.0/16")
	page, junit := filepath.Join(t.TempDir(), "report.html"), filepath.Join(t.TempDir(), "report.xml")
	// RS-01 restarts agents, which repair much: what broke is asked before.
	r := o.run(t, "test", "TTL", "DP", "RS-01", "--report", "html="+page, "--report", "junit="+junit)
	if r.code != exitFailed {
		t.Error(r)
	}
	_, end, _ := strings.Cut(r.out, "Why, most likely:")
	for _, want := range []string{"1. pod-3 has no route to node-1\n", "$ ip route replace default via 10.244.1.1 dev eth0\n", " failed, "} {
		if !strings.Contains(end, want) {
			t.Errorf("no %q at the end of %s", want, r.out)
		}
	}
	if !strings.Contains(r.out, "\n\nFAIL         TTL-01 a pod's ping on the same node") && !strings.Contains(r.out, "\n\nFAIL         TTL-02 ") {
		t.Errorf("the text does not say again what failed: %s", r.out)
	}
	if b, err := os.ReadFile(junit); err != nil || !strings.Contains(string(b), "most likely because: pod-3 has no route to node-1") {
		t.Errorf("%.300s, %v", b, err)
	}
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"checks failed.", "What broke, most likely", "pod-3 has no route to node-1", "How the lab differs from its plan", "The walk of a packet from", "10.244.0.0/16 via 10.244.1.1"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %q in the page", want)
		}
	}
}

func TestRepeat(t *testing.T) {
	o := labUp(t)
	r := o.must(t, "test", "TTL", "--repeat", "3")
	if !strings.Contains(r, "run 3 of 3: ") || !strings.Contains(r, "3 runs, 0 of them not sound") {
		t.Error(r)
	}
	var doc struct {
		Repeat struct{ Run, Runs, Unsound int }
	}
	if err := json.Unmarshal([]byte(o.must(t, "test", "TTL", "--repeat", "2", "-o", "json")), &doc); err != nil || doc.Repeat.Runs != 2 || doc.Repeat.Run != 1 {
		t.Errorf("%+v, %v", doc, err)
	}
	need(t, "ip")
	o.must(t, "exec", "pod-3", "--", "ip", "route", "del", "default")
	if r := o.run(t, "test", "DP-03", "--until-fail"); r.code != exitFailed || !strings.Contains(r.out, "1 runs, 1 of them not sound") {
		t.Error(r)
	}
}

// TestRunCutShort: what there is of a run that is interrupted, or whose time is
// over, is a report; it never counts as a pass.
func TestRunCutShort(t *testing.T) {
	o := labUp(t)
	evidence := filepath.Join(t.TempDir(), "evidence")
	r := o.run(t, "test", "--timeout", "1ms", "--evidence", evidence)
	if r.code != exitInconclusive || !strings.Contains(r.out, "the run was interrupted") {
		t.Error(r)
	}
	b, err := os.ReadFile(filepath.Join(evidence, "report.json"))
	if err != nil || !strings.Contains(string(b), `"interrupted": true`) {
		t.Errorf("%v", err)
	}
	cmd := o.command("test", "TTL", "--until-fail", "-o", "jsonl")
	var out lockedBuffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a run has ended", func() bool { return strings.Contains(out.String(), `{"type":"end"`) })
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// Runs without end are ended so.
	if code := cmd.ProcessState.ExitCode(); code != exitPassed {
		t.Errorf("exit code %d, want %d", code, exitPassed)
	}
	if lines := strings.Split(strings.TrimSpace(out.String()), "\n"); !strings.HasPrefix(lines[len(lines)-1], `{"type":"end"`) {
		t.Errorf("the last line is %s", lines[len(lines)-1])
	}
}

// TestCaptureThatDrops: checks whose captures drop frames are inconclusive, and
// the run does not pass; with room enough they pass. A flood of datagrams of a pod
// runs past the captures.
func TestCaptureThatDrops(t *testing.T) {
	o := labUp(t)
	wire := []string{"test", "WF-0[1-4]", "WF-08", "-o", "json"}
	type report struct {
		Results []struct{ ID, Verdict, Reason string }
	}
	var r report
	o.json(t, &r, wire...)
	for _, x := range r.Results {
		if x.Verdict != "pass" {
			t.Errorf("a quiet lab: %+v", x)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := o.command("exec", "pod-3", "--", "env", helperName+"="+helperFlood, self, "10.244.2.2:9")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill() // it ends in no other way
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal("the flood: ", err)
	}
	evidence := filepath.Join(t.TempDir(), "evidence")
	got := o.run(t, append(wire, "--capture-buffer=4", "--evidence", evidence)...)
	if got.code != exitInconclusive {
		t.Error(got)
	}
	r = report{}
	if err := json.Unmarshal([]byte(got.out), &r); err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Results {
		if x.Verdict != "inconclusive" || !strings.Contains(x.Reason, "dropped") {
			t.Errorf("captures of one page beside a flood: %+v", x)
		}
	}
	if v := o.must(t, "verify", evidence); strings.Count(v, "Holds") != len(r.Results) {
		t.Error(v)
	}
}

// TestStrictChecks: what the letter of the RFC asks is judged when it is asked
// for, and fails on Linux's own ports and checksums.
func TestStrictChecks(t *testing.T) {
	o := labUp(t)
	list := func(args ...string) string {
		var doc struct {
			Checks []struct{ ID, Level, Source string }
		}
		o.json(t, &doc, append([]string{"test", "--list", "-o", "json"}, args...)...)
		var ids []string
		for _, c := range doc.Checks {
			if strings.HasSuffix(c.ID, "R") != (c.Level == "R") || c.Level == "R" && !strings.HasPrefix(c.Source, "RFC 7348") {
				t.Errorf("%+v", c)
			}
			ids = append(ids, c.ID)
		}
		return strings.Join(ids, " ")
	}
	for _, c := range []struct{ args, want string }{
		{"--level R", "WF-05R WF-06R"}, {"WF-05R", "WF-05R"}, {"WF-0[56]", "WF-05 WF-06"}, {"wf-06", "WF-06"}, {"WF-06 --level C,R", "WF-06 WF-06R"},
	} {
		if got := list(strings.Fields(c.args)...); got != c.want {
			t.Errorf("%s lists %s, want %s", c.args, got, c.want)
		}
	}
	if r := o.run(t, "test", "--level", "R"); r.code != exitFailed || !strings.Contains(r.out, "2 checks in ") || !strings.Contains(r.out, ": 2 failed") {
		t.Error(r)
	}
}

func TestReportFlags(t *testing.T) {
	o := newOverlab(t)
	for _, c := range []struct{ args, says string }{
		{"test --report html", "FORMAT=FILE"},
		{"test --report pdf=x", "conformance"},
		{"test --repeat 0", "--until-fail"},
		{"test --timeout -1s", "--timeout"},
		{"test --capture-buffer 2", "--capture-buffer=2"},
		{"test --timeout-scale 0 --outage 0s", "--outage=0s"},
		{"verify", "folder"},
		{"verify /nowhere", "/nowhere"},
		{"capture", "interface"},
		{"capture icmp", "interface"},
		{"capture node-1:eth0 -c -1", "below 0"},
	} {
		if r := o.run(t, strings.Fields(c.args)...); r.code != exitBroken || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: %s", c.args, r)
		}
	}
}
