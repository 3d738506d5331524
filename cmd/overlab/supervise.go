package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology/netns"
)

// supervise is a lab's supervisor; options are SuperviseOptions in JSON. The
// context of the command line ends with the first signal, and a lab does not.
func supervise(ctx context.Context, options string) error {
	var o netns.SuperviseOptions
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return fmt.Errorf("read the supervisor's options: %w", err)
	}
	return netns.Supervise(context.WithoutCancel(ctx), o)
}

func (c command) probeFeatures() *cobra.Command {
	return &cobra.Command{
		Use: "probe-features", Hidden: true, Args: cobra.NoArgs,
		Short: "Try what a lab does, in namespaces like a lab's (`overlab doctor` calls it)",
		RunE:  func(*cobra.Command, []string) error { return netns.ProbeFeatures() },
	}
}
