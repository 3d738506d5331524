package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
)

func (c command) probe() *cobra.Command {
	return &cobra.Command{
		Use:    "probe",
		Hidden: true,
		Short:  "Measure in this network namespace as standard input asks",
		Long: `Probe serves the harness where it cannot enter a namespace itself: requests
come on standard input, answers go to standard output, JSON, one a line.`,
		Example: `  overlab exec node-1 -- overlab probe`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := probe.Open(cmd.Context(), probe.Here{})
			if err != nil {
				return err
			}
			taps := capture.NewServer(probe.Here{})
			err = probe.Serve(cmd.Context(), s, c.in, c.out, taps.Handlers())
			return errors.Join(err, taps.Close(), s.Close())
		},
	}
}
