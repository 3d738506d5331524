package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/kubernetes"
)

// upCluster puts probes into an existing cluster that stay there.
func (c command) upCluster(cmd *cobra.Command, args []string, judge bool) error {
	if len(args) > 0 {
		return fmt.Errorf("an existing cluster is not built from a file: leave %s out", args[0])
	}
	began := time.Now()
	lab, err := c.clusters().Up(cmd.Context(), nil, topology.UpOptions{Progress: phasePrinter(c.err)})
	if errors.Is(err, topology.ErrRunning) {
		return fmt.Errorf("%w: commands use them, `overlab down --provider kubernetes` removes them", err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.err, "lab %s: %s\nup in %.2f s\n", lab.Plan().Name, summary(lab.Plan()), time.Since(began).Seconds())
	if err := lab.Close(); err != nil || !judge {
		return err
	}
	root := cmd.Root()
	root.SetArgs([]string{"test", "--provider=" + kubernetes.Name})
	return root.ExecuteContext(cmd.Context())
}

// downCluster removes what is ours from an existing cluster.
func (c command) downCluster(ctx context.Context) error {
	began := time.Now()
	if err := c.clusters().Down(ctx, ""); err != nil {
		return err
	}
	fmt.Fprintf(c.err, "the cluster has nothing of overlab's any more (%.0f ms)\n", float64(time.Since(began).Microseconds())/1000)
	return nil
}
