package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

func (c command) doctor() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what this machine lacks for labs, and how to mend it",
		Long: `Doctor tries, in namespaces of its own, everything that a lab does, and looks
for the tools that the articles' commands use. It exits with 2 when something
is missing without which no lab comes up.`,
		Example: "  overlab doctor\n  overlab doctor -o json",
		Args:    cobra.NoArgs,
	}
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(*cobra.Command, []string) error {
		features := netns.Features([]string{"/proc/self/exe", "probe-features"})
		broken := false
		for _, f := range features {
			broken = broken || f.Needed && !f.OK
		}
		if out.value != "table" {
			if err := out.encode(c.out, struct {
				APIVersion string          `json:"apiVersion"`
				Features   []netns.Feature `json:"features"`
			}{topology.APIVersion, features}); err != nil {
				return err
			}
		} else {
			c.writeFeatures(features)
		}
		if broken {
			return &exitError{code: exitBroken, err: errors.New("this machine cannot run labs yet: see the lines marked with ✗")}
		}
		return nil
	}
	return cmd
}

func (c command) writeFeatures(features []netns.Feature) {
	lacking := 0
	for _, f := range features {
		mark := "✓"
		switch {
		case !f.OK && f.Needed:
			mark = "✗"
		case !f.OK:
			mark = "–"
		}
		fmt.Fprintf(c.out, "%s %-28s %s\n", mark, f.Name, f.Detail)
		if !f.OK {
			lacking++
			if f.Mend != "" {
				fmt.Fprintf(c.out, "    %s\n", f.Mend)
			}
		}
	}
	if lacking == 0 {
		fmt.Fprintln(c.out, "\nnothing is missing")
		return
	}
	fmt.Fprintln(c.out, "\n✗ labs need it; – only commands typed by hand, or labs that name it, do")
}
