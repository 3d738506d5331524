package predict

import (
	"fmt"
	"slices"

	"github.com/overlab/overlab/harness/probe"
)

// transmit hands a frame to an interface, by the interface's kind.
func (w *walker) transmit(s *Space, l *probe.Link, f *Frame) {
	if !l.Up {
		w.drop(s, l.Name, fmt.Sprintf("%s is down on %s", l.Name, s.name()), s.name(), "ip link set "+l.Name+" up")
		return
	}
	switch {
	case l.VXLAN != nil:
		w.encapsulate(s, l, f)
	case l.Kind == "bridge":
		if w.hop(s, l, Out, f, "the packet leaves the host's stack into bridge %s", l.Name) {
			w.bridge(s, l, nil, f)
		}
	case l.Kind == "veth", l.Kind == "device":
		w.cross(s, l, f)
	default:
		w.drop(s, l.Name, fmt.Sprintf("%s of type %s leads out of the lab: no state tells where", l.Name, l.Kind), "", "")
	}
}

// vlanRoom is what a veth and a bridge take beyond the MTU: a VLAN tag that
// may be there (is_skb_forwardable of the kernel).
const vlanRoom = 4

// cross takes a frame over a veth.
func (w *walker) cross(s *Space, l *probe.Link, f *Frame) {
	if !carries(l) {
		other, peer := w.net.peer(s, l)
		on, dev := s.name(), l.Name
		if peer != nil && !peer.Up {
			on, dev = other.name(), peer.Name
		}
		w.drop(s, l.Name, fmt.Sprintf("%s has no carrier on %s: %s is down on %s", l.Name, s.name(), dev, on), on, "ip link set "+dev+" up")
		return
	}
	does := "the packet leaves by %s"
	if l.Master != 0 {
		does = "the bridge sends the frame out of its port %s"
	} else if f.Encap != nil {
		does = "the encapsulated packet leaves by %s"
	}
	if !w.hop(s, l, Out, f, does, l.Name) {
		return
	}
	if w.net.offWire(s, l) {
		w.crossWire(s, l, f)
		return
	}
	other, peer := w.net.peer(s, l)
	if size := min(f.Size, l.MTU); size > peer.MTU+vlanRoom {
		w.drop(other, peer.Name, fmt.Sprintf("%s's %s has mtu %d and takes no packet of %d bytes: the kernel drops it without a word", other.name(), peer.Name, peer.MTU, size),
			other.name(), fmt.Sprintf("ip link set %s mtu %d", peer.Name, l.MTU))
		return
	}
	w.decide("link", "%s of %s is the other end of the veth", peer.Name, other.name())
	w.receive(other, peer, f)
}

// crossWire takes a frame over a segment that no state shows.
func (w *walker) crossWire(s *Space, l *probe.Link, f *Frame) {
	var other *Space
	var at *probe.Link
	w.net.wire(s, l, func(o *Space, a *probe.Link) bool {
		other, at = o, a
		return a.MAC == f.DstMAC
	})
	if at == nil || at.MAC != f.DstMAC {
		w.drop(s, l.Name, fmt.Sprintf("%s leads out of the lab: nobody known there has the MAC %s", l.Name, f.DstMAC), "", "")
		return
	}
	w.decide("link", "%s of %s has the MAC; what is between is out of sight", at.Name, other.name())
	w.receive(other, at, f)
}

// receive takes a frame that comes in by an interface.
func (w *walker) receive(s *Space, l *probe.Link, f *Frame) {
	does := "it comes in at %s"
	if l.Master != 0 {
		does = "it comes in at the bridge's port %s"
	}
	if !w.hop(s, l, In, f, does, l.Name) {
		return
	}
	if l.Master != 0 {
		if br := s.State.LinkByIndex(l.Master); br != nil {
			w.bridged(s, br, l, f)
			return
		}
	}
	if f.DstMAC != l.MAC {
		w.otherHost(s, l, f)
		return
	}
	w.input(s, l, f)
}

func (w *walker) otherHost(s *Space, l *probe.Link, f *Frame) {
	w.drop(s, l.Name, fmt.Sprintf("the frame is for %s and %s's %s is %s: the kernel drops it (OTHERHOST)", f.DstMAC, s.name(), l.Name, l.MAC), "", "")
}

// bridged takes a frame that a port of a bridge has received.
func (w *walker) bridged(s *Space, br, port *probe.Link, f *Frame) {
	if !br.Up {
		w.drop(s, br.Name, fmt.Sprintf("bridge %s is down on %s", br.Name, s.name()), s.name(), "ip link set "+br.Name+" up")
		return
	}
	if f.DstMAC == br.MAC {
		w.decideOwn(s, br)
		if w.hop(s, br, In, f, "the frame is for bridge %s itself: the packet enters the host's stack", br.Name) {
			w.input(s, br, f)
		}
		return
	}
	w.bridge(s, br, port, f)
}

// decideOwn names the entry by which a bridge knows its own MAC.
func (w *walker) decideOwn(s *Space, br *probe.Link) {
	i := slices.IndexFunc(s.State.FDB, func(e probe.FDBEntry) bool { return e.MAC == br.MAC && e.Dev == br.Name && !e.Self })
	if i >= 0 {
		w.decide("fdb", "%s", s.State.FDB[i])
		return
	}
	w.decide("fdb", "%s is %s itself", br.MAC, br.Name)
}

// bridge sends a frame out of the port that leads to its MAC.
func (w *walker) bridge(s *Space, br, from *probe.Link, f *Frame) {
	ports := s.ports(br.Index)
	i := slices.IndexFunc(s.State.FDB, func(e probe.FDBEntry) bool {
		return e.MAC == f.DstMAC && !e.Self && slices.ContainsFunc(ports, func(p *probe.Link) bool { return p.Name == e.Dev })
	})
	var port *probe.Link
	if i >= 0 {
		e := s.State.FDB[i]
		port = s.State.Link(e.Dev)
		w.decide("fdb", "%s", e)
	} else if port = w.portTowards(s, br, from, f); port != nil {
		w.decide("fdb", "none yet for %s: it is behind %s", f.DstMAC, port.Name)
	}
	switch {
	case port == nil:
		w.drop(s, br.Name, fmt.Sprintf("nobody behind bridge %s of %s has the MAC %s", br.Name, s.name(), f.DstMAC), "", "")
	case port == from:
		w.drop(s, br.Name, fmt.Sprintf("%s of %s does not send a frame back by the port %s that it came from", br.Name, s.name(), port.Name), "", "")
	case !port.Up:
		w.drop(s, port.Name, fmt.Sprintf("port %s of %s is down on %s", port.Name, br.Name, s.name()), s.name(), "ip link set "+port.Name+" up")
	case min(f.Size, br.MTU) > port.MTU+vlanRoom:
		w.drop(s, port.Name, fmt.Sprintf("port %s of %s has mtu %d and takes no packet of %d bytes: the bridge drops it without a word", port.Name, s.name(), port.MTU, f.Size),
			s.name(), fmt.Sprintf("ip link set %s mtu %d", port.Name, br.MTU))
	default:
		w.cross(s, port, f)
	}
}

// portTowards is the port behind which an interface has the frame's MAC.
func (w *walker) portTowards(s *Space, br, from *probe.Link, f *Frame) *probe.Link {
	for _, p := range s.ports(br.Index) {
		if p != from && w.net.flood(s, p, func(_ *Space, at *probe.Link) bool { return at.MAC == f.DstMAC }) {
			return p
		}
	}
	return nil
}
