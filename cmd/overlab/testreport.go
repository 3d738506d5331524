package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

// reportFolder is the folder of the last report, as this process sees it.
func reportFolder(ctx context.Context, lab topology.Lab) (string, error) {
	if netns.Inside() {
		return netns.InsideReports(), nil
	}
	s, err := lab.Status(ctx)
	return filepath.Join(s.Dir, netns.ReportFolder), err
}

// fetchReports copies the evidence that the command inside the lab has left,
// and writes the reports that are asked for.
func (c command) fetchReports(ctx context.Context, lab topology.Lab, f testFlags) error {
	if f.evidence == "" && len(f.reports) == 0 {
		return nil
	}
	s, err := lab.Status(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.Dir, netns.ReportFolder)
	if f.evidence != "" {
		if err := copyEvidence(f.evidence, dir); err != nil {
			return err
		}
		fmt.Fprintf(c.err, "evidence in %s\n", f.evidence)
	}
	if len(f.reports) == 0 {
		return nil
	}
	r, err := report.Open(dir)
	if err != nil {
		return err
	}
	return writeReports(f.reports, r)
}

// writeReports writes each FORMAT=FILE.
func writeReports(reports []string, r *suite.Results) error {
	var errs []error
	for _, x := range reports {
		format, file, _ := strings.Cut(x, "=")
		errs = append(errs, writeReport(format, file, r))
	}
	return errors.Join(errs...)
}

func writeReport(format, file string, r *suite.Results) error {
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := errors.Join(report.Write(f, format, r), f.Close()); err != nil {
		return fmt.Errorf("write the report %s: %w", file, err)
	}
	return nil
}

func completeReports(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	if strings.Contains(word, "=") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []string
	for _, f := range report.Formats() {
		out = append(out, f+"=")
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
