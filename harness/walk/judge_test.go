package walk

import (
	"testing"
	"time"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk/predict"
)

// step is a step that was seen or not.
func step(number int, tap string, seen bool) Step {
	s := Step{Number: number, Hop: predict.Hop{Space: "node-1", Interface: tap, Direction: predict.In}}
	if seen {
		s.Seen = &Seen{Count: 1}
	}
	return s
}

// TestJudge: not to have seen a packet means nothing where frames are missing,
// unless the state foretold it.
func TestJudge(t *testing.T) {
	unanswered := probe.Pong{Sent: 1, Waited: time.Second}
	answered := probe.Pong{Sent: 1, Replies: []probe.Reply{{TTL: 62}}}
	lost := []string{"node-1:cni0 dropped 3 of 10 frames"}
	foretold := &predict.Drop{Space: "node-1", Interface: "flannel.1", Cause: "no FDB entry"}
	for _, test := range []struct {
		name    string
		pong    probe.Pong
		there   Leg
		back    *Leg
		doubts  []string
		verdict Verdict
		cause   string
	}{
		{"all seen", answered, Leg{Steps: []Step{step(1, "a", true)}}, &Leg{Steps: []Step{step(2, "a", true)}}, nil, Arrived, ""},
		{"all seen, and frames are missing", answered, Leg{Steps: []Step{step(1, "a", true)}}, &Leg{Steps: []Step{step(2, "a", true)}}, lost, Arrived, ""},
		{"one is not seen, and frames are missing", unanswered, Leg{Steps: []Step{step(1, "a", true), step(2, "b", false)}}, &Leg{}, lost,
			Inconclusive, "nothing can be said: frames are missing from the capture"},
		{"foretold, and frames are missing", unanswered, Leg{Steps: []Step{step(1, "a", true)}, Predicted: foretold}, nil, lost, Diverged, "no FDB entry"},
		{"foretold, and answered", answered, Leg{Steps: []Step{step(1, "a", true)}, Predicted: foretold}, nil, nil, Diverged, "the state says that it would not: no FDB entry"},
		{"seen on all of its way, and not taken", unanswered, Leg{Steps: []Step{step(1, "a", true)}}, &Leg{Steps: []Step{step(2, "a", true)}}, nil,
			Diverged, "pod did not take it: nothing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &run{report: &Report{From: Endpoint{Name: "pod"}, Pong: test.pong, Answer: "nothing", Request: test.there, Reply: test.back, Doubts: test.doubts}}
			w.judge(t.Context())
			if w.report.Verdict != test.verdict {
				t.Errorf("%s, not %s", w.report.Verdict, test.verdict)
			}
			if d := w.report.Divergence; (d == nil) != (test.cause == "") || d != nil && d.Cause != test.cause {
				t.Errorf("%+v, not %q", d, test.cause)
			}
		})
	}
}

// TestMatch: of several frames at one place a step gets the one that is as
// predicted, though a flooded copy of an earlier hop came first.
func TestMatch(t *testing.T) {
	at := place{space: "underlay", dev: "node-1"}
	flooded, real := sighted{at: at, kind: request}, sighted{at: at, kind: request}
	flooded.Direction, real.Direction = capture.Out, capture.Out
	flooded.Time, real.Time = time.Unix(1, 0), time.Unix(2, 0)
	flooded.frame.TTL, real.frame.TTL = 64, 62
	m := &matcher{frames: []sighted{flooded, real}, used: map[int]bool{}}
	path := &predict.Path{Hops: []predict.Hop{{Space: "underlay", Interface: "node-1", Direction: predict.Out, Frame: predict.Frame{TTL: 62}}}}
	s := m.leg(path, request, 1)[0]
	if s.Seen == nil || !s.Seen.Time.Equal(real.Time) || len(s.Differences) > 0 {
		t.Errorf("%+v, %q", s.Seen, s.Differences)
	}
}
