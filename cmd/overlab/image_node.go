package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/internal/nodeimage"
)

func (c command) imageNode() *cobra.Command {
	var force, dry bool
	o := nodeimage.Options{}
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Build a node image for kind, where none can be pulled",
		Long: `Node builds what kind's nodes run, from Debian's packages and Go modules alone:
for machines that reach no container registry. It takes 20 minutes of CPU and
4 GB of disk the first time; a build that was interrupted goes on where it was.

The archive stays in the user's cache folder; its path is printed, and labs of
provider kind find it there. It needs root, Go and debootstrap.`,
		Example: `  overlab image node
  docker load -i "$(overlab image node)"
  kind create cluster --image ` + nodeimage.Name,
		Args: cobra.NoArgs,
	}
	cmd.Flags().BoolVar(&force, "force", false, "build even where kind's own image can be pulled")
	cmd.Flags().BoolVar(&dry, "no-build", false, "build nothing: fail where there is no image and none can be pulled")
	cmd.Flags().StringVar(&o.Mirror, "mirror", nodeimage.Mirror, "where Debian's packages come from")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if file, err := nodeimage.Cached(); err == nil {
			_, err := fmt.Fprintln(c.out, file)
			return err
		}
		if !force && registryAnswers(cmd.Context(), http.DefaultTransport) {
			fmt.Fprintln(c.err, "kind's own image can be pulled here, and labs do so: there is no need to build one (--force does it all the same)")
			return nil
		}
		if dry {
			return errors.New("there is no node image in the cache, and no registry to pull one from: `overlab image node` builds one")
		}
		o.Progress = stepPrinter(c.err)
		file, err := nodeimage.Build(cmd.Context(), o)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.err, "built %s\n", nodeimage.Name)
		_, err = fmt.Fprintln(c.out, file)
		return err
	}
	return cmd
}

// dockerHub is the registry of kind's images (the reference kindest/node).
const dockerHub = "https://registry-1.docker.io"

// registryAnswers reports whether the registry is in reach. It answers 401 to
// who has not asked for a token (OCI distribution specification, "Determining
// Support"), and that is enough.
func registryAnswers(ctx context.Context, way http.RoundTripper) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, dockerHub+"/v2/", http.NoBody)
	if err != nil {
		return false
	}
	resp, err := way.RoundTrip(r)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
}

// stepPrinter prints a line for what a build says of itself.
func stepPrinter(w io.Writer) func(nodeimage.Progress) {
	return func(p nodeimage.Progress) {
		switch {
		case p.Took > 0:
			fmt.Fprintf(w, "  %-12s %7.1f s\n", p.Step, p.Took.Seconds())
		case p.Detail != "":
			fmt.Fprintf(w, "  %-12s %s\n", p.Step, p.Detail)
		}
	}
}
