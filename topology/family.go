package topology

import (
	"net/netip"
	"slices"
)

// Over6 returns a dual-stack plan as IPv6 sees it: what is IPv6's stands in
// IPv4's place, in the overlay (Network, PodCIDR, the pods' Address) and below
// it (the segments' CIDR, the interfaces' Address, PublicIP). Who judges one
// family at a time needs no second copy of what it knows of the first. The
// MTUs, which both families share, the store and the routes are as they were.
func (p *Plan) Over6() *Plan {
	v := *p
	v.Network.Network, v.Network.SubnetLen = p.Network.IPv6Network, p.Network.IPv6SubnetLen
	v.Network.SubnetMin, v.Network.SubnetMax = p.Network.IPv6SubnetMin, p.Network.IPv6SubnetMax
	v.Segments = slices.Clone(p.Segments)
	for i := range v.Segments {
		v.Segments[i].CIDR = v.Segments[i].CIDR6
	}
	v.Nodes = slices.Clone(p.Nodes)
	for i := range v.Nodes {
		n := &v.Nodes[i]
		n.PodCIDR, n.Agent.PublicIP = n.PodCIDR6, netip.Addr{}
		n.Interfaces = slices.Clone(n.Interfaces)
		for j := range n.Interfaces {
			n.Interfaces[j].Address = n.Interfaces[j].Address6
		}
	}
	v.Pods = slices.Clone(p.Pods)
	for i := range v.Pods {
		v.Pods[i].Address = v.Pods[i].Address6
	}
	return &v
}

// Is6 reports whether the plan is one of Over6.
func (p *Plan) Is6() bool { return p.Network.Network.Addr().Is6() }
