// Package labtest builds small overlay networks for the harness's own tests:
// namespaces, a bridge for an underlay, and a VXLAN mesh that is programmed
// entry by entry, with no agent. So the harness is tried against a lab that
// shares nothing with the agent that it will judge.
package labtest

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/topology"
)

// Plan returns a plan of the default lab's shape: a master and workers, pods
// on each node, one underlay segment whose links have the MTU in bytes. Its
// backend is vxlan; a test may make it vxlan with DirectRouting, host-gw, udp,
// ipip, wireguard or alloc.
func Plan(nodes, pods, mtu int) *topology.Plan {
	p := &topology.Plan{
		APIVersion: "overlab/v1alpha1", Name: "labtest", Provider: "labtest", IPv6: topology.IPv6Off,
		Network: topology.NetConf{
			EnableIPv4: true,
			Network:    netip.MustParsePrefix("10.244.0.0/16"),
			SubnetLen:  24,
			SubnetMin:  netip.MustParseAddr("10.244.0.0"),
			SubnetMax:  netip.MustParseAddr("10.244.255.0"),
			Backend:    topology.Backend{Type: "vxlan", VNI: 1, Port: 8472},
		},
		Segments: []topology.Segment{{Name: "lan", Bridge: "lan", CIDR: netip.MustParsePrefix("172.16.1.0/24"), MTU: mtu}},
		Store:    topology.Store{Type: "etcd", Node: "master", Port: 2379, Prefix: "/coreos.com/network"},
	}
	for i := range nodes {
		name, role := "master", topology.ControlPlane
		if i > 0 {
			name, role = fmt.Sprintf("node-%d", i), topology.Worker
		}
		node := topology.Node{
			Name: name, Role: role,
			Interfaces: []topology.Interface{{
				Name: "ens3", Port: name, Segment: "lan", MTU: mtu,
				Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, 1, byte(8 + i)}), 24),
				MAC:     topology.DeriveMAC(name, "ens3"),
			}},
			PodCIDR:   netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24),
			Agent:     topology.Agent{Underlay: "ens3"},
			VtepMAC:   topology.DeriveMAC(name, "vtep"),
			BridgeMAC: topology.DeriveMAC(name, "cni0"),
		}
		p.Nodes = append(p.Nodes, node)
		for j := range pods {
			pod := fmt.Sprintf("%s-pod-%d", name, j+1)
			p.Pods = append(p.Pods, topology.Pod{
				Name: pod, Node: name,
				Address:       netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), byte(2 + j)}), 24),
				MAC:           topology.DeriveMAC(pod, "eth0"),
				HostInterface: fmt.Sprintf("veth%08x", i<<8|j),
			})
		}
	}
	return p
}

// DualPlan is Plan with IPv6 besides: fd00:10:244:N::/64 for the pods of the
// N-th node, and fd00:172:16:1::/64 for the underlay.
func DualPlan(nodes, pods, mtu int) *topology.Plan {
	p := Plan(nodes, pods, mtu)
	p.IPv6 = topology.IPv6Dual
	c := &p.Network
	c.EnableIPv6, c.IPv6Network, c.IPv6SubnetLen = true, netip.MustParsePrefix("fd00:10:244::/48"), 64
	c.IPv6SubnetMin, c.IPv6SubnetMax = netip.MustParseAddr("fd00:10:244::"), netip.MustParseAddr("fd00:10:244:ffff::")
	p.Segments[0].CIDR6 = netip.MustParsePrefix("fd00:172:16:1::/64")
	for i := range p.Nodes {
		n := &p.Nodes[i]
		n.PodCIDR6 = netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::/64", i))
		n.Interfaces[0].Address6 = netip.MustParsePrefix(fmt.Sprintf("fd00:172:16:1::%x/64", 8+i))
		for j := range pods {
			p.Pods[i*pods+j].Address6 = netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%x::%x/64", i, 2+j))
		}
	}
	return p
}
