package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/overlab/overlab/harness/probe"
)

// A Standing says whether a reported verdict follows from the evidence.
type Standing string

// The standings.
const (
	// Holds: the evidence leads to the reported verdict again.
	Holds Standing = "holds"
	// Contradicted: it leads to another one.
	Contradicted Standing = "contradicted"
	// NotReplayable: the evidence alone does not lead to a verdict.
	NotReplayable Standing = "not-replayable"
	// NotJudged: the report has no verdict that rests on measurements.
	NotJudged Standing = "not-judged"
)

// Standings returns all standings, in the order in which a summary names them.
func Standings() []Standing { return []Standing{Holds, Contradicted, NotReplayable, NotJudged} }

// Verified is what became of one reported verdict.
type Verified struct {
	ID       string   `json:"id"`
	Title    string   `json:"title"`
	Reported Verdict  `json:"reported"`
	Standing Standing `json:"standing"`
	// Replayed is the verdict that the evidence leads to, where it does.
	Replayed Verdict `json:"replayed,omitempty"`
	// Reason says why, unless it holds.
	Reason string `json:"reason,omitempty"`
	// Findings are those of the replay, where it contradicts the report.
	Findings []Finding `json:"findings,omitempty"`
}

// Verification is what became of a report.
type Verification struct {
	Lab    string     `json:"lab"`
	Checks []Verified `json:"checks"`
	// Frames counts the cited frames, WrongFrames names those that the capture
	// file does not hold as the report shows them.
	Frames      int      `json:"frames"`
	WrongFrames []string `json:"wrongFrames,omitempty"`
	// Damaged names files of the evidence that are not those that were written.
	Damaged []string `json:"damaged,omitempty"`
}

// Count returns how many checks have the standing.
func (v *Verification) Count(s Standing) int {
	n := 0
	for _, c := range v.Checks {
		if c.Standing == s {
			n++
		}
	}
	return n
}

// ExitCode returns 0 if what could be replayed holds, 1 if the evidence
// contradicts the report or is damaged, and 3 if nothing could be replayed.
func (v *Verification) ExitCode() int {
	switch {
	case v.Count(Contradicted) > 0 || len(v.WrongFrames) > 0 || len(v.Damaged) > 0:
		return 1
	case v.Count(Holds) == 0:
		return 3
	}
	return 0
}

// Verify derives the verdicts of a report again from its plan and its record,
// without the lab. The error says that the report holds none.
func (s *Suite) Verify(ctx context.Context, report *Results) (*Verification, error) {
	if report.Plan == nil || report.Record == nil {
		return nil, errors.New("the report has no plan and no record of what was measured: it was made without --evidence")
	}
	replay := newReplay(report.Record)
	var then limits
	if err := replay.observed(ctx, limitsKind, &then); err != nil {
		return nil, fmt.Errorf("the record of what was measured is not whole: %w", err)
	}
	r := newRun(ctx, recordedLab{report.Plan}, Options{Timeouts: then.Timeouts, MaxPairs: then.MaxPairs, Spare: report.Spare})
	r.replay = replay
	defer r.close()
	v := &Verification{Lab: report.Lab, Frames: len(report.Frames)}
	v.Checks = make([]Verified, len(report.Results))
	// Those that ran alone came last: one may have renewed the plan.
	for _, last := range []bool{false, true} {
		for i := range report.Results {
			if s.alone(report.Results[i].ID) == last {
				v.Checks[i] = s.verify(ctx, r, &report.Results[i])
			}
		}
	}
	for _, f := range report.Frames {
		if what := wrongFrame(&f, r.frames.port); what != "" {
			v.WrongFrames = append(v.WrongFrames, fmt.Sprintf("frame %d: %s", f.Number, what))
		}
	}
	return v, ctx.Err()
}

// alone reports whether a check runs beside no other.
func (s *Suite) alone(id string) bool {
	return slices.ContainsFunc(s.checks, func(c Check) bool { return c.ID == id && c.Disturbs && c.Part == "" })
}

func (s *Suite) verify(ctx context.Context, r *run, was *Result) Verified {
	v := Verified{ID: was.ID, Title: was.Title, Reported: was.Verdict, Standing: NotReplayable}
	i := slices.IndexFunc(s.checks, func(c Check) bool { return c.ID == was.ID })
	switch {
	case was.Verdict == Skipped || was.Verdict == Unsupported:
		v.Standing, v.Reason = NotJudged, was.Reason
		return v
	case i < 0:
		v.Reason = "this program has no such check"
		return v
	}
	is := r.one(ctx, chosen{Check: s.checks[i]})
	if lacking := r.lacking(was.ID); lacking != "" {
		v.Reason = lacking
		return v
	}
	v.Replayed = is.Verdict
	switch {
	case is.Verdict != was.Verdict && (is.Verdict != Fail || !was.declared()):
		v.Standing, v.Reason, v.Findings = Contradicted, is.Reason, is.Findings
	case is.Evidence != was.Evidence:
		v.Standing, v.Reason = Contradicted, fmt.Sprintf("what was measured leads to %q", is.Evidence)
	case !sameFindings(&is, was):
		v.Standing, v.Reason, v.Findings = Contradicted, "it leads to other findings", is.Findings
	default:
		v.Standing = Holds
	}
	return v
}

// sameFindings reports whether both have the same, in whichever order. Where
// there are more than a result holds, which those are is left to chance.
func sameFindings(a, b *Result) bool {
	if len(a.Findings) != len(b.Findings) || a.More != b.More {
		return false
	}
	if a.More > 0 {
		return true
	}
	return slices.Equal(sortedFindings(a), sortedFindings(b))
}

func sortedFindings(r *Result) []string {
	var out []string
	for _, f := range r.Findings {
		out = append(out, f.String())
	}
	slices.Sort(out)
	return out
}

// declared reports whether the verdict stands for a fail that was declared
// beforehand.
func (r *Result) declared() bool { return r.Verdict == Exempt }

// wrongFrame says what is wrong with a cited frame.
func wrongFrame(f *Frame, port uint16) string {
	if len(f.Captured.Data) == 0 {
		return "the capture file does not hold it"
	}
	p := f.Captured.Decode(port)
	switch {
	case f.Captured.Tap != f.Tap || f.Captured.Direction != f.Direction:
		return fmt.Sprintf("the capture file has it at %s, %s", f.Captured.Tap, f.Captured.Direction)
	case !slices.Equal(p.Lines(), f.Lines):
		return "the capture file has another packet"
	}
	return ""
}

// lacks notes that a check asked what is not recorded.
func (r *run) lacks(check string, err error) {
	if r.replay == nil || !errors.Is(err, ErrNotRecorded) && !errors.Is(err, probe.ErrNotLocal) {
		return
	}
	r.report.Lock()
	defer r.report.Unlock()
	if r.lacked == nil {
		r.lacked = map[string]string{}
	}
	r.lacked[check] = err.Error()
}

func (r *run) lacking(check string) string {
	r.report.Lock()
	defer r.report.Unlock()
	r.replay.mu.Lock()
	defer r.replay.mu.Unlock()
	return cmp.Or(r.lacked[check], r.replay.missed[check])
}
