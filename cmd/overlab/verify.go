package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/scenarios/checks"
)

func (c command) verify() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FOLDER",
		Short: "Derive a report's verdicts again from its evidence",
		Long: `Verify runs the checks of a report again, without the lab: over the plan, the
dumps, the recorded measurements and the captured frames that ` + "`overlab test\n--evidence FOLDER`" + ` has left. It says of each verdict whether it still holds,
is contradicted by the evidence, or cannot be replayed, for want of it. What was
measured, each finding and each cited frame must come out again as well, and
every file must be the one that was written.

It exits with 0 if all that can be replayed holds, 1 if the evidence contradicts
the report or is damaged, 2 if the report cannot be read, and 3 if nothing can
be replayed.`,
		Example: `  overlab test --evidence /tmp/report
  overlab verify /tmp/report`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("verify needs the folder of a report: overlab verify /tmp/report")
			}
			return nil
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := suite.New(checks.All())
		if err != nil {
			return err
		}
		r, err := report.Open(args[0])
		if err != nil {
			return err
		}
		v, err := s.Verify(cmd.Context(), r)
		if err != nil {
			return fmt.Errorf("verify %s: %w", args[0], err)
		}
		if v.Damaged, err = report.Damage(args[0]); err != nil {
			return fmt.Errorf("verify %s: %w", args[0], err)
		}
		if output.value == "json" {
			err = report.VerificationJSON(c.out, v)
		} else {
			err = report.Verification(c.out, v, report.TextOptions{Color: colours(c.out)})
		}
		if err != nil {
			return err
		}
		if code := v.ExitCode(); code != exitPassed {
			return &exitError{code: code}
		}
		return nil
	}
	return cmd
}
