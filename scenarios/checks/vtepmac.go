package checks

import (
	"context"
	"fmt"
	"slices"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func vtepMACCheck() suite.Check {
	return suite.Check{
		ID: "DP-05", Title: "the VTEP's MAC is the lease's, and outlives the agent",
		Source: fromFlannel, Profiles: []string{vxlan},
		Needs:    []suite.Feature{suite.IPv4, suite.VXLAN, suite.Leases},
		Disturbs: true, Part: partOverlay, // where the lab can restart an agent
		Run: func(ctx context.Context, env *suite.Env) error {
			plan := env.Plan()
			before, err := compareMACs(ctx, env, plan.Nodes)
			if err != nil {
				return err
			}
			first := plan.Nodes[0]
			what := fmt.Sprintf("%s, on %s: %s", count(len(before), "device"), first.Name, before[first.Name])
			can, err := canRestart(ctx, env)
			if err != nil {
				return err
			}
			agents := withAgents(plan)
			if !can || len(agents) == 0 {
				env.Evidence("%s; not tried over a restart: this lab cannot restart agents", what)
				return nil
			}
			last := agents[len(agents)-1]
			env.Evidence("%s; the agent of %s restarted", what, last.Name)
			return restartKeepsMAC(ctx, env, *last, before)
		},
	}
}

// compareMACs compares each node's VTEP with its lease and returns the VTEPs'
// MACs by node.
func compareMACs(ctx context.Context, env *suite.Env, nodes []topology.Node) (map[string]topology.MAC, error) {
	plan := env.Plan()
	leases, _, err := storedLeases(ctx, env)
	if err != nil {
		return nil, err
	}
	macs := map[string]topology.MAC{}
	for _, n := range nodes {
		s, err := env.Session(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		st, err := s.State(ctx)
		if err != nil {
			return nil, err
		}
		where := n.Name + " " + vtep(plan)
		l := st.Link(vtep(plan))
		if l == nil {
			env.Fail(where, "a VXLAN device", "no such device")
			continue
		}
		macs[n.Name] = l.MAC
		i := slices.IndexFunc(leases, func(x lease.Lease) bool { return viewed(plan, x).Subnet == n.PodCIDR.Masked() })
		switch {
		case i < 0:
			env.Fail(where, "a lease for "+n.PodCIDR.String(), "none in the store")
		case viewed(plan, leases[i]).VtepMAC != l.MAC:
			env.Fail(where, "the lease's MAC "+viewed(plan, leases[i]).VtepMAC.String(), "MAC "+l.MAC.String())
		}
	}
	return macs, nil
}

func restartKeepsMAC(ctx context.Context, env *suite.Env, n topology.Node, before map[string]topology.MAC) error {
	if err := restartAgent(ctx, env, n.Name); err != nil {
		return err
	}
	after, err := compareMACs(ctx, env, []topology.Node{n})
	if err != nil {
		return err
	}
	if was, is := before[n.Name], after[n.Name]; was != is {
		env.Fail(n.Name+" "+vtep(env.Plan()), "MAC "+was.String()+" as before the agent's restart", "MAC "+is.String())
	}
	return nil
}

// viewed is a lease as the plan's family sees it.
func viewed(plan *topology.Plan, l lease.Lease) lease.Lease {
	if plan.Is6() {
		return l.Over6()
	}
	return l
}
