package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology"
)

func (c command) validate() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE|LAB",
		Short: "Check a topology file and name every error in it",
		Long: `Validate reads a topology file and prints every error in it at once, each as
file:line:column and YAML path. It also says what this build cannot run.`,
		Example: "  overlab validate my-lab.yaml",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("validate needs one file: overlab validate my-lab.yaml")
			}
			return nil
		},
		ValidArgsFunction: completeSpecs,
		RunE: func(cmd *cobra.Command, args []string) error {
			plan, err := load(args[0], "", "")
			if err != nil {
				return err
			}
			if err := c.provider.Check(cmd.Context(), plan); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "%s: valid: lab %s, %s\n", args[0], plan.Name, summary(plan))
			return nil
		},
	}
}

func (c command) plan() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plan [FILE|LAB]",
		Short: "Show what a topology file expands to, with every default filled",
		Long: `Plan shows the lab that a topology file describes, every default filled and
every name, address and MAC decided. It builds nothing.`,
		Example:           "  overlab plan my-lab.yaml\n  overlab plan 000 -o yaml",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeSpecs,
	}
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		plan, err := load(first(args), "", "")
		if err != nil {
			return err
		}
		switch out.value {
		case "json":
			return topology.WriteJSON(c.out, plan)
		case "yaml":
			return topology.WriteYAML(c.out, plan)
		}
		return topology.WriteTable(c.out, plan)
	}
	return cmd
}

func (c command) schema() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of topology files, for editors",
		Example: `  overlab schema > overlab.schema.json
  # and in the file: # yaml-language-server: $schema=overlab.schema.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b, err := topology.Schema()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.out, string(b))
			return err
		},
	}
}

func (c command) inspect() *cobra.Command {
	cmd := &cobra.Command{
		Use:               "inspect [NAME]",
		Short:             "Show a running lab: its parts, its agents, its logs",
		Example:           "  overlab inspect\n  overlab inspect -o json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeLabs,
	}
	c.clusterFlags(cmd)
	quiet := cmd.Flags().BoolP("quiet", "q", false, "do not tell that faults are in")
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		lab, err := c.open(cmd.Context(), first(args))
		if err != nil {
			return err
		}
		defer lab.Close()
		status, err := lab.Status(cmd.Context())
		if err != nil {
			return err
		}
		if out.value != "table" {
			return out.encode(c.out, struct {
				APIVersion string          `json:"apiVersion"`
				Status     topology.Status `json:"status"`
				Plan       *topology.Plan  `json:"plan"`
			}{topology.APIVersion, status, lab.Plan().Masked()})
		}
		if err := writeInspect(c.out, lab.Plan(), status); err != nil || *quiet {
			return err
		}
		return c.tellFaults(cmd.Context(), lab)
	}
	return cmd
}

func (c command) supervise() *cobra.Command {
	return &cobra.Command{
		Use: "supervise OPTIONS", Hidden: true, Args: cobra.ExactArgs(1),
		Short: "Be a lab's supervisor (`overlab up` calls it)",
		RunE: func(cmd *cobra.Command, args []string) error {
			if os.Getpid() != 1 {
				return fmt.Errorf("supervise is called by `overlab up`, as process 1 of a lab")
			}
			return supervise(cmd.Context(), args[0])
		},
	}
}
