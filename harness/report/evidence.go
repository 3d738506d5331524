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

// Evidence writes what the verdicts rest on into a folder, which it makes:
// report.json, plan.json, frames.pcapng (if frames were cited; frame numbers
// are the report's) and state/NAME.json for each dump. It returns the paths.
func Evidence(dir string, r *suite.Results) ([]string, error) {
	var paths []string
	put := func(name string, write func(io.Writer) error) error {
		path := filepath.Join(dir, name)
		paths = append(paths, path)
		return create(path, write)
	}
	err := put("report.json", func(w io.Writer) error { return JSON(w, r) })
	if err == nil && r.Plan != nil {
		err = put("plan.json", func(w io.Writer) error { return indented(w, r.Plan) })
	}
	if err == nil && len(r.Frames) > 0 {
		err = put("frames.pcapng", func(w io.Writer) error { return Pcapng(w, r) })
	}
	for _, name := range slices.Sorted(maps.Keys(r.States)) {
		if err == nil {
			err = put(filepath.Join("state", name+".json"), func(w io.Writer) error { return indented(w, r.States[name]) })
		}
	}
	if err != nil {
		return paths, fmt.Errorf("write evidence: %w", err)
	}
	return paths, nil
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
