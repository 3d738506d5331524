package main

import (
	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology/kubernetes"
)

func (c command) keeper() *cobra.Command {
	var namespace, lease string
	cmd := &cobra.Command{
		Use:    "keeper",
		Hidden: true,
		Short:  "Wait in a probe's container, and remove the probes when nobody wants them",
		Long: `Keeper is the program of a probe's container in an existing cluster. With a
lease it deletes the namespace that it is in when nobody has renewed that.`,
		Example: "  overlab keeper --namespace overlab-probe-x --lease session",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&namespace, "namespace", "", "the probes' namespace")
	cmd.Flags().StringVar(&lease, "lease", "", "the lease that a command renews as long as it wants the probes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if lease == "" {
			<-cmd.Context().Done()
			return nil
		}
		return kubernetes.Keep(cmd.Context(), namespace, lease)
	}
	return cmd
}
