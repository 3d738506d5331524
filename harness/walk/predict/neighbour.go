package predict

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// resolve finds the MAC of a next hop: from the table of neighbours, or as ARP
// would.
func (w *walker) resolve(s *Space, l *probe.Link, a netip.Addr) (topology.MAC, bool) {
	i := slices.IndexFunc(s.State.Neighbours, func(n probe.Neighbour) bool { return n.IP == a && n.Dev == l.Name })
	if i >= 0 && !s.State.Neighbours[i].MAC.IsZero() && s.State.Neighbours[i].State != "FAILED" {
		n := s.State.Neighbours[i]
		w.decide("neighbour", "%s", n)
		w.judgeNeighbour(s, l, n)
		return n.MAC, true
	}
	have := "has no neighbour entry for " + a.String()
	if i >= 0 {
		have = fmt.Sprintf("has only `%s` for the next hop", s.State.Neighbours[i])
	}
	if mac, ok := w.arpThroughTunnel(s, l, a); ok {
		w.decide("neighbour", "none yet for %s dev %s: %s finds %s", a, l.Name, w.net.resolver(), mac)
		return mac, true
	}
	if l.VXLAN != nil {
		w.unresolvedVTEP(s, l, a, have)
		return topology.MAC{}, false
	}
	if mac := w.arp(s, l, a); !mac.IsZero() {
		w.decide("neighbour", "none yet for %s dev %s: %s finds %s", a, l.Name, w.net.resolver(), mac)
		return mac, true
	}
	w.blame(a)
	w.drop(s, l.Name, fmt.Sprintf("%s %s on %s, and nobody there answers %s: the kernel drops the packet", s.name(), have, l.Name, w.net.resolver()), "", "")
	return topology.MAC{}, false
}

// blame looks for why who has the address cannot be asked for it.
func (w *walker) blame(a netip.Addr) {
	owner, l := w.net.holder(a)
	if owner == nil {
		return
	}
	down := func(s *Space, l *probe.Link) {
		w.suspicion(s, fmt.Sprintf("%s is down on %s", l.Name, s.name()), s.name(), "ip link set "+l.Name+" up")
	}
	if !l.Up {
		down(owner, l)
		return
	}
	if l.Kind != "veth" {
		return
	}
	if other, peer := w.net.peer(owner, l); peer != nil && !peer.Up {
		down(other, peer)
	} else if peer != nil && peer.Master == 0 && len(peer.Addresses) == 0 {
		w.suspicion(other, fmt.Sprintf("%s of %s, the other end of %s's %s, is a port of no bridge", peer.Name, other.name(), owner.name(), l.Name),
			other.name(), "ip link set "+peer.Name+" master cni0")
	}
}

// arpThroughTunnel asks whom the device's entry for all MACs leads to.
func (w *walker) arpThroughTunnel(s *Space, l *probe.Link, a netip.Addr) (topology.MAC, bool) {
	owner, theirs := w.net.holder(a)
	if l.VXLAN == nil || owner == nil || theirs.VXLAN == nil || theirs.VXLAN.VNI != l.VXLAN.VNI {
		return topology.MAC{}, false
	}
	leads := slices.ContainsFunc(s.State.FDB, func(e probe.FDBEntry) bool {
		return e.MAC.IsZero() && e.Dev == l.Name && owner.local(e.Dst)
	})
	return theirs.MAC, leads
}

// unresolvedVTEP ends a packet whose next hop is behind a VXLAN device: an ARP
// request is no help there, for there is no entry to flood it by.
func (w *walker) unresolvedVTEP(s *Space, l *probe.Link, a netip.Addr, have string) {
	mend := ""
	if _, theirs := w.net.holder(a); theirs != nil && theirs.VXLAN != nil {
		mend = fmt.Sprintf("ip neigh replace %s dev %s lladdr %s nud permanent", a, l.Name, theirs.MAC)
	}
	w.drop(s, l.Name, fmt.Sprintf("%s %s on %s: %s has no way through the tunnel, and the kernel drops the packet", s.name(), have, l.Name, w.net.resolver()),
		s.name(), mend)
}

// judgeNeighbour compares an entry with what the neighbour itself has.
func (w *walker) judgeNeighbour(s *Space, l *probe.Link, n probe.Neighbour) {
	owner, theirs := w.net.holder(n.IP)
	if owner == nil || owner == s || theirs.MAC.IsZero() || w.net.has(n.IP, n.MAC) {
		return
	}
	w.suspicion(s, fmt.Sprintf("%s's neighbour entry for %s on %s has %s, and %s's %s is %s", s.name(), n.IP, l.Name, n.MAC, owner.name(), theirs.Name, theirs.MAC),
		s.name(), fmt.Sprintf("ip neigh replace %s dev %s lladdr %s nud permanent", n.IP, l.Name, theirs.MAC))
}

// arp asks everyone on the link's segment who has the address.
func (w *walker) arp(s *Space, l *probe.Link, a netip.Addr) topology.MAC {
	var mac topology.MAC
	w.net.flood(s, l, func(there *Space, at *probe.Link) bool {
		if there.local(a) {
			mac = at.MAC
			return true
		}
		return false
	})
	return mac
}

// flood goes to every interface of a host that a frame sent out of the link
// for all would reach, until visit returns true, and reports whether it did.
func (n *Network) flood(s *Space, l *probe.Link, visit func(*Space, *probe.Link) bool) bool {
	seen := map[*probe.Link]bool{}
	var leave, arrive func(*Space, *probe.Link) bool
	bridge := func(s *Space, br, from *probe.Link) bool {
		for _, p := range s.ports(br.Index) {
			if p != from && carries(p) && leave(s, p) {
				return true
			}
		}
		return false
	}
	arrive = func(s *Space, l *probe.Link) bool {
		if seen[l] || !carries(l) {
			return false
		}
		seen[l] = true
		if l.Master == 0 {
			return visit(s, l)
		}
		br := s.State.LinkByIndex(l.Master)
		if br == nil || !br.Up {
			return false
		}
		return visit(s, br) || bridge(s, br, l)
	}
	leave = func(s *Space, l *probe.Link) bool {
		switch l.Kind {
		case "bridge":
			return bridge(s, l, nil)
		case "veth":
			if other, peer := n.peer(s, l); peer != nil {
				return arrive(other, peer)
			}
		}
		return n.wire(s, l, visit)
	}
	return leave(s, l)
}

// wire stands in for a segment of which nothing is known, as that of a machine
// whose switch is out of sight: it goes to the interfaces of other machines
// that have an address of a subnet of the link's.
func (n *Network) wire(s *Space, l *probe.Link, visit func(*Space, *probe.Link) bool) bool {
	there, _ := n.find(func(o *Space, at *probe.Link) bool {
		return o != s && at.Master == 0 && n.offWire(o, at) && sharesSubnet(l, at) && visit(o, at)
	})
	return there != nil
}

// offWire reports whether the link leads to where no state tells.
func (n *Network) offWire(s *Space, l *probe.Link) bool {
	if l.Kind == "veth" {
		_, peer := n.peer(s, l)
		return peer == nil
	}
	return l.Kind == "device"
}

func sharesSubnet(a, b *probe.Link) bool {
	for _, p := range a.IPv4() {
		for _, q := range b.IPv4() {
			if p.Masked() == q.Masked() {
				return true
			}
		}
	}
	return false
}
