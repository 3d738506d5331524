package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func results() *suite.Results {
	at := time.Date(2024, 5, 6, 7, 26, 48, 356032000, time.UTC)
	frame := capture.Frame{Tap: "node-1:ens3", Time: at, Data: make([]byte, 60), Length: 60, Direction: capture.Out}
	return &suite.Results{
		Lab: "default", Provider: "netns", Started: at, Took: 420 * time.Millisecond,
		Plan:   &topology.Plan{Name: "default"},
		States: map[string]*probe.State{"node-1": {Namespace: "node-1"}},
		Results: []suite.Result{
			{ID: "TTL-01", Level: suite.Core, Title: "a pod's ping on the same node is answered with TTL 64", Verdict: suite.Pass,
				Evidence: "6 pairs, ttl=64 rtt 0.21ms", Frames: []int{1}},
			{ID: "TTL-03", Level: suite.Core, Title: "a pod's ping to a pod on another node returns TTL 62", Verdict: suite.Fail,
				Evidence: "24 pairs, no replies", More: 4,
				Findings: []suite.Finding{
					{Where: "node-1-pod-1 (node-1) > node-2-pod-1 (node-2) 10.244.2.2", Expected: "a reply with ttl=62", Seen: "no answer to 3 requests in 1.2s"},
					{Where: "a", Expected: "b", Seen: "c"},
				}},
			{ID: "WF-01", Title: "packets travel in UDP", Verdict: suite.Inconclusive,
				Reason: "the capture cannot be trusted: node-1:ens3 dropped 23 of 100 frames; node-2:ens3 dropped 1 of 100 frames"},
			{ID: "DP-05", Title: "the VTEP's MAC is the lease's", Verdict: suite.NotApplicable, Reason: "the lab has no etcd store"},
			{ID: "DS-01/TTL-01", Title: "IPv6: it passes", Verdict: suite.Skipped, Reason: "by the selection"},
			{ID: "MTU-01", Title: "it passes", Verdict: suite.Skipped, Reason: "by the selection"},
		},
		Frames: []suite.Frame{{
			Number: 1, Tap: frame.Tap, Time: at, Direction: frame.Direction, Length: 148, Probe: uuid.UUID{1}, Checks: []string{"WF-01", "WF-02"}, Captured: frame,
			Lines: []string{
				"IP (tos 0x0, ttl 64, id 1164, offset 0, flags [none], proto UDP (17), length 134)",
				"    172.16.1.14.53811 > 172.16.1.13.8472: [no cksum] VXLAN, flags [I] (0x08), vni 1",
				"IP (tos 0x0, ttl 63, id 50392, offset 0, flags [DF], proto ICMP (1), length 84)",
				"    10.244.1.96 > 10.244.2.66: ICMP echo request, id 40, seq 1, length 64",
			},
		}, {Number: 2}, {Number: 3}},
	}
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := report.Text(&b, results(), report.TextOptions{Findings: 1, Frames: 1}); err != nil {
		t.Fatal(err)
	}
	want := `pass         TTL-01 a pod's ping on the same node is answered with TTL 64
                    6 pairs, ttl=64 rtt 0.21ms
FAIL         TTL-03 a pod's ping to a pod on another node returns TTL 62
                    24 pairs, no replies
                    node-1-pod-1 (node-1) > node-2-pod-1 (node-2) 10.244.2.2
                      expected a reply with ttl=62
                      seen     no answer to 3 requests in 1.2s
                    and 5 more
inconclusive WF-01  packets travel in UDP
                    the capture cannot be trusted: node-1:ens3 dropped 23 of 100
                      frames; node-2:ens3 dropped 1 of 100 frames
n/a          DP-05  the VTEP's MAC is the lease's
                    the lab has no etcd store
skipped      DS-01/TTL-01
                    IPv6: it passes
                    by the selection
skipped      MTU-01 it passes
                    by the selection

Captured on the underlay:

frame 1, node-1:ens3, out, 07:26:48.356032 (WF-01, WF-02)
  IP (tos 0x0, ttl 64, id 1164, offset 0, flags [none], proto UDP (17),
      length 134)
      172.16.1.14.53811 > 172.16.1.13.8472: [no cksum]
      VXLAN, flags [I] (0x08), vni 1
  IP (tos 0x0, ttl 63, id 50392, offset 0, flags [DF], proto ICMP (1),
      length 84)
      10.244.1.96 > 10.244.2.66: ICMP echo request, id 40, seq 1, length 64
and 2 more frames

6 checks in 0.42 s: 1 passed, 1 failed, 1 inconclusive, 1 not applicable, 2 skipped
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for line := range strings.Lines(strings.TrimSuffix(want, "\n")) {
		if strings.HasPrefix(line, "6 checks") {
			continue // five verdicts in one run: a little too long
		}
		if len(line) > 81 {
			t.Errorf("%d columns: %s", len(line)-1, line)
		}
	}
}

func TestTextColorAndNarrow(t *testing.T) {
	var b bytes.Buffer
	if err := report.Text(&b, results(), report.TextOptions{Color: true, Width: 10, Findings: -1, Frames: -1}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\x1b[32mpass\x1b[0m", "\x1b[1;31mFAIL\x1b[0m", "\x1b[33minconclusive\x1b[0m", "and 4 more"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := report.Text(&b, &suite.Results{}, report.TextOptions{}); err != nil || b.String() != "\nno checks ran\n" {
		t.Errorf("%q, %v", b.String(), err)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := report.JSON(&b, results()); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got["apiVersion"] != report.APIVersion || got["exitCode"] != 1.0 || got["lab"] != "default" {
		t.Errorf("%v", got)
	}
	if sum := got["summary"].(map[string]any); sum["fail"] != 1.0 || sum["unsupported"] != nil {
		t.Errorf("summary %v", sum)
	}
	first := got["results"].([]any)[0].(map[string]any)
	if first["id"] != "TTL-01" || first["verdict"] != "pass" || first["level"] != "C" {
		t.Errorf("%v", first)
	}
	frame := got["frames"].([]any)[0].(map[string]any)
	if frame["direction"] != "out" || len(frame["lines"].([]any)) != 4 {
		t.Errorf("%v", frame)
	}
}

func TestEvidence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "evidence")
	r := results()
	r.Frames = r.Frames[:1]
	paths, err := report.Evidence(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range paths {
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(p); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", p, err)
		}
		names = append(names, rel)
	}
	if got := strings.Join(names, " "); got != "report.json plan.json frames.pcapng state/node-1.json SHA256SUMS" {
		t.Error(got)
	}
	if d, err := report.Damage(dir); err != nil || len(d) > 0 {
		t.Errorf("an untouched folder: %v, %v", d, err)
	}
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: this machine has no tshark")
	}
	out, err := exec.Command(tshark, "-r", filepath.Join(dir, "frames.pcapng"), "-T", "fields",
		"-e", "frame.number", "-e", "frame.interface_name", "-e", "frame.comment").Output()
	if want := "1\tnode-1:ens3\tWF-01 WF-02,uuid=01000000-0000-0000-0000-000000000000\n"; err != nil || string(out) != want {
		t.Errorf("tshark reads %q, want %q; %v", out, want, err)
	}
}

// TestDamage: files that are not as they were written are named.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	if _, err := report.Evidence(dir, results()); err != nil {
		t.Fatal(err)
	}
	change := func(do error) {
		t.Helper()
		if do != nil {
			t.Fatal(do)
		}
	}
	change(os.Remove(filepath.Join(dir, "plan.json")))
	change(os.WriteFile(filepath.Join(dir, "state", "node-1.json"), []byte("{}"), 0o600))
	d, err := report.Damage(dir)
	if want := []string{"plan.json is not there", "state/node-1.json is not as it was written"}; err != nil || !slices.Equal(d, want) {
		t.Errorf("%q, %v", d, err)
	}
	change(os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte("00  ../plan.json\n"), 0o600))
	if d, err := report.Damage(dir); err == nil {
		t.Errorf("a sum of a file elsewhere: %q", d)
	}
	change(os.Remove(filepath.Join(dir, "SHA256SUMS")))
	if d, err := report.Damage(dir); err != nil || len(d) != 1 {
		t.Errorf("no sums: %q, %v", d, err)
	}
}

// TestEvidenceKeepsSecrets: what is written for others to read has no pre-shared
// key in it, whatever the file.
func TestEvidenceKeepsSecrets(t *testing.T) {
	const secret = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	dir := filepath.Join(t.TempDir(), "evidence")
	r := results()
	plan := *r.Plan
	plan.Network.Backend.Type, plan.Network.Backend.PSK = "wireguard", secret
	r.Plan = &plan
	paths, err := report.Evidence(dir, r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), secret) {
			t.Errorf("%s has the key", p)
		}
		if filepath.Base(p) == "plan.json" && !strings.Contains(string(b), "(hidden)") {
			t.Errorf("%s does not say that there is one", p)
		}
	}
	if r.Plan.Network.Backend.PSK != secret {
		t.Error("the plan itself has lost its key")
	}
}

func TestEvidenceWithoutFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := report.Evidence(file, results()); err == nil {
		t.Error("a folder that is a file: no error")
	}
}

// full is a writer on a full disk.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestFullDisk(t *testing.T) {
	if err := report.Text(full{}, results(), report.TextOptions{}); err == nil {
		t.Error("text: no error")
	}
	if err := report.JSON(full{}, results()); err == nil {
		t.Error("JSON: no error")
	}
}
