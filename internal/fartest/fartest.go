// Package fartest stands in for labs on other machines: their namespaces cannot
// be entered, and only run `overlab probe`.
package fartest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Lab is a lab whose namespaces are far. Between its machines is nobody's to look
// at: it has no namespace of the underlay.
func Lab(lab topology.Lab) topology.Lab { return farLab{lab} }

type farLab struct{ topology.Lab }

// Namespace implements topology.Lab.
func (l farLab) Namespace(name string) (topology.Namespace, error) {
	if name == "underlay" {
		return nil, errors.New("the underlay is no machine of the lab")
	}
	ns, err := l.Lab.Namespace(name)
	if err != nil {
		return nil, err
	}
	return Namespace(ns), nil
}

// Namespace hides that a namespace can be entered.
func Namespace(ns topology.Namespace) topology.Namespace { return namespace{ns} }

type namespace struct{ near topology.Namespace }

// Name implements topology.Namespace.
func (n namespace) Name() string { return n.near.Name() }

// here is a namespace as the program in it knows it: not by its name.
type here struct {
	topology.Namespace
	topology.Local
}

// Name implements topology.Namespace.
func (here) Name() string { return probe.Here{}.Name() }

// Run serves a probe session, as `overlab probe` does, and nothing else.
func (n namespace) Run(ctx context.Context, p topology.Process) (int, error) {
	if !slices.Equal(p.Argv, probe.Program()) {
		return 0, &topology.StartError{Code: 127, Reason: fmt.Sprintf("there is no %s in %s", p.Argv[0], n.Name())}
	}
	there := here{n.near, n.near.(topology.Local)}
	s, err := probe.Open(ctx, there)
	if err != nil {
		return 0, err
	}
	taps := capture.NewServer(there)
	if err := errors.Join(probe.Serve(ctx, s, p.Stdin, p.Stdout, taps.Handlers()), taps.Close(), s.Close()); err != nil {
		return 0, err
	}
	return 0, nil
}
