package main

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/overlab/overlab/topology"
)

func (c command) up() *cobra.Command {
	var name, nodeImage string
	var judge bool
	cmd := &cobra.Command{
		Use:   "up [LAB|FILE]",
		Short: "Bring a lab up",
		Long: `Up builds a lab from a topology file, or one of the labs that ship, and
returns when every node's agent has programmed its mesh.

Nothing on this machine changes: the lab lives in namespaces of its own, and
goes without a trace with ` + "`overlab down`" + `, or if its supervisor is killed. With
--provider kind it is a Kubernetes cluster whose nodes are Docker containers.

With --provider kubernetes nothing is built: probes stay in an existing cluster
for the commands that follow, until ` + "`overlab down --provider kubernetes`" + `, or an
hour after the last of them. No command needs that.`,
		Example: `  overlab up                a master and two workers, two pods on each
  overlab up 000 --test     an article's lab, judged at once
  overlab up my-lab.yaml
  overlab up --provider kind        the same on a Kubernetes cluster in Docker`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeSpecs,
	}
	cmd.Flags().StringVar(&name, "name", "", "call the lab so, in place of metadata.name")
	c.clusterFlags(cmd)
	cmd.Flag("provider").Usage = "what to build the lab from, in place of spec.provider: netns, or kind for a Kubernetes cluster in Docker; kubernetes is an existing cluster, which gets probes"
	cmd.Flags().StringVar(&nodeImage, "node-image", "", "the image of kind's nodes; kind's own, or the one of overlab image node, when left out")
	cmd.Flags().BoolVar(&judge, "test", false, "run overlab test once the lab is up")
	cmd.Flags().StringVar(&c.images.Address, "containerd-address", "/run/containerd/containerd.sock", "the containerd that images named by a reference are read from")
	cmd.Flags().StringVar(&c.images.Namespace, "containerd-namespace", "default", "its namespace; k8s.io is Kubernetes', moby Docker's")
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if judge && out.value != "table" {
			return errors.New("--test prints its report to standard output: leave -o out, or run `overlab test` after")
		}
		if err := c.chosen.check(); err != nil {
			return err
		}
		if c.existing() {
			return c.upCluster(cmd, args, judge)
		}
		began := time.Now()
		plan, err := load(first(args), name, c.chosen.provider)
		if err != nil {
			return err
		}
		if err := fitting(cmd.Flags(), plan.Provider); err != nil {
			return err
		}
		fmt.Fprintf(c.err, "lab %s: %s\n", plan.Name, summary(plan))
		lab, err := c.provider.Up(cmd.Context(), plan, topology.UpOptions{Progress: phasePrinter(c.err), NodeImage: nodeImage})
		if errors.Is(err, topology.ErrRunning) {
			return fmt.Errorf("%w: `overlab down %s` ends it, `overlab up --name OTHER` brings another up beside it", err, plan.Name)
		}
		if err != nil {
			return err
		}
		defer lab.Close()
		fmt.Fprintf(c.err, "up in %.2f s\n", time.Since(began).Seconds())
		if judge {
			root := cmd.Root()
			root.SetArgs([]string{"test", "--name", plan.Name})
			if err := root.ExecuteContext(cmd.Context()); err != nil {
				return err
			}
		}
		if out.value == "table" {
			return c.suggest(plan, exercise(first(args)))
		}
		status, err := lab.Status(cmd.Context())
		if err != nil {
			return err
		}
		return out.encode(c.out, status)
	}
	return cmd
}

// fitting refuses the flags that say nothing to the provider.
func fitting(flags *pflag.FlagSet, provider string) error {
	if provider != "kind" {
		return nil
	}
	var errs []error
	for _, f := range []struct{ flag, variable string }{
		{"containerd-address", "OVERLAB_CONTAINERD_ADDRESS"}, {"containerd-namespace", "OVERLAB_CONTAINERD_NAMESPACE"},
	} {
		if flags.Changed(f.flag) {
			errs = append(errs, fmt.Errorf("--%s (or %s): the pods of provider kind are Kubernetes', of an image of its own; leave it out", f.flag, f.variable))
		}
	}
	return errors.Join(errs...)
}

// suggest names the commands that a newcomer would want next, and the exercise
// of a lab that ships.
func (c command) suggest(p *topology.Plan, exercise string) error {
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\nnext:")
	fmt.Fprintln(t, "  overlab test\tjudge it, and see a captured packet")
	fmt.Fprintf(t, "  overlab shell %s\tlook around on a node\n", p.Nodes[min(1, len(p.Nodes)-1)].Name)
	if from, to := twoPods(p); from != nil && p.Network.Backend.Connects() {
		fmt.Fprintf(t, "  overlab exec %s -- ping -c3 %s\tcross the overlay\n", from.Name, to.Address.Addr())
	}
	fmt.Fprintln(t, "  overlab down\tend it, without a trace")
	if exercise != "" {
		fmt.Fprintf(t, "the exercise: %s\n", exercise)
	}
	return t.Flush()
}

// twoPods are two pods on different nodes, workers' before the master's.
func twoPods(p *topology.Plan) (from, to *topology.Pod) {
	for i := len(p.Pods) - 1; i >= 0; i-- {
		switch pod := &p.Pods[i]; {
		case to == nil:
			to = pod
		case pod.Node != to.Node:
			return pod, to
		}
	}
	return nil, nil
}

func summary(p *topology.Plan) string {
	under := ""
	for i, s := range p.Segments {
		if i == 3 {
			under += fmt.Sprintf(" and %d more", len(p.Segments)-i)
			break
		}
		if i > 0 {
			under += ", "
		}
		under += s.CIDR.String()
	}
	return fmt.Sprintf("%d nodes, %d pods, %s %s over %s", len(p.Nodes), len(p.Pods), p.Network.Backend.Type, p.Network.Network, under)
}

// phasePrinter prints a line for each phase as it ends.
func phasePrinter(w io.Writer) func(topology.Phase) {
	return func(p topology.Phase) {
		if p.Took > 0 {
			fmt.Fprintf(w, "  %-10s %6.1f ms  %s\n", p.Name, float64(p.Took.Microseconds())/1000, p.Detail)
		}
	}
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
