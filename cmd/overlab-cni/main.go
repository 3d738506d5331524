// Command overlab-cni is the CNI plugin of overlab's pods. A configuration
// list that names flannel's plugin works with it unchanged, save the type.
package main

import (
	"context"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/overlab/overlab/agent/cni"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == installCommand {
		os.Exit(install(os.Args[2:]))
	}
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add:    add,
		Del:    func(args *skel.CmdArgs) error { return with(args, cni.Del) },
		Check:  func(args *skel.CmdArgs) error { return with(args, cni.Check) },
		GC:     gc,
		Status: status,
	}, version.All, "overlab-cni: wires pods to a flannel-compatible overlay")
}

func add(args *skel.CmdArgs) error {
	return with(args, func(ctx context.Context, r cni.Request) error {
		result, err := cni.Add(ctx, r)
		if err != nil {
			return err
		}
		return types.PrintResult(result, r.Config.CNIVersion)
	})
}

func with(args *skel.CmdArgs, verb func(context.Context, cni.Request) error) error {
	conf, err := cni.ParseConfig(args.StdinData)
	if err != nil {
		return err
	}
	return verb(context.Background(), cni.Request{
		ContainerID: args.ContainerID,
		Netns:       args.Netns,
		IfName:      args.IfName,
		Args:        args.Args,
		Config:      conf,
	})
}

func gc(args *skel.CmdArgs) error {
	conf, err := cni.ParseConfig(args.StdinData)
	if err != nil {
		return err
	}
	return cni.GC(context.Background(), conf)
}

func status(args *skel.CmdArgs) error {
	conf, err := cni.ParseConfig(args.StdinData)
	if err != nil {
		return err
	}
	return cni.Status(conf)
}
