package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/overlab/overlab/agent/cni"
)

// installCommand is the argument by which the plugin puts itself on a node, for
// an image that has no cp(1). A runtime calls plugins without arguments.
const installCommand = "install"

// install returns the exit code: 0, 1 for a failure, 2 for wrong usage.
func install(args []string) int {
	flags := flag.NewFlagSet("overlab-cni install", flag.ContinueOnError)
	var i cni.Installation
	flags.StringVar(&i.BinDir, "bin-dir", "/opt/cni/bin", "the `folder` in which the container runtime looks for plugins")
	flags.StringVar(&i.Config, "config", "/etc/kube-flannel/cni-conf.json", "the configuration list to install, a `file`")
	flags.StringVar(&i.ConfigFile, "config-file", "/etc/cni/net.d/10-flannel.conflist", "the `file` that it becomes")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "overlab-cni install: unexpected argument %q: there are only flags\n", flags.Arg(0))
		return 2
	}
	self, err := os.Executable()
	if err == nil {
		i.Program = self
		err = i.Install()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "overlab-cni:", err)
		return 1
	}
	fmt.Printf("installed overlab-cni in %s, and %s\n", i.BinDir, i.ConfigFile)
	return 0
}
