package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/suite"
)

// The files of an evidence folder.
const (
	reportFile = "report.json"
	// StreamFile holds the results as they came, as JSON lines: what there is
	// of a run that was cut off.
	StreamFile    = "results.jsonl"
	planFile      = "plan.json"
	framesFile    = "frames.pcapng"
	exchangesFile = "exchanges.jsonl"
	capturesFile  = "captures.json"
	captureFolder = "captures"
	stateFolder   = "state"
	attachFolder  = "attached"
)

// Evidence writes what the verdicts rest on into a folder, which it makes:
// report.json, plan.json, frames.pcapng (if frames were cited; frame numbers
// are the report's), state/NAME.json for each dump, and the record of what was
// measured: exchanges.jsonl, captures.json and captures/N.pcapng. Attachments
// are in attached/. SHA256SUMS has the sums of them all. It returns the paths. Open reads it back.
func Evidence(dir string, r *suite.Results) ([]string, error) {
	e := &evidence{dir: dir}
	e.put(reportFile, func(w io.Writer) error { return JSON(w, r) })
	if r.Plan != nil {
		e.put(planFile, func(w io.Writer) error { return indented(w, r.Plan.Masked()) })
	}
	if len(r.Frames) > 0 {
		e.put(framesFile, func(w io.Writer) error { return Pcapng(w, r) })
	}
	for _, name := range slices.Sorted(maps.Keys(r.States)) {
		e.put(filepath.Join(stateFolder, name+".json"), func(w io.Writer) error { return indented(w, r.States[name]) })
	}
	if r.Record != nil {
		e.record(r)
	}
	for _, a := range r.Attachments {
		e.put(filepath.Join(attachFolder, a.File), func(w io.Writer) error {
			_, err := w.Write(a.Data)
			return err
		})
	}
	e.sums()
	if e.err != nil {
		return e.paths, fmt.Errorf("write evidence: %w", e.err)
	}
	return e.paths, nil
}

// evidence writes files until one fails.
type evidence struct {
	dir   string
	paths []string
	err   error
}

func (e *evidence) put(name string, write func(io.Writer) error) {
	if e.err != nil {
		return
	}
	path := filepath.Join(e.dir, name)
	e.paths = append(e.paths, path)
	e.err = create(path, write)
}

func (e *evidence) record(r *suite.Results) {
	e.put(exchangesFile, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		for _, x := range r.Record.Exchanges {
			if err := enc.Encode(x); err != nil {
				return err
			}
		}
		return nil
	})
	e.put(capturesFile, func(w io.Writer) error { return indented(w, r.Record.Captures) })
	for i, c := range r.Record.Captures {
		e.put(captureName(i), func(w io.Writer) error { return recordedPcapng(w, c) })
	}
}

// captureName is the file of a recorded capture.
func captureName(i int) string { return filepath.Join(captureFolder, fmt.Sprintf("%03d.pcapng", i+1)) }

func recordedPcapng(w io.Writer, c suite.RecordedCapture) error {
	var taps []string
	for _, p := range c.Points {
		tap, _, _ := strings.Cut(p, " ")
		taps = append(taps, tap)
	}
	out, err := capture.NewWriter(w, c.Scope, taps)
	if err != nil {
		return err
	}
	for _, f := range c.Frames {
		if err := out.Write(f); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Pcapng writes the cited frames, one interface a tap; the comments of each
// hold the checks that cite it and the identifier that it carries.
func Pcapng(w io.Writer, r *suite.Results) error {
	var taps []string
	for _, f := range r.Frames {
		taps = append(taps, f.Tap)
	}
	out, err := capture.NewWriter(w, "lab "+r.Lab, taps)
	if err != nil {
		return err
	}
	for _, f := range r.Frames {
		comments := []string{strings.Join(f.Checks, " ")}
		if f.Probe != uuid.Nil { // which an encrypted frame does not show
			comments = append(comments, "uuid="+f.Probe.String())
		}
		if err := out.Write(f.Captured, comments...); err != nil {
			return err
		}
	}
	return out.Flush()
}

func indented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func create(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
