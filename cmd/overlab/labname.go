package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/topology"
)

// nameFlag adds --name, which chooses among running labs.
func (c command) nameFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "name", "", "the lab; the only one that runs when left out")
	_ = cmd.RegisterFlagCompletionFunc("name", c.completeLabs)
}

// running resolves --name: the lab of that name, or the only one.
func (c command) running(ctx context.Context, name string) (string, error) {
	if name == "" {
		name = os.Getenv("OVERLAB_LAB") // set inside a lab
	}
	if name != "" {
		return name, nil
	}
	here, err := c.provider.only(c.chosen.provider)
	if err != nil {
		return "", err
	}
	all, err := here.List(ctx)
	if err != nil {
		return "", err
	}
	switch len(all) {
	case 0:
		return "", errors.New("no lab is running: bring one up with `overlab up`")
	case 1:
		return all[0].Name, nil
	}
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return "", fmt.Errorf("several labs are running: say which with --name (%s)", strings.Join(names, ", "))
}

// open joins the running lab that --name chooses,
// or looks at the existing cluster that --provider asks for, which no lab need
// be up for.
func (c command) open(ctx context.Context, name string) (topology.Lab, error) {
	if err := c.chosen.check(); err != nil {
		return nil, err
	}
	if c.existing() {
		return c.clusters().Open(ctx, name)
	}
	name, err := c.running(ctx, name)
	if err != nil {
		return nil, err
	}
	here, err := c.provider.only(c.chosen.provider)
	if err != nil {
		return nil, err
	}
	lab, err := here.Open(ctx, name)
	if errors.Is(err, topology.ErrNoLab) {
		return nil, fmt.Errorf("%w; `overlab ls` lists those that run, `overlab up` brings one up", err)
	}
	return lab, err
}

// load plans the lab that arg names; name and provider, when set, replace
// metadata.name and spec.provider.
func load(arg, name, provider string) (*topology.Plan, error) {
	spec, err := loadSpec(arg)
	if err != nil {
		return nil, err
	}
	flag := ""
	if name != "" {
		spec.Metadata.Name, flag = name, "--name"
	}
	if provider != "" {
		spec.Spec.Provider, flag = provider, "--provider"
	}
	plan, err := spec.Plan()
	var errs topology.Errors
	if flag != "" && errors.As(err, &errs) && len(errs) > 0 {
		// The file was sound until it got this.
		return nil, fmt.Errorf("%s: %s", flag, errs[0].Msg)
	}
	return plan, err
}

// loadSpec reads a lab by file or by the name of one that ships; without
// either, the lab "default".
func loadSpec(arg string) (*topology.Spec, error) {
	if arg == "" {
		arg = "default"
	}
	if strings.ContainsAny(arg, "/.") {
		return topology.Load(arg)
	}
	spec, err := labs.Load(arg)
	if err == nil {
		return spec, nil
	}
	if st, statErr := os.Stat(arg); statErr == nil && !st.IsDir() {
		return topology.Load(arg)
	}
	return nil, err
}

// exercise is the README of a lab that ships, empty for others.
func exercise(arg string) string {
	if arg == "" || strings.ContainsAny(arg, "/.") {
		return ""
	}
	lab, err := labs.Find(arg)
	if err != nil {
		return ""
	}
	return "labs/" + lab.Name + "/README.md"
}

func (c command) completeLabs(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	all, _ := c.provider.List(cmd.Context())
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeSpecs offers the labs that ship; files complete as usual.
func completeSpecs(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, l := range labs.All() {
		names = append(names, l.Name+"\t"+l.Title)
	}
	return names, cobra.ShellCompDirectiveDefault
}

// peek returns the plan of the lab that would be opened; in an existing cluster
// it makes nothing for that.
func (c command) peek(ctx context.Context, name string) (*topology.Plan, error) {
	if c.existing() {
		return c.clusters().Peek(ctx)
	}
	lab, err := c.open(ctx, name)
	if err != nil {
		return nil, err
	}
	return lab.Plan(), lab.Close()
}

// completeSpaces offers the nodes and pods of the running lab.
func (c command) completeSpaces(name *string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		plan, err := c.peek(cmd.Context(), *name)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, n := range plan.Nodes {
			names = append(names, n.Name+"\tnode, "+string(n.Role))
		}
		for _, p := range plan.Pods {
			names = append(names, p.Name+"\tpod on "+p.Node)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
