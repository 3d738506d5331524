package predict

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// vxlanOverhead in bytes: the outer IP, UDP and VXLAN headers and the inner
// Ethernet header (RFC 7348 section 5).
func vxlanOverhead(outer netip.Addr) int {
	const ipv4, ipv6, udp, vxlan, ethernet = 20, 40, 8, 8, 14
	if outer.Is6() {
		return ipv6 + udp + vxlan + ethernet
	}
	return ipv4 + udp + vxlan + ethernet
}

// encapsulate sends a frame into a VXLAN device.
func (w *walker) encapsulate(s *Space, l *probe.Link, f *Frame) {
	v := l.VXLAN
	if !w.hop(s, l, Out, f, "the packet is for %s, behind the VTEP: it goes into %s", f.Dst, l.Name) {
		return
	}
	entry := forwarding(s, l, f.DstMAC)
	if entry == nil {
		w.drop(s, l.Name, fmt.Sprintf("%s has no FDB entry for %s on %s: vxlan_xmit has no address to send to, and drops the packet", s.name(), f.DstMAC, l.Name),
			s.name(), w.fdbMend(l, f.DstMAC))
		return
	}
	w.decide("fdb", "%s", entry)
	w.judgeFDB(s, l, entry)
	w.decide("vxlan", "%s", describe(v))
	if v.Local.IsValid() && !s.local(v.Local) {
		w.drop(s, l.Name, fmt.Sprintf("%s's local address %s is not an address of %s: the kernel finds no route for it, and drops the packet", l.Name, v.Local, s.name()),
			s.name(), "")
		return
	}
	dev := ""
	if under := s.State.LinkByIndex(v.Dev); under != nil {
		dev = under.Name
	}
	r := w.lookup(s, entry.Dst, dev)
	if r == nil {
		return
	}
	local := v.Local
	if !local.IsValid() {
		local = s.source(r, entry.Dst)
	}
	w.transmitIP(s, r, f.wrap(local, entry.Dst, usualTTL, vxlanOverhead(entry.Dst), Encap{Kind: "vxlan", Port: v.Port, VNI: v.VNI}))
}

// describe is the device in the words of ip(8).
func describe(v *probe.VXLAN) string {
	s := fmt.Sprintf("id %d", v.VNI)
	if v.Local.IsValid() {
		s += " local " + v.Local.String()
	}
	return s + fmt.Sprintf(" dstport %d", v.Port)
}

// forwarding is the device's entry for a MAC, else that for all MACs.
func forwarding(s *Space, l *probe.Link, mac topology.MAC) *probe.FDBEntry {
	for _, m := range []topology.MAC{mac, {}} {
		i := slices.IndexFunc(s.State.FDB, func(e probe.FDBEntry) bool {
			return e.MAC == m && e.Dev == l.Name && e.Dst.IsValid()
		})
		if i >= 0 {
			return &s.State.FDB[i]
		}
	}
	return nil
}

func (w *walker) fdbMend(l *probe.Link, mac topology.MAC) string {
	if _, theirs := w.net.vtep(mac); theirs != nil && theirs.VXLAN.Local.IsValid() {
		return fmt.Sprintf("bridge fdb replace %s dev %s dst %s self permanent", mac, l.Name, theirs.VXLAN.Local)
	}
	return ""
}

// judgeFDB compares where an entry leads with where the MAC is.
func (w *walker) judgeFDB(s *Space, l *probe.Link, e *probe.FDBEntry) {
	owner, theirs := w.net.vtep(e.MAC)
	if owner == nil || owner.local(e.Dst) {
		return
	}
	there := "nobody's address"
	if holder, _ := w.net.holder(e.Dst); holder != nil {
		there = holder.name()
	}
	w.suspicion(s, fmt.Sprintf("%s's FDB entry for %s on %s leads to %s, %s, and the MAC is that of %s's %s", s.name(), e.MAC, l.Name, e.Dst, there, owner.name(), theirs.Name),
		s.name(), w.fdbMend(l, e.MAC))
}

// decapsulate takes a VXLAN packet that has reached its address.
func (w *walker) decapsulate(s *Space, in *probe.Link, f *Frame) {
	l := w.receiver(s, in, f.Encap)
	if l == nil {
		return
	}
	inner := *f.Inner
	w.decide("vxlan", "%s", describe(l.VXLAN))
	if !w.hop(s, l, In, &inner, "VNI and port are those of %s: it takes the packet out of its wrapping", l.Name) {
		return
	}
	if inner.DstMAC != l.MAC {
		w.otherHost(s, l, &inner)
		return
	}
	w.input(s, l, &inner)
}

// receiver is the VXLAN device that takes the packet; nil if none does, and
// the path ends.
func (w *walker) receiver(s *Space, in *probe.Link, e *Encap) *probe.Link {
	var near *probe.Link
	for i := range s.State.Links {
		l := &s.State.Links[i]
		if !w.net.wraps(l) {
			continue
		}
		near = l
		if l.VXLAN.VNI == e.VNI && l.VXLAN.Port == e.Port && l.Up {
			return l
		}
	}
	switch {
	case near == nil:
		w.drop(s, in.Name, fmt.Sprintf("%s has no VXLAN device: it answers with ICMP port unreachable", s.name()), s.name(), "")
	case near.VXLAN.Port != e.Port:
		on, mend := w.odd(s, near, func(v *probe.VXLAN) int { return v.Port })
		w.drop(s, in.Name, fmt.Sprintf("the packet is for UDP port %d and %s's %s listens on %d: nobody takes it", e.Port, s.name(), near.Name, near.VXLAN.Port), on, mend)
	case near.VXLAN.VNI != e.VNI:
		on, mend := w.odd(s, near, func(v *probe.VXLAN) int { return v.VNI })
		w.drop(s, in.Name, fmt.Sprintf("the packet has VNI %d and %s's %s has VNI %d: the kernel drops it (VXLAN_VNI_NOT_FOUND)", e.VNI, s.name(), near.Name, near.VXLAN.VNI), on, mend)
	default:
		w.drop(s, near.Name, fmt.Sprintf("%s is down on %s", near.Name, s.name()), s.name(), "ip link set "+near.Name+" up")
	}
	return nil
}

// odd finds the node whose device differs from those of most, and how to make
// the device anew. Of two that differ it is the one that receives.
func (w *walker) odd(receiver *Space, at *probe.Link, value func(*probe.VXLAN) int) (on, mend string) {
	count := map[int]int{}
	for _, s := range w.net.sorted() {
		if l := w.net.vxlan(s); l != nil {
			count[value(l.VXLAN)]++
		}
	}
	usual := at.VXLAN
	s, l := receiver, at
	for _, other := range w.net.sorted() {
		if o := w.net.vxlan(other); o != nil && count[value(o.VXLAN)] > count[value(usual)] {
			usual = o.VXLAN
		}
	}
	if usual == at.VXLAN { // the receiver is as most are: the sender is not
		for _, other := range w.net.sorted() {
			if o := w.net.vxlan(other); o != nil && value(o.VXLAN) != value(usual) {
				s, l = other, o
			}
		}
	}
	dev := ""
	if under := s.State.LinkByIndex(l.VXLAN.Dev); under != nil {
		dev = " dev " + under.Name
	}
	return s.name(), fmt.Sprintf("ip link del %s; ip link add %s type vxlan id %d%s local %s dstport %d nolearning, or start the agent again",
		l.Name, l.Name, usual.VNI, dev, l.VXLAN.Local, usual.Port)
}
