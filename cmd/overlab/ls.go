package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/topology"
)

func (c command) ls() *cobra.Command {
	var shipped bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the labs that run, or those that ship",
		Example: "  overlab ls\n  overlab ls --shipped",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&shipped, "shipped", false, "list the labs that `overlab up` knows by name")
	c.clusterFlags(cmd)
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if shipped {
			return c.lsShipped(out)
		}
		all, err := c.list(cmd.Context())
		if err != nil {
			return err
		}
		if out.value != "table" {
			if all == nil {
				all = []topology.Status{}
			}
			return out.encode(c.out, struct {
				APIVersion string            `json:"apiVersion"`
				Labs       []topology.Status `json:"labs"`
			}{topology.APIVersion, all})
		}
		if len(all) == 0 {
			fmt.Fprintln(c.err, "no lab is running: `overlab up` brings one up, `overlab ls --shipped` lists what it knows")
			return nil
		}
		t := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "NAME\tPROVIDER\tSTATE\tNODES\tPODS\tAGE\tPID")
		for _, s := range all {
			age := "-"
			if !s.Created.IsZero() {
				age = time.Since(s.Created).Round(time.Second).String()
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%d\n", s.Name, s.Provider, s.State, s.Nodes, s.Pods, age, s.PID)
		}
		return t.Flush()
	}
	return cmd
}

// list lists the labs of the provider that is asked for, or of all that have
// labs on this machine; of an existing cluster, the probes in it.
func (c command) list(ctx context.Context) ([]topology.Status, error) {
	if err := c.chosen.check(); err != nil {
		return nil, err
	}
	if c.existing() {
		return c.clusters().List(ctx)
	}
	here, err := c.provider.only(c.chosen.provider)
	if err != nil {
		return nil, err
	}
	return here.List(ctx)
}

func (c command) lsShipped(out *format) error {
	type row struct {
		Name  string `json:"name"`
		Title string `json:"title"`
	}
	var rows []row
	for _, l := range labs.All() {
		rows = append(rows, row{l.Name, l.Title})
	}
	if out.value != "table" {
		return out.encode(c.out, struct {
			APIVersion string `json:"apiVersion"`
			Labs       []row  `json:"labs"`
		}{topology.APIVersion, rows})
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "LAB\tWHAT IT SHOWS")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\n", r.Name, r.Title)
	}
	return t.Flush()
}
