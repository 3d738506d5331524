package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/kind"
	"github.com/overlab/overlab/topology/kubernetes"
	"github.com/overlab/overlab/topology/netns"
)

// providers are all of this build, the default one first. A lab is brought up
// by the one that its plan names, and found by asking each.
type providers []topology.Provider

func newProviders(local *netns.Provider) providers {
	return providers{
		local,
		&kind.Provider{Agent: netns.Beside("overlabd"), Plugin: netns.Beside("overlab-cni")},
	}
}

// of returns the provider that a plan names.
func (ps providers) of(p *topology.Plan) (topology.Provider, error) {
	for _, provider := range ps {
		if provider.Name() == p.Provider {
			return provider, nil
		}
	}
	if p.Provider == kubernetes.Name {
		return nil, errors.New("spec.provider: kubernetes is a cluster that is there already, and nothing is built from a file: `overlab test --provider kubernetes` judges it")
	}
	return nil, fmt.Errorf("spec.provider: %s is not in this build, which has %s", p.Provider, strings.Join(ps.names(), " and "))
}

// names are the providers' names.
func (ps providers) names() []string {
	var names []string
	for _, p := range ps {
		names = append(names, p.Name())
	}
	return names
}

// only is the provider of that name, or all for none.
func (ps providers) only(name string) (providers, error) {
	if name == "" {
		return ps, nil
	}
	for _, p := range ps {
		if p.Name() == name {
			return providers{p}, nil
		}
	}
	return nil, fmt.Errorf("--provider=%s: this build has %s, and kubernetes for an existing cluster", name, strings.Join(ps.names(), " and "))
}

// Check says what is lacking for a plan.
func (ps providers) Check(ctx context.Context, p *topology.Plan) error {
	provider, err := ps.of(p)
	if err != nil {
		return err
	}
	return provider.Check(ctx, p)
}

// Up brings a plan up, unless a lab of any provider has its name.
func (ps providers) Up(ctx context.Context, p *topology.Plan, o topology.UpOptions) (topology.Lab, error) {
	provider, err := ps.of(p)
	if err != nil {
		return nil, err
	}
	for _, other := range ps {
		if other == provider {
			continue // it looks itself
		}
		lab, err := other.Open(ctx, p.Name)
		if err == nil {
			return nil, errors.Join(fmt.Errorf("lab %s %w, by provider %s", p.Name, topology.ErrRunning, other.Name()), lab.Close())
		}
	}
	return provider.Up(ctx, p, o)
}

// Open opens the lab of that name, whoever has it.
func (ps providers) Open(ctx context.Context, name string) (topology.Lab, error) {
	var lab topology.Lab
	err := ps.first(func(p topology.Provider) (err error) {
		lab, err = p.Open(ctx, name)
		return err
	})
	return lab, err
}

// Down ends the lab of that name, whoever has it.
func (ps providers) Down(ctx context.Context, name string) error {
	return ps.first(func(p topology.Provider) error { return p.Down(ctx, name) })
}

// first asks each provider until one has the lab.
func (ps providers) first(ask func(topology.Provider) error) error {
	var none error
	for _, p := range ps {
		switch err := ask(p); {
		case errors.Is(err, topology.ErrNoLab):
			none = err
		default:
			return err
		}
	}
	return none
}

// List lists the labs of all.
func (ps providers) List(ctx context.Context) ([]topology.Status, error) {
	var all []topology.Status
	var errs []error
	for _, p := range ps {
		some, err := p.List(ctx)
		all = append(all, some...)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}
