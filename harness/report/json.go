package report

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/overlab/overlab/harness/suite"
)

// APIVersion names the JSON report's schema.
const APIVersion = "overlab/report/v1alpha1"

// Document is the JSON report.
type Document struct {
	APIVersion string `json:"apiVersion"`
	// Summary counts the results by verdict.
	Summary map[suite.Verdict]int `json:"summary"`
	// ExitCode is what `overlab test` ends with.
	ExitCode int `json:"exitCode"`
	*suite.Results
}

// JSON writes the report as one JSON document.
func JSON(w io.Writer, r *suite.Results) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	d := Document{APIVersion: APIVersion, Summary: summary(r), ExitCode: r.ExitCode(), Results: r}
	if err := enc.Encode(d); err != nil {
		return fmt.Errorf("write JSON report: %w", err)
	}
	return nil
}

// readJSON reads a report that JSON wrote.
func readJSON(in io.Reader) (*suite.Results, error) {
	d := Document{Results: new(suite.Results)}
	if err := json.NewDecoder(in).Decode(&d); err != nil {
		return nil, fmt.Errorf("read JSON report: %w", err)
	}
	if d.APIVersion != APIVersion {
		return nil, fmt.Errorf("read JSON report: it is of %q, and this program reads %s", d.APIVersion, APIVersion)
	}
	return d.Results, nil
}
