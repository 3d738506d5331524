package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/identify"
	"github.com/overlab/overlab/internal/agentimage"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/kubernetes"
)

// chosen is where a command's lab is looked for: any provider has labs that run
// on this machine, and a cluster that is there already is its own lab.
type chosen struct {
	// provider is one alone, empty for all that have labs here.
	provider string
	cluster  kubernetes.Access
	image    string
	// disruptive says that the cluster may be changed for a while.
	disruptive bool
}

// labFlags adds --name, and the flags by which an existing cluster is chosen.
func (c command) labFlags(cmd *cobra.Command, name *string) {
	c.nameFlag(cmd, name)
	c.clusterFlags(cmd)
}

func (c command) clusterFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&c.chosen.provider, "provider", "", "whose lab: netns, kind, or kubernetes for an existing cluster")
	flags.StringVar(&c.chosen.cluster.Kubeconfig, "kubeconfig", "", "the file that leads to an existing cluster (default KUBECONFIG, else ~/.kube/config)")
	flags.StringVar(&c.chosen.cluster.Context, "context", "", "the kubeconfig's context (default its current one)")
	flags.StringVar(&c.chosen.image, "probe-image", agentimage.Name, "the image of the probes in an existing cluster; it has overlab in its PATH")
	_ = cmd.RegisterFlagCompletionFunc("provider", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return append(c.provider.names(), kubernetes.Name), cobra.ShellCompDirectiveNoFileComp
	})
	_ = cmd.RegisterFlagCompletionFunc("context", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return c.chosen.cluster.Contexts(), cobra.ShellCompDirectiveNoFileComp
	})
}

// existing reports whether the lab is a cluster that is there already.
func (c command) existing() bool { return c.chosen.provider == kubernetes.Name }

// check refuses what makes no sense.
func (w *chosen) check() error {
	if w.provider != kubernetes.Name && w.cluster != (kubernetes.Access{}) {
		return errors.New("--kubeconfig and --context choose an existing cluster: add --provider kubernetes")
	}
	return nil
}

// clusters is the provider of existing clusters, as the flags choose one.
func (c command) clusters() *kubernetes.Provider {
	return &kubernetes.Provider{
		Access: c.chosen.cluster, Image: c.chosen.image, Disruptive: c.chosen.disruptive, Complete: complete,
		Tell: func(what string) { fmt.Fprintln(c.err, "  "+what) },
	}
}

// complete looks at the cluster's kernels, and at the wire between them.
func complete(ctx context.Context, lab *kubernetes.Lab) (*topology.Plan, []string, error) {
	n := lab.Found().Network
	r, err := identify.Run(ctx, lab, identify.Told{Plugin: n.Plugin, NetConf: n.NetConf, NetConfIn: n.NetConfIn, Folders: n.Folders})
	if err != nil {
		return nil, nil, err
	}
	return r.Plan, r.Notes, nil
}

// foreign refuses to compare a network with what ought to be, where nobody knows
// what that is.
func foreign(p *topology.Plan) error {
	if p.CNI.Foreign == "" {
		return nil
	}
	return fmt.Errorf("the pod network of %s is none of flannel's (%s), and what it ought to have is not known: `overlab test` judges what holds of every one, `overlab walk` follows a packet", p.Name, p.CNI.Foreign)
}

// spared says why nothing of the lab may be changed, empty where it may.
func (c command) spared() string {
	if !c.existing() || c.chosen.disruptive {
		return ""
	}
	return "an existing cluster is left as it is: --disruptive allows it"
}
