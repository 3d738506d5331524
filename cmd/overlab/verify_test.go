package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/scenarios/checks"
)

// alter changes the last observation whose name begins so that a check made.
func alter[T any](t *testing.T, r *suite.Results, check, kind string, change func(*T)) {
	t.Helper()
	for i := range slices.Backward(r.Record.Exchanges) {
		x := &r.Record.Exchanges[i]
		if x.Scope != check || !strings.HasPrefix(x.Kind, kind) {
			continue
		}
		var seen T
		if err := json.Unmarshal(x.Answer, &seen); err != nil {
			t.Fatal(err)
		}
		change(&seen)
		var err error
		if x.Answer, err = json.Marshal(seen); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%s has not observed %q", check, kind)
}

// TestVerifyOfEveryLevel: every verdict on a sound lab follows from the
// evidence, those of checks that disturb it too, and no other follows from
// evidence of which one record is altered. The lab is the default one.
func TestVerifyOfEveryLevel(t *testing.T) {
	o := labUp(t)
	dir := filepath.Join(t.TempDir(), "evidence")
	// Hardening and the letter of the RFC fail here, as is known.
	if r := o.run(t, "test", "--level=C,E,H,R,I", "--outage=200ms", "--evidence", dir); r.code != exitFailed {
		t.Fatal(r)
	}
	v := o.must(t, "verify", dir)
	if !strings.Contains(v, " hold; ") || strings.Contains(v, "Not") || strings.Contains(v, "Contradicted") {
		t.Error(v)
	}
	s, err := suite.New(checks.All())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		check, what string
		change      func(*testing.T, *suite.Results)
	}{
		{"RS-01", "a datagram that did not arrive", func(t *testing.T, r *suite.Results) {
			alter(t, r, "RS-01", "flow from pod-", func(l *probe.FlowLog) { l.Arrived = l.Arrived[:len(l.Arrived)-1] })
		}},
		{"RS-05", "a datagram that was lost after the repair", func(t *testing.T, r *suite.Results) {
			alter(t, r, "RS-05", "flow from pod-", func(l *probe.FlowLog) { l.Arrived = l.Arrived[:len(l.Arrived)-1] })
		}},
		{"RS-02", "a route that did not come", func(t *testing.T, r *suite.Results) {
			alter(t, r, "RS-02", "the state of node-1", func(x *struct {
				At    json.RawMessage `json:"at"`
				State *probe.State    `json:"state"`
			}) {
				x.State.Routes = nil
			})
		}},
		{"CP-04", "a notice that did not come", func(t *testing.T, r *suite.Results) {
			alter(t, r, "CP-04", "notices of node-1", func(n *[]probe.Notice) {
				*n = slices.DeleteFunc(*n, func(n probe.Notice) bool { return n.FDB != nil })
			})
		}},
		{"CP-06", "another lease in the store", func(t *testing.T, r *suite.Results) {
			alter(t, r, "CP-06", "the store", func(c *lease.Contents) {
				e := &c.Entries[0]
				e.Value = strings.Replace(e.Value, `"VNI":1`, `"VNI":2`, 1)
			})
		}},
		{"PF-01", "another throughput", func(t *testing.T, r *suite.Results) {
			alter(t, r, "PF-01", "throughput from pod-", func(rate *float64) { *rate /= 100 })
		}},
		{"CN-01", "another result of ADD", func(t *testing.T, r *suite.Results) {
			alter(t, r, "CN-01", "cbr0: ADD", func(m *map[string]map[string]any) {
				ip := (*m)["result"]["ips"].([]any)[0].(map[string]any)
				ip["address"] = "10.244.0.250/24"
			})
		}},
		{"SE-01", "a forged frame that arrived", func(t *testing.T, r *suite.Results) {
			i := slices.IndexFunc(r.Record.Captures, func(c suite.RecordedCapture) bool { return c.Scope == "SE-01" })
			frames := r.Record.Captures[i].Frames
			in := slices.IndexFunc(frames, func(f capture.Frame) bool { return f.Direction == capture.In })
			for k := range r.Record.Exchanges {
				// The identifier of the forged frames is the first of the check's.
				if x := &r.Record.Exchanges[k]; x.Scope == "SE-01" && x.Kind == "identifier" {
					var id [16]byte
					parse(t, x.Answer, &id)
					copy(frames[in].Data[len(frames[in].Data)-16:], id[:])
					return
				}
			}
		}},
	} {
		t.Run(c.check, func(t *testing.T) {
			r, err := report.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			c.change(t, r)
			v, err := s.Verify(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range v.Checks {
				if (x.Standing == suite.Contradicted) != (x.ID == c.check) {
					t.Errorf("%s: %s %s is %s: %s %v", c.what, x.ID, x.Reported, x.Standing, x.Reason, x.Findings)
				}
			}
		})
	}
	t.Run("a byte", func(t *testing.T) {
		file := filepath.Join(dir, "captures", "001.pcapng")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b = bytes.Clone(b)
		b[len(b)-1] ^= 1
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if v := o.run(t, "verify", dir); v.code != exitFailed || !strings.Contains(v.out, "captures/001.pcapng is not as it was written") {
			t.Error(v)
		}
	})
}

// parse reads an identifier of the record.
func parse(t *testing.T, text json.RawMessage, id *[16]byte) {
	t.Helper()
	var u uuid.UUID
	if err := json.Unmarshal(text, &u); err != nil {
		t.Fatal(err)
	}
	*id = u
}
