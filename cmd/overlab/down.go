package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

func (c command) down() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "down [NAME|--all]",
		Short:             "End a lab and everything in it",
		Example:           "  overlab down\n  overlab down --all\n  overlab down --provider kubernetes   remove what is ours from a cluster",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: c.completeLabs,
	}
	c.clusterFlags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "end every lab of yours")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if all && len(args) > 0 {
			return errors.New("down takes a name or --all, not both")
		}
		if err := c.chosen.check(); err != nil {
			return err
		}
		if c.existing() {
			return c.downCluster(cmd.Context())
		}
		names := args
		if all {
			labs, err := c.provider.List(cmd.Context())
			if err != nil {
				return err
			}
			for _, l := range labs {
				names = append(names, l.Name)
			}
			if len(names) == 0 {
				fmt.Fprintln(c.err, "no lab is running")
			}
		} else if len(names) == 0 {
			name, err := c.running(cmd.Context(), "")
			if err != nil {
				return err
			}
			names = []string{name}
		}
		var errs []error
		for _, name := range names {
			began := time.Now()
			if err := c.provider.Down(cmd.Context(), name); err != nil {
				errs = append(errs, err)
				continue
			}
			fmt.Fprintf(c.err, "lab %s is gone (%.0f ms)\n", name, float64(time.Since(began).Microseconds())/1000)
		}
		return errors.Join(errs...)
	}
	return cmd
}
