package main

import "github.com/spf13/cobra"

func (c command) image() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Build container images for labs and clusters",
		Example: `  overlab image pod -f pod.tar
  overlab image agent
  overlab image node`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(c.imagePod(), c.imageAgent(), c.imageNode())
	return cmd
}
