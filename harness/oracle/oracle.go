// Package oracle says what every node and pod of a lab ought to have: links,
// addresses, routes, neighbours, forwarding entries, firewall rules, files and
// leases. It knows that from the plan and the leases alone, by what flannel is
// documented and seen to make and by RFC 7348, and shares nothing with the
// agent that it judges.
//
// Want is the pure function; Read dumps what a lab has; Compare tells the two
// apart, entry by entry, in the syntax of ip(8) and bridge(8).
package oracle

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// bridge is the name that flannel's CNI plugin gives a node's bridge.
const bridge = "cni0"

// podLink is the name of a pod's interface (the CNI specification's CNI_IFNAME
// as every runtime sets it).
const podLink = "eth0"

// Want returns the facts that every namespace of a plan ought to have, by its
// name. Leases are the store's, of which only the VTEPs' MACs are taken, and
// WireGuard's keys and ipsec's nonces: all else that they say, the plan says
// first. A VTEP whose MAC neither fixes is judged by all but that.
func Want(p *topology.Plan, leases []lease.Lease) map[string][]Fact {
	return newCluster(p, leases, nil).want()
}

// cluster is a plan with what only a running lab knows.
type cluster struct {
	plan *topology.Plan
	// leases are the store's, for what they alone know.
	leases []lease.Lease
	// macs are the VTEPs' MACs by node, of the IPv4 device and the IPv6 one.
	macs4, macs6 map[string]topology.MAC
	// planned says that links of pods have the names and MACs of the plan, as
	// they have where no foreign CNI plugin makes them.
	planned bool
}

// newCluster settles the MACs: the plan's, else the lease's, else that of the
// device itself.
func newCluster(p *topology.Plan, leases []lease.Lease, states map[string]*probe.State) *cluster {
	c := &cluster{
		plan: p, leases: leases, planned: p.CNI.Conflist == nil,
		macs4: map[string]topology.MAC{}, macs6: map[string]topology.MAC{},
	}
	for _, n := range p.Nodes {
		if st := states[n.Name]; st != nil {
			c.macs4[n.Name], c.macs6[n.Name] = macOf(st, c.vtep4()), macOf(st, c.vtep6())
		}
		for _, l := range leases {
			if l.Subnet == n.PodCIDR.Masked() && !l.VtepMAC.IsZero() {
				c.macs4[n.Name] = l.VtepMAC
			}
			if l.Subnet6.IsValid() && l.Subnet6 == n.PodCIDR6.Masked() && !l.VtepMAC6.IsZero() {
				c.macs6[n.Name] = l.VtepMAC6
			}
		}
		if !n.VtepMAC.IsZero() {
			c.macs4[n.Name] = n.VtepMAC
		}
	}
	return c
}

func macOf(st *probe.State, dev string) topology.MAC {
	if l := st.Link(dev); l != nil {
		return l.MAC
	}
	return topology.MAC{}
}

// vtep4 and vtep6 are the names of the VXLAN devices (flannel's vxlan.go).
func (c *cluster) vtep4() string { return fmt.Sprintf("flannel.%d", c.plan.Network.Backend.VNI) }
func (c *cluster) vtep6() string { return fmt.Sprintf("flannel-v6.%d", c.plan.Network.Backend.VNI) }

// families are the address families of the overlay. Each has its own network,
// its own subnet on each node, and its own address to reach a node by.
func (c *cluster) families() []overlay {
	var out []overlay
	if c.plan.Network.EnableIPv4 {
		out = append(out, overlay{
			network: c.plan.Network.Network, vtep: c.vtep4(), wireguard: "flannel-wg", macs: c.macs4,
			subnet:  func(n *topology.Node) netip.Prefix { return n.PodCIDR.Masked() },
			public:  func(n *topology.Node) netip.Addr { return n.PublicIP() },
			address: func(p *topology.Pod) netip.Prefix { return p.Address },
		})
	}
	if c.plan.Network.EnableIPv6 {
		out = append(out, overlay{
			network: c.plan.Network.IPv6Network, vtep: c.vtep6(), wireguard: "flannel-wg-v6", macs: c.macs6,
			subnet:  func(n *topology.Node) netip.Prefix { return n.PodCIDR6.Masked() },
			public:  func(n *topology.Node) netip.Addr { return n.Underlay().Address6.Addr() },
			address: func(p *topology.Pod) netip.Prefix { return p.Address6 },
		})
	}
	return out
}

// overlay is the overlay of one address family.
type overlay struct {
	network netip.Prefix
	// vtep and wireguard are the names of the backends' devices.
	vtep, wireguard string
	macs            map[string]topology.MAC
	subnet          func(*topology.Node) netip.Prefix
	public          func(*topology.Node) netip.Addr
	address         func(*topology.Pod) netip.Prefix
}

// gateway is cni0's address: the first host of the node's subnet.
func (o overlay) gateway(n *topology.Node) netip.Prefix {
	s := o.subnet(n)
	return netip.PrefixFrom(s.Addr().Next(), s.Bits())
}

// host is the first address of the node's subnet alone, which is nobody's
// (flannel's vxlan.go gives it to the device).
func (o overlay) host(n *topology.Node) netip.Prefix {
	a := o.subnet(n).Addr()
	return netip.PrefixFrom(a, a.BitLen())
}

// want returns every namespace's facts.
func (c *cluster) want() map[string][]Fact {
	out := map[string][]Fact{}
	for i := range c.plan.Nodes {
		n := &c.plan.Nodes[i]
		out[n.Name] = c.node(n)
	}
	for i := range c.plan.Pods {
		p := &c.plan.Pods[i]
		out[p.Name] = c.pod(p)
	}
	return out
}
