package checks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// hostChecks are those of who speaks to pods: nodes, pods of the host's
// network (which are the node, for the network), and pods that learn their own
// address.
func hostChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "NM-03", Title: "a node reaches its own pods, from its cni0 address",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.Pods, suite.Bridge},
			Run: func(ctx context.Context, env *suite.Env) error {
				return hostsToPods(ctx, env, true, func(n *topology.Node) netip.Addr { return n.Gateway().Addr() })
			},
		},
		{
			ID: "NM-04", Title: "a node reaches remote pods from its overlay address",
			Source: fromFlannel, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.OverlayAddress},
			Run: func(ctx context.Context, env *suite.Env) error {
				return hostsToPods(ctx, env, false, func(n *topology.Node) netip.Addr { return n.PodCIDR.Masked().Addr() })
			},
		},
		{
			ID: "NM-05", Title: "the host's network reaches every pod of every node",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
			Run:   hostNetwork,
		},
		{
			ID: "NM-06", Title: "the address that a pod has is the one others see",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.SameNodePods},
			Run:   ownAddress,
		},
	}
}

// hostsToPods lets pods tell which address they see of the nodes: each of its
// own node, or one of each other node.
func hostsToPods(ctx context.Context, env *suite.Env, own bool, source func(*topology.Node) netip.Addr) error {
	plan := env.Plan()
	type try struct {
		node *topology.Node
		pod  topology.Pod
	}
	var tries []try
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		for _, other := range nodesWithPods(plan) {
			pods := plan.PodsOn(other.Name)
			switch {
			case own && other == n:
				for _, p := range pods {
					tries = append(tries, try{n, p})
				}
			case !own && other != n:
				tries = append(tries, try{n, pods[i%len(pods)]})
			}
		}
	}
	var mu sync.Mutex
	good := 0
	err := suite.Each(tries, func(t try) error {
		reply, err := env.EchoTo(ctx, t.node.Name, t.pod.Name, probe.Echo{Transport: probe.UDP, Server: addressOf(t.pod)})
		if err != nil {
			return err
		}
		where := fmt.Sprintf("%s > %s (%s) %s", t.node.Name, t.pod.Name, t.pod.Node, t.pod.Address.Addr())
		if env.Expect(where, reply, match.BeSeenAs(source(t.node), t.pod.Address.Addr())) {
			mu.Lock()
			defer mu.Unlock()
			good++
		}
		return nil
	})
	if len(tries) > 0 {
		env.Evidence("%d of %s of node and pod, as %s from %s", good, count(len(tries), "pair"), tries[0].node.Name, source(tries[0].node))
	}
	return err
}

// addressOf is a pod's, without a port.
func addressOf(p topology.Pod) netip.AddrPort { return netip.AddrPortFrom(p.Address.Addr(), 0) }

// hostNetwork pings every pod from every node, and asks one pod of each node
// which of the host's addresses it sees.
func hostNetwork(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	var pings []suite.Ping
	var where []string
	for _, n := range plan.Nodes {
		for _, p := range plan.Pods {
			pings = append(pings, suite.Ping{From: n.Name, Ping: probe.Ping{Dst: p.Address.Addr()}})
			where = append(where, fmt.Sprintf("%s > %s (%s) %s", n.Name, p.Name, p.Node, p.Address.Addr()))
		}
	}
	pongs, err := env.PingAll(ctx, pings)
	if err != nil {
		return err
	}
	good := 0
	for i := range pongs {
		if env.Expect(where[i], pongs[i], match.BeAnswered()) {
			good++
		}
	}
	sources, err := hostSources(ctx, env)
	env.Evidence("%d of %s answered; seen from %s", good, count(len(pings), "ping"), strings.Join(sources, ", "))
	return err
}

// hostSources records which addresses of the first node the others' pods see,
// and judges that they are the node's own.
func hostSources(ctx context.Context, env *suite.Env) ([]string, error) {
	plan := env.Plan()
	first := plan.Nodes[0].Name
	st, err := env.State(ctx, first)
	if err != nil {
		return nil, err
	}
	var own []netip.Addr
	for i := range st.Links {
		for _, a := range st.Links[i].AddressesLike(plan.Network.Network.Addr()) {
			own = append(own, a.Addr())
		}
	}
	var sources []string
	for _, n := range nodesWithPods(plan) {
		pod := plan.PodsOn(n.Name)[0]
		reply, err := env.EchoTo(ctx, first, pod.Name, probe.Echo{Transport: probe.UDP, Server: addressOf(pod)})
		if err != nil {
			return nil, err
		}
		seen := reply.Seen.Addr()
		switch {
		case reply.Failure != "":
			env.Fail(first+" > "+pod.Name, "an answer", reply.String())
		case !slices.Contains(own, seen):
			env.Fail(first+" > "+pod.Name, "one of the node's own addresses", seen.String())
		case !slices.Contains(sources, seen.String()):
			sources = append(sources, seen.String())
		}
	}
	return sources, nil
}

// ownAddress compares the address that each pod's kernel has with the one that
// a pod of its node, a pod of another and its node see.
func ownAddress(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, podNames(plan))
	if err != nil {
		return err
	}
	var mu sync.Mutex
	good, tried := 0, 0
	err = suite.Each(plan.Pods, func(p topology.Pod) error {
		l := states[p.Name].Link("eth0")
		own := addresses(plan, l)
		if len(own) != 1 {
			env.Fail(p.Name+" eth0", "one address", fmt.Sprint(own))
			return nil
		}
		for _, o := range observers(plan, p) {
			reply, err := env.EchoTo(ctx, p.Name, o.name, probe.Echo{Transport: probe.UDP, Server: netip.AddrPortFrom(o.address, 0)})
			if err != nil {
				return err
			}
			ok := env.Expect(fmt.Sprintf("%s > %s %s", p.Name, o.name, o.address), reply, match.BeSeenAs(own[0].Addr(), o.address))
			mu.Lock()
			tried++
			if ok {
				good++
			}
			mu.Unlock()
		}
		return nil
	})
	env.Evidence("%s, %d of %d observers see the address of eth0", count(len(plan.Pods), "pod"), good, tried)
	return err
}

// addresses are a link's of the plan's family.
func addresses(plan *topology.Plan, l *probe.Link) []netip.Prefix {
	if l == nil {
		return nil
	}
	return l.AddressesLike(plan.Network.Network.Addr())
}

// observer is who tells a pod which address it sees.
type observer struct {
	name    string
	address netip.Addr
}

// observers of a pod are its node's cni0, where pods are on it, and, where there
// is one, a pod beside it and, where the backend connects, one of another node.
func observers(plan *topology.Plan, p topology.Pod) []observer {
	var out []observer
	if plan.CNI.Foreign == "" {
		out = append(out, observer{p.Node, plan.Node(p.Node).Gateway().Addr()})
	}
	var beside, beyond bool
	for _, o := range plan.Pods {
		near := o.Node == p.Node
		if o.Name == p.Name || near && beside || !near && (beyond || !plan.Network.Backend.Connects()) {
			continue
		}
		beside, beyond = beside || near, beyond || !near
		out = append(out, observer{o.Name, o.Address.Addr()})
	}
	return out
}
