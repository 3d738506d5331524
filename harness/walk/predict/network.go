// Package predict says which way a packet will go through a network of
// namespaces, from dumps of their state alone: the interfaces that it passes,
// the route, neighbour and forwarding entry that decide at each, the headers
// that it has there, and where it ends. It touches no kernel.
package predict

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Network is the state of every namespace that a packet may come through.
type Network struct {
	// Spaces are the namespaces by name.
	Spaces map[string]*Space
	// Overlay is the prefix that all pods' addresses are from.
	Overlay netip.Prefix
	// Tunnels are the paths that an agent's own process or a kernel's table
	// that no dump shows decides on: those of udp and wireguard, and of ipip
	// in userspace.
	Tunnels *Tunnels
}

// Space is one namespace.
type Space struct {
	State *probe.State
	// Namespaces names the namespaces behind the ids of Link.PeerNS.
	Namespaces map[int]string
	// Sysctls are kernel parameters by their path under /proc/sys. One that is
	// missing has the kernel's default.
	Sysctls map[string]string
	// Masquerade says that what leaves the overlay takes the address of the
	// interface that it leaves by.
	Masquerade bool
}

// Tunnels are paths that leases decide on.
type Tunnels struct {
	// Kind is udp, ipip or wireguard.
	Kind string
	// Port is the UDP port at both ends, 0 for ipip.
	Port int
	// Ends are the nodes' ends.
	Ends []TunnelEnd
}

// TunnelEnd is one node's lease.
type TunnelEnd struct {
	Space  string
	Subnet netip.Prefix
	// Address is what peers send to.
	Address netip.Addr
}

func (t *Tunnels) of(space string) *TunnelEnd {
	return t.find(func(e TunnelEnd) bool { return e.Space == space })
}

func (t *Tunnels) to(a netip.Addr) *TunnelEnd {
	return t.find(func(e TunnelEnd) bool { return e.Subnet.Contains(a) })
}

func (t *Tunnels) find(is func(TunnelEnd) bool) *TunnelEnd {
	if t == nil {
		return nil
	}
	if i := slices.IndexFunc(t.Ends, is); i >= 0 {
		return &t.Ends[i]
	}
	return nil
}

// isTunnel reports whether what the link carries has no Ethernet header.
func isTunnel(l *probe.Link) bool {
	switch l.Kind {
	case "tuntap", "tun", "wireguard", "ipip":
		return true
	}
	return false
}

// Bare reports whether frames captured on the link begin with the IP header.
func Bare(l *probe.Link) bool { return isTunnel(l) }

func (s *Space) name() string { return s.State.Namespace }

// holder returns the link that has the address, or nil.
func (s *Space) holder(a netip.Addr) *probe.Link {
	for i := range s.State.Links {
		for _, p := range s.State.Links[i].Addresses {
			if p.Addr() == a {
				return &s.State.Links[i]
			}
		}
	}
	return nil
}

// local reports whether the namespace takes the address for its own.
func (s *Space) local(a netip.Addr) bool { return a.IsLoopback() || s.holder(a) != nil }

// podSubnet returns the subnet of a node's pods that the address is in: that
// of a bridge.
func (s *Space) podSubnet(a netip.Addr) (netip.Prefix, bool) {
	for _, l := range s.State.Links {
		for _, p := range l.Addresses {
			if l.Kind == "bridge" && p.Contains(a) {
				return p.Masked(), true
			}
		}
	}
	return netip.Prefix{}, false
}

// isNode reports whether the namespace has pods behind a bridge.
func (s *Space) isNode() bool {
	return slices.ContainsFunc(s.State.Links, func(l probe.Link) bool { return l.Kind == "bridge" && len(l.Addresses) > 0 })
}

// vxlan returns the namespace's first VXLAN device of the overlay, or nil.
func (n *Network) vxlan(s *Space) *probe.Link {
	for i := range s.State.Links {
		if n.wraps(&s.State.Links[i]) {
			return &s.State.Links[i]
		}
	}
	return nil
}

// wraps reports whether the link is a VXLAN device whose outer packets are of
// the overlay's family: dual stack has two of the same VNI and port, one on a
// socket of IPv6.
func (n *Network) wraps(l *probe.Link) bool { return l.VXLAN != nil && l.VXLAN.Local.Is6() == n.is6() }

// is6 reports whether the packets are IPv6's.
func (n *Network) is6() bool { return n.Overlay.Addr().Is6() }

// resolver is the protocol that finds a neighbour's MAC.
func (n *Network) resolver() string {
	if n.is6() {
		return "NDP"
	}
	return "ARP"
}

// ports returns the links that are ports of the bridge.
func (s *Space) ports(bridge int) []*probe.Link {
	var out []*probe.Link
	for i := range s.State.Links {
		if s.State.Links[i].Master == bridge {
			out = append(out, &s.State.Links[i])
		}
	}
	return out
}

// sorted returns the namespaces in the order of their names: what is looked
// for in all of them is found in the same one each time.
func (n *Network) sorted() []*Space {
	var out []*Space
	for _, name := range slices.Sorted(maps.Keys(n.Spaces)) {
		out = append(out, n.Spaces[name])
	}
	return out
}

// find returns the first link that is so, and its namespace.
func (n *Network) find(is func(*Space, *probe.Link) bool) (*Space, *probe.Link) {
	for _, s := range n.sorted() {
		for i := range s.State.Links {
			if is(s, &s.State.Links[i]) {
				return s, &s.State.Links[i]
			}
		}
	}
	return nil, nil
}

// holder returns who has the address, nodes and pods before others.
func (n *Network) holder(a netip.Addr) (*Space, *probe.Link) {
	return n.find(func(_ *Space, l *probe.Link) bool {
		return slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

// has reports whether a link has both the address and the MAC. A node may have
// one address on many links, as on a veth to each of its pods.
func (n *Network) has(a netip.Addr, mac topology.MAC) bool {
	_, l := n.find(func(_ *Space, l *probe.Link) bool {
		return l.MAC == mac && slices.ContainsFunc(l.Addresses, func(p netip.Prefix) bool { return p.Addr() == a })
	})
	return l != nil
}

// podNode returns the node behind whose bridge the address is.
func (n *Network) podNode(a netip.Addr) (*Space, netip.Prefix) {
	for _, s := range n.sorted() {
		if p, ok := s.podSubnet(a); ok && n.Overlay.Overlaps(p) {
			return s, p
		}
	}
	return nil, netip.Prefix{}
}

// vtep returns whose VXLAN device has the MAC.
func (n *Network) vtep(mac topology.MAC) (*Space, *probe.Link) {
	return n.find(func(_ *Space, l *probe.Link) bool { return l.VXLAN != nil && l.MAC == mac })
}

// peer returns the other end of a veth.
func (n *Network) peer(s *Space, l *probe.Link) (*Space, *probe.Link) {
	other := s
	if l.PeerNS >= 0 {
		other = n.Spaces[s.Namespaces[l.PeerNS]]
	}
	if other == nil {
		return nil, nil
	}
	return other, other.State.LinkByIndex(l.Peer)
}

// carries reports whether the link takes frames.
func carries(l *probe.Link) bool {
	return l.Up && l.Oper != "down" && l.Oper != "lower-layer-down"
}
