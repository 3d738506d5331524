package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/internal/agentimage"
	"github.com/overlab/overlab/topology/netns"
)

func (c command) imageAgent() *cobra.Command {
	var file string
	o := agentimage.Options{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Build the agent's container image from its static programs",
		Long: `Agent builds the image that deploy/overlab.yaml runs on each node: overlabd, the
CNI plugin overlab-cni, and overlab, by which --provider kubernetes looks at a
cluster; nothing else. It needs no Docker, no registry and no base image; the
same programs give the same image.`,
		Example: `  overlab image agent -f overlabd.tar
  kind load image-archive overlabd.tar
  ctr -n k8s.io images import overlabd.tar
  overlab image agent -f - | docker load`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "overlabd.tar", "the archive to write, - for standard output")
	cmd.Flags().StringVar(&o.Name, "image-name", agentimage.Name, "the image's name, with registry and tag")
	cmd.RunE = func(*cobra.Command, []string) error {
		o.Agent, o.Plugin = netns.Beside("overlabd"), netns.Beside("overlab-cni")
		var err error
		if o.Probe, err = os.Executable(); err != nil {
			return fmt.Errorf("find this program: %w", err)
		}
		if file == "-" {
			return agentimage.Write(c.out, o)
		}
		if err := agentimage.WriteFile(file, o); err != nil {
			return err
		}
		st, err := os.Stat(file)
		if err != nil {
			return fmt.Errorf("look at what was written: %w", err)
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return fmt.Errorf("find %s: %w", file, err)
		}
		fmt.Fprintf(c.err, "%s, %.1f MB\n", o.Name, float64(st.Size())/1e6)
		_, err = fmt.Fprintln(c.out, abs)
		return err
	}
	return cmd
}
