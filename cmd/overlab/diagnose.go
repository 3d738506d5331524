package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

// mostCauses is how many causes are shown unless all are asked for.
const mostCauses = 3

func (c command) diagnose() *cobra.Command {
	var name string
	var all bool
	cmd := &cobra.Command{
		Use:   "diagnose",
		Short: "Say why a running lab does not work, and what mends it",
		Long: `Diagnose compares a running lab with its plan, looks at agents, the store,
filters, settings, counters and the underlay, sends a few packets, over IPv6 too
where there is an overlay of it, walks after some that are lost, and names the
causes that explain what it saw: the likeliest first, each with its evidence and
the command that mends it.

It exits with 0 if it found nothing, 1 if it found a cause, and 2 if the lab or
the usage is broken.`,
		Example: `  overlab diagnose
  overlab diagnose --all
  overlab diagnose -o json`,
		Args: cobra.NoArgs,
	}
	c.labFlags(cmd, &name)
	cmd.Flags().BoolVar(&all, "all", false, fmt.Sprintf("show every cause, not only the first %d", mostCauses))
	out := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		lab, err := c.open(ctx, name)
		if err != nil {
			return err
		}
		defer lab.Close()
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			return c.inside(ctx, outside, []string{netns.Self, "diagnose", fmt.Sprintf("--all=%t", all), "-o", out.value})
		}
		if err := foreign(lab.Plan()); err != nil {
			return err
		}
		open := &sessions{lab: lab}
		r, err := diagnose.Run(ctx, lab, open)
		if err = errors.Join(err, open.close()); err != nil {
			return err
		}
		if out.value == "json" {
			err = out.encode(c.out, r)
		} else {
			most := mostCauses
			if all {
				most = 0
			}
			err = report.Diagnosis(c.out, r, most, report.DiffOptions{Color: colours(c.out)})
		}
		if err == nil && len(r.Causes) > 0 {
			err = &exitError{code: exitFailed}
		}
		return err
	}
	return cmd
}
