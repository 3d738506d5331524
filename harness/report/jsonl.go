package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/suite"
)

// A Stream writes a report as JSON lines while it comes to be: a line of type
// start, one of type check for each result as it comes, one of type frame for
// each cited frame, one of type diagnosis if something failed, and one of type
// end. What was written when a run is cut
// off is valid: it has no end.
type Stream struct {
	enc *json.Encoder
	err error
}

// line is one line; Type says which of the others is set.
type line struct {
	Type string `json:"type"`
	*StreamStart
	*suite.Result
	*suite.Frame
	*StreamEnd
	Diagnosis *diagnose.Report `json:"diagnosis,omitempty"`
}

// StreamStart is the line of type start.
type StreamStart struct {
	APIVersion string        `json:"apiVersion"`
	Lab        string        `json:"lab"`
	Provider   string        `json:"provider"`
	RunStarted time.Time     `json:"runStarted"`
	About      *suite.About  `json:"about,omitempty"`
	Repeat     *suite.Repeat `json:"repeat,omitempty"`
	// Chosen is how many checks are to come.
	Chosen int `json:"chosen"`
}

// StreamEnd is the line of type end.
type StreamEnd struct {
	Summary     map[suite.Verdict]int `json:"summary"`
	ExitCode    int                   `json:"exitCode"`
	Interrupted bool                  `json:"interrupted"`
	RunTook     time.Duration         `json:"runTookNanoseconds"`
}

// NewStream begins a stream. Of head, what is known before the run is used;
// chosen is how many checks are to come.
func NewStream(w io.Writer, head *suite.Results, chosen int) *Stream {
	s := &Stream{enc: json.NewEncoder(w)}
	s.write(line{Type: "start", StreamStart: &StreamStart{
		APIVersion: APIVersion, Lab: head.Lab, Provider: head.Provider, RunStarted: head.Started,
		About: head.About, Repeat: head.Repeat, Chosen: chosen,
	}})
	return s
}

// Result writes one result.
func (s *Stream) Result(r suite.Result) { s.write(line{Type: "check", Result: &r}) }

// End writes what is known when the run is over, and returns the first error
// of the stream.
func (s *Stream) End(r *suite.Results) error {
	for i := range r.Frames {
		s.write(line{Type: "frame", Frame: &r.Frames[i]})
	}
	if r.Diagnosis != nil {
		s.write(line{Type: "diagnosis", Diagnosis: r.Diagnosis})
	}
	s.write(line{Type: "end", StreamEnd: &StreamEnd{
		Summary: summary(r), ExitCode: r.ExitCode(), Interrupted: r.Interrupted, RunTook: r.Took,
	}})
	return s.err
}

func (s *Stream) write(l line) {
	if s.err != nil {
		return
	}
	if err := s.enc.Encode(l); err != nil {
		s.err = fmt.Errorf("write JSON lines: %w", err)
	}
}

// jsonLines writes a whole report as a stream.
func jsonLines(w io.Writer, r *suite.Results) error {
	s := NewStream(w, r, len(r.Results))
	for _, res := range r.Results {
		s.Result(res)
	}
	return s.End(r)
}

// readLines reads a stream back, whole or cut off: then it is interrupted.
func readLines(in io.Reader) (*suite.Results, error) {
	r := &suite.Results{Interrupted: true}
	dec := json.NewDecoder(in)
	for n := 1; ; n++ {
		var l line
		err := dec.Decode(&l)
		if n > 1 && err != nil { // the end, or a line that was cut off
			return r, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read JSON lines: %w", err)
		}
		switch l.Type {
		case "start":
			if l.StreamStart == nil || l.APIVersion != APIVersion {
				return nil, fmt.Errorf("read JSON lines: this program reads %s", APIVersion)
			}
			r.Lab, r.Provider, r.Started, r.About, r.Repeat = l.Lab, l.Provider, l.RunStarted, l.About, l.Repeat
		case "check":
			r.Results = append(r.Results, *l.Result)
		case "frame":
			r.Frames = append(r.Frames, *l.Frame)
		case "diagnosis":
			r.Diagnosis = l.Diagnosis
		case "end":
			r.Interrupted, r.Took = l.Interrupted, l.RunTook
		}
	}
}

// summary counts the results by verdict.
func summary(r *suite.Results) map[suite.Verdict]int {
	m := map[suite.Verdict]int{}
	for _, v := range suite.Verdicts() {
		if n := r.Count(v); n > 0 {
			m[v] = n
		}
	}
	return m
}
