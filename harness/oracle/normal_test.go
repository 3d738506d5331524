package oracle

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// What is found in a namespace does not depend on who made it: other indices,
// another order, the kernel's own entries, the types of underlay interfaces and
// the words of another driver make no difference.
func TestNormalForm(t *testing.T) {
	plan := labtest.Plan(2, 1, 1500)
	c := newCluster(plan, nil, nil)
	one, other := state(plan, 0, "veth"), state(plan, 40, "e1000")
	other["master"].Links[1].Oper = "unknown"
	for _, st := range other {
		rand.Shuffle(len(st.Links), func(i, j int) { st.Links[i], st.Links[j] = st.Links[j], st.Links[i] })
		rand.Shuffle(len(st.Routes), func(i, j int) { st.Routes[i], st.Routes[j] = st.Routes[j], st.Routes[i] })
		st.Routes = append(st.Routes,
			probe.Route{Dst: netip.MustParsePrefix("fe80::/64"), Dev: "ens3", Metric: 256},
			probe.Route{Dst: netip.MustParsePrefix("ff00::/8"), Dev: "ens3", Metric: 256})
		st.Neighbours = append(st.Neighbours, probe.Neighbour{IP: netip.MustParseAddr("fe80::1"), Dev: "ens3", MAC: topology.MAC{2}, State: "STALE"})
		st.FDB = append(st.FDB, probe.FDBEntry{MAC: topology.MAC{0x33, 0x33, 0, 0, 0, 1}, Dev: "ens3", Self: true, State: "permanent"})
	}
	judged := func(name string, states map[string]*probe.State) []string {
		var out []string
		for _, w := range c.want()[name] {
			for _, h := range c.found(name, states) {
				if sameID(w, h) {
					out = append(out, h.only(w).String())
				}
			}
		}
		return out
	}
	for _, name := range []string{"master", "master-pod-1"} {
		if a, b := judged(name, one), judged(name, other); len(a) < 4 || !slices.Equal(a, b) {
			t.Errorf("%s has\n%q\nand in another lab\n%q", name, a, b)
		}
		if a, b := len(c.found(name, one)), len(c.found(name, other)); a != b {
			t.Errorf("%s has %d facts, and in another lab %d", name, a, b)
		}
	}
}

// state is the dump of a node and its pod, whose links have indices from first
// on and whose underlay interface is of the kind.
func state(p *topology.Plan, first int, kind string) map[string]*probe.State {
	n, pod := p.Nodes[0], p.Pods[0]
	node := &probe.State{Namespace: n.Name, Links: []probe.Link{
		{Index: 1, Name: "lo", Up: true, Oper: "unknown"},
		{Index: first + 2, Name: "ens3", Kind: kind, MAC: n.Interfaces[0].MAC, MTU: 1500, Up: true, Oper: "up", Addresses: []netip.Prefix{n.Interfaces[0].Address, netip.MustParsePrefix("fe80::1/64")}},
		{Index: first + 3, Name: "cni0", Kind: "bridge", MAC: n.BridgeMAC, MTU: 1450, Up: true, Oper: "up", Addresses: []netip.Prefix{n.Gateway()}},
		{Index: first + 4, Name: pod.HostInterface, Kind: "veth", MTU: 1450, Up: true, Oper: "up", Master: first + 3, Peer: first + 5},
		{Index: first + 6, Name: "flannel.1", Kind: "vxlan", MTU: 1450, Up: true, Oper: "unknown", VXLAN: &probe.VXLAN{VNI: 1, Port: 8472, Local: n.PublicIP(), Dev: first + 2}},
	}, Routes: []probe.Route{
		{Dst: p.Nodes[1].PodCIDR, Via: p.Nodes[1].PodCIDR.Addr(), Dev: "flannel.1", Onlink: true, Protocol: "boot"},
		{Dst: n.PodCIDR, Dev: "cni0", Src: n.Gateway().Addr(), Protocol: "kernel"},
	}}
	inside := &probe.State{Namespace: pod.Name, Links: []probe.Link{
		{Index: 1, Name: "lo", Up: true, Oper: "unknown"},
		{Index: first + 5, Name: "eth0", Kind: "veth", MAC: pod.MAC, MTU: 1450, Up: true, Oper: "up", Peer: first + 4, Addresses: []netip.Prefix{pod.Address}},
	}, Routes: []probe.Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: n.Gateway().Addr(), Dev: "eth0"},
		{Dst: p.Network.Network, Via: n.Gateway().Addr(), Dev: "eth0"},
	}}
	return map[string]*probe.State{n.Name: node, pod.Name: inside}
}
