package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/internal/podimage"
)

func (c command) imagePod() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "pod",
		Short: "Build the pods' container image from a program of this machine",
		Long: `Pod builds the image that the pods of a lab with runtime: containerd have, if
the lab names none: busybox, linked statically, under the names of its commands,
and one that waits. Where there is no such busybox in PATH, overlab itself takes
its place, with ip, ping, sleep and no shell. It needs no Docker, no registry
and no base image; the same program gives the same image.`,
		Example: `  overlab image pod -f pod.tar
  ctr images import pod.tar
  overlab image pod -f - | docker load`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVarP(&file, "file", "f", "pod.tar", "the archive to write, - for standard output")
	cmd.RunE = func(*cobra.Command, []string) error {
		program, err := podimage.Find(os.Getenv("PATH"))
		if err != nil {
			return fmt.Errorf("build the pods' image: %w", err)
		}
		if file == "-" {
			return podimage.Write(c.out, program)
		}
		if err := podimage.WriteFile(file, program); err != nil {
			return err
		}
		abs, err := filepath.Abs(file)
		if err != nil {
			return fmt.Errorf("find %s: %w", file, err)
		}
		fmt.Fprintf(c.err, "%s, of %s\n", podimage.Name, program)
		_, err = fmt.Fprintln(c.out, abs)
		return err
	}
	return cmd
}
