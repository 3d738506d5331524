package oracle

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
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

// TestState: what a lab has is told without what its provider chose, and what is
// wrong stays in it.
func TestState(t *testing.T) {
	one, other := labtest.Plan(2, 1, 1500), labtest.Plan(2, 1, 1500)
	for i := range other.Nodes {
		n := &other.Nodes[i]
		n.Interfaces[0].Name, n.Agent.Underlay = "eth7", "eth7"
		n.Interfaces[0].Address = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 9, byte(40 - i)}), 24)
		n.PodCIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(9 - i), 0}), 24)
		other.Pods[i].Address = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(9 - i), 77}), 24)
		other.Pods[i].HostInterface = "vethother" + itoa(i)
	}
	other.Segments[0].CIDR = netip.MustParsePrefix("192.168.9.0/24")
	told := func(p *topology.Plan, states map[string]*probe.State) []SpaceState {
		return Normal(p, &Reading{States: states}, []string{"master", "master-pod-1"}).Spaces
	}
	a := told(one, state(one, 0, "veth"))
	dump := state(other, 3, "veth")
	dump["master"].Links[1].Name = "eth7"
	b := told(other, dump)
	for i := range a {
		if len(a[i].Entries) < 5 || !slices.Equal(a[i].Entries, b[i].Entries) {
			t.Errorf("%s has\n%s\nand in another lab\n%s", a[i].Name, strings.Join(a[i].Entries, "\n"), strings.Join(b[i].Entries, "\n"))
		}
	}
	for _, want := range []string{
		"ip addr: {master lan}/24 dev {lan}", "ip route: {node-1 pods}/24 via {node-1 pods} dev flannel.1 onlink",
		"ip link: {master-pod-1 port} up lower_up mtu 1450 master cni0 peer master-pod-1:eth0 type veth",
	} {
		if !slices.Contains(a[0].Entries, want) {
			t.Errorf("no %q in\n%s", want, strings.Join(a[0].Entries, "\n"))
		}
	}
	dump["master"].Routes[0].Via = netip.MustParseAddr("192.168.9.41")
	if b := told(other, dump); !slices.Contains(b[0].Entries, "ip route: {node-1 pods}/24 via 192.168.9.41 dev flannel.1 onlink") {
		t.Errorf("the wrong route is not in\n%s", strings.Join(b[0].Entries, "\n"))
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
