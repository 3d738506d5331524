package suite

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Verdict is the outcome of a check.
type Verdict string

// The verdicts. Only Pass is a pass.
const (
	Pass Verdict = "pass"
	Fail Verdict = "fail"
	// Exempt: it fails, as was declared beforehand, with a reason.
	Exempt Verdict = "exempt"
	// Skipped: by the user.
	Skipped Verdict = "skipped"
	// Unsupported: declared by the agent.
	Unsupported Verdict = "unsupported"
	// NotApplicable: the lab's shape or backend leaves nothing to check.
	NotApplicable Verdict = "not-applicable"
	// Inconclusive: the measurement cannot be trusted.
	Inconclusive Verdict = "inconclusive"
)

// Verdicts returns all verdicts, in the order in which a summary names them.
func Verdicts() []Verdict {
	return []Verdict{Pass, Fail, Exempt, Inconclusive, NotApplicable, Unsupported, Skipped}
}

// verdictError is an error that stands for a verdict.
type verdictError struct {
	verdict Verdict
	reason  string
}

func (e *verdictError) Error() string { return e.reason }

// Inconclusivef says why a measurement cannot be trusted.
func Inconclusivef(format string, args ...any) error {
	return &verdictError{Inconclusive, fmt.Sprintf(format, args...)}
}

// NotApplicablef says why there is nothing to check.
func NotApplicablef(format string, args ...any) error {
	return &verdictError{NotApplicable, fmt.Sprintf(format, args...)}
}

// verdict decides from what was found and how the check ended. What was seen
// to be wrong is wrong, even if the measurement ended badly later.
func verdict(findings []Finding, err error) (Verdict, string) {
	var v *verdictError
	switch {
	case len(findings) > 0 && err != nil:
		return Fail, "the check did not go on to its end: " + err.Error()
	case len(findings) > 0:
		return Fail, ""
	case errors.As(err, &v):
		return v.verdict, err.Error()
	case errors.Is(err, probe.ErrNotLocal):
		return NotApplicable, "it must enter the namespaces from this process: " + err.Error()
	case err != nil:
		return Inconclusive, err.Error()
	}
	return Pass, ""
}

// A Finding is one thing that is not as it ought to be.
type Finding struct {
	// Where names the node, pod or flow.
	Where    string `json:"where"`
	Expected string `json:"expected"`
	Seen     string `json:"seen"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s: expected %s, seen %s", f.Where, f.Expected, f.Seen)
}

// Result is the verdict on one check and its evidence.
type Result struct {
	ID       string   `json:"id"`
	Level    Level    `json:"level"`
	Title    string   `json:"title"`
	Source   string   `json:"source,omitempty"`
	Profiles []string `json:"profiles,omitempty"`
	Verdict  Verdict  `json:"verdict"`
	// Evidence is what was measured, in one line.
	Evidence string `json:"evidence,omitempty"`
	// Reason says why the verdict is neither pass nor a plain fail.
	Reason string `json:"reason,omitempty"`
	// Findings are what was wrong, the first 100; More counts the others.
	Findings []Finding `json:"findings,omitempty"`
	More     int       `json:"moreFindings,omitempty"`
	// Frames are the numbers of the frames in the report's capture file.
	Frames  []int         `json:"frames,omitempty"`
	Started time.Time     `json:"started,omitzero"`
	Took    time.Duration `json:"tookNanoseconds"`
}

// Frame is a captured frame that a check cites.
type Frame struct {
	// Number of the frame in the report's capture file, from 1.
	Number    int               `json:"number"`
	Tap       string            `json:"tap"`
	Time      time.Time         `json:"time"`
	Direction capture.Direction `json:"direction"`
	// Length in bytes of the frame on the wire.
	Length int `json:"length"`
	// Probe is the identifier that the frame carries.
	Probe uuid.UUID `json:"probe"`
	// Lines is the decoded frame, outer and inner.
	Lines []string `json:"lines"`
	// Checks are those that cite it.
	Checks []string `json:"checks"`
	// Captured is the frame itself.
	Captured capture.Frame `json:"-"`
}

// Results is what a run has found.
type Results struct {
	Lab      string    `json:"lab"`
	Provider string    `json:"provider"`
	Started  time.Time `json:"started"`
	// Took is the run's wall-clock time.
	Took time.Duration `json:"tookNanoseconds"`
	// Interrupted says that the run was ended before its end.
	Interrupted bool `json:"interrupted,omitempty"`
	// Spare is why nothing of the lab might be changed, as the options had it.
	Spare string `json:"spare,omitempty"`
	// About says what was judged, Repeat which of several runs this is.
	About  *About  `json:"about,omitempty"`
	Repeat *Repeat `json:"repeat,omitempty"`

	Results []Result `json:"results"`
	// Frames are the cited frames, by number.
	Frames []Frame `json:"frames,omitempty"`
	// Diagnosis says what failures most likely come from. It and the attachments
	// help to understand; no verdict rests on them.
	Diagnosis   *diagnose.Report `json:"diagnosis,omitempty"`
	Attachments []Attachment     `json:"attachments,omitempty"`
	// Plan is what was judged against.
	Plan *topology.Plan `json:"-"`
	// States are the dumps that the checks judged, by namespace.
	States map[string]*probe.State `json:"-"`
	// Record is what the checks measured, from which the verdicts can be
	// derived again.
	Record *Record `json:"-"`
}

// Count returns how many results have the verdict.
func (r *Results) Count(v Verdict) int {
	n := 0
	for i := range r.Results {
		if r.Results[i].Verdict == v {
			n++
		}
	}
	return n
}

// ExitCode returns 0 if all that could be judged passed, 1 if a check failed,
// and 3 if nothing passed, anything was inconclusive or the run was
// interrupted: a run with a check that could not be judged has not shown that
// all is well.
func (r *Results) ExitCode() int {
	switch {
	case r.Count(Fail) > 0:
		return 1
	case r.Count(Inconclusive) > 0 || r.Count(Pass) == 0 || r.Interrupted:
		return 3
	}
	return 0
}
