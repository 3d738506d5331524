package checks

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

func datapathChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "DP-01", Title: "cni0 is up, has the subnet's .1 and the overlay's MTU",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.Pods, suite.Bridge},
			Run:   bridges,
		},
		{
			ID: "DP-02", Title: "each pod's eth0 is the peer of a veth on cni0",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.Pods, suite.Bridge},
			Run:   podLinks,
		},
		{
			ID: "DP-03", Title: "pods route everything through their node's .1",
			Source: fromBoth, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.Pods, suite.Bridge},
			Run:   podRoutes,
		},
		{
			ID: "DP-04", Title: "the VTEP has its VNI, port, address, MTU; no learning",
			Source: fromSeeds, Profiles: []string{vxlan},
			Needs: []suite.Feature{suite.IPv4, suite.VXLAN},
			Run:   vteps,
		},
		vtepMACCheck(),
	}
}

func bridges(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	nodes := nodesWithPods(plan)
	var first *probe.Link
	for _, n := range nodes {
		st, err := env.State(ctx, n.Name)
		if err != nil {
			return err
		}
		where, l := n.Name+" "+bridge, st.Link(bridge)
		if l == nil {
			env.Fail(where, "a bridge", "no such link")
			continue
		}
		if first == nil {
			first = l
			env.Evidence("%s, on %s: %s, mtu %d", count(len(nodes), "bridge"), n.Name, strings.Trim(fmt.Sprint(l.AddressesLike(n.Gateway().Addr())), "[]"), l.MTU)
		}
		if l.Kind != "bridge" {
			env.Fail(where, "a bridge", "a link of kind "+l.Kind)
		}
		env.Expect(where, l, match.BeUp())
		env.Expect(where, l, match.HaveAddress(n.Gateway()))
		env.Expect(where, l, match.HaveMTU(plan.OverlayMTU(n)))
	}
	return nil
}

func podLinks(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, append(nodeNames(plan), podNames(plan)...))
	if err != nil {
		return err
	}
	good := 0
	for _, pod := range plan.Pods {
		if podLink(env, pod.Name, pod.Node, states[pod.Name], states[pod.Node]) {
			good++
		}
	}
	env.Evidence("%s, %d with eth0 wired to %s", count(len(plan.Pods), "pod"), good, bridge)
	return nil
}

func podLink(env *suite.Env, podName, nodeName string, pod, node *probe.State) bool {
	where := podName + " eth0"
	eth0 := pod.Link("eth0")
	if eth0 == nil {
		env.Fail(where, "a link", "no such link")
		return false
	}
	if eth0.Kind != "veth" {
		env.Fail(where, "a veth", "a link of kind "+eth0.Kind)
		return false
	}
	up := env.Expect(where, eth0, match.BeUp())
	onNode := fmt.Sprintf("%s eth0@if%d on %s", podName, eth0.Peer, nodeName)
	port, cni0 := node.LinkByIndex(eth0.Peer), node.Link(bridge)
	switch {
	case port == nil:
		env.Fail(onNode, fmt.Sprintf("a veth of index %d", eth0.Peer), "no such link")
	case port.Kind != "veth" || port.Peer != eth0.Index:
		env.Fail(onNode, fmt.Sprintf("a veth whose peer is index %d", eth0.Index),
			fmt.Sprintf("%s of kind %s, peer index %d", port.Name, port.Kind, port.Peer))
	case cni0 == nil || port.Master != cni0.Index:
		env.Fail(onNode, port.Name+" with master "+bridge, port.Name+" with "+masterName(node, port))
	default:
		return env.Expect(nodeName+" "+port.Name, port, match.BeUp()) && up
	}
	return false
}

func masterName(node *probe.State, port *probe.Link) string {
	if m := node.LinkByIndex(port.Master); m != nil {
		return "master " + m.Name
	}
	return "no master"
}

func podRoutes(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, podNames(plan))
	if err != nil {
		return err
	}
	anywhere := netip.PrefixFrom(plan.Network.Network.Addr(), 0).Masked()
	good := 0
	for _, pod := range plan.Pods {
		via := plan.Node(pod.Node).Gateway().Addr()
		for _, dst := range []netip.Prefix{anywhere, plan.Network.Network} {
			if env.Expect(pod.Name, states[pod.Name], match.HaveRoute(probe.Route{Dst: dst, Via: via, Dev: "eth0"})) {
				good++
			}
		}
	}
	env.Evidence("%s, %d of %d routes (default, %s) as planned",
		count(len(plan.Pods), "pod"), good, 2*len(plan.Pods), plan.Network.Network)
	return nil
}

func vteps(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	states, err := env.States(ctx, nodeNames(plan))
	if err != nil {
		return err
	}
	b := plan.Network.Backend
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		where, l := n.Name+" "+vtep(plan), states[n.Name].Link(vtep(plan))
		if l == nil || l.VXLAN == nil {
			env.Fail(where, "a VXLAN device", "no such device")
			continue
		}
		v := l.VXLAN
		if i == 0 {
			env.Evidence("%s, on %s: id %d local %s dstport %d, mtu %d",
				count(len(plan.Nodes), "device"), n.Name, v.VNI, v.Local, v.Port, l.MTU)
		}
		env.Expect(where, l, match.BeUp())
		expectEqual(env, where, "vni", b.VNI, v.VNI)
		expectEqual(env, where, "dstport", b.Port, v.Port)
		expectEqual(env, where, "local", n.PublicIP(), v.Local)
		expectEqual(env, where, "learning", b.Learning, v.Learning)
		if v.Group.IsValid() {
			env.Fail(where, "no group", "group "+v.Group.String())
		}
		env.Expect(where, l, match.HaveMTU(plan.OverlayMTU(n)))
		env.Expect(where, l, match.HaveOnlyAddress(single(n.PodCIDR.Masked().Addr())))
	}
	return nil
}

func expectEqual[T comparable](env *suite.Env, where, what string, want, have T) bool {
	if want != have {
		env.Fail(where, fmt.Sprintf("%s %v", what, want), fmt.Sprintf("%s %v", what, have))
	}
	return want == have
}
