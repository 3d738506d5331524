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
	d := Document{APIVersion: APIVersion, Summary: map[suite.Verdict]int{}, ExitCode: r.ExitCode(), Results: r}
	for _, v := range suite.Verdicts() {
		if n := r.Count(v); n > 0 {
			d.Summary[v] = n
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return fmt.Errorf("write JSON report: %w", err)
	}
	return nil
}
