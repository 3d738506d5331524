package predict

import (
	"fmt"

	"github.com/overlab/overlab/harness/probe"
)

// overheads in bytes of the tunnels without Ethernet inside: IPv4 and UDP
// headers; the second IPv4 header of RFC 2003. WireGuard pads, so that its
// size is not known beforehand.
var overheads = map[string]int{"udp": 28, "ipip": 20}

// enterTunnel sends a packet into a device that has no Ethernet: its way on is
// in an agent's table, or in the kernel's for WireGuard; neither is dumped, and
// both follow from the leases.
func (w *walker) enterTunnel(s *Space, l *probe.Link, r *probe.Route, f *Frame) {
	f.SrcMAC, f.DstMAC = [6]byte{}, [6]byte{}
	if !w.hop(s, l, Out, f, "the packet goes into %s", l.Name) {
		return
	}
	t := w.net.Tunnels
	mine, theirs := t.of(s.name()), t.to(f.Dst)
	if mine == nil || theirs == nil {
		w.drop(s, l.Name, fmt.Sprintf("no lease has the subnet of %s: nobody knows where %s ought to send it", f.Dst, l.Name), "", "")
		return
	}
	to := theirs.Address
	if t.Kind == "ipip" && r.Via.IsValid() {
		to = r.Via // of which the kernel makes the outer address
	}
	w.decide("lease", "%s at %s", theirs.Subnet, to)
	inner := *f
	if t.Kind == "udp" && inner.TTL > 0 {
		inner.TTL-- // flannel's proxy counts itself as a hop
	}
	outer := inner.wrap(mine.Address, to, 0, overheads[t.Kind], Encap{Kind: t.Kind, Port: t.Port})
	if t.Kind == "wireguard" {
		outer.Size = 0
	}
	under := w.lookup(s, to, "")
	if under == nil {
		return
	}
	w.transmitIP(s, under, outer)
}

// leaveTunnel takes a tunnel's packet that has reached its address.
func (w *walker) leaveTunnel(s *Space, in *probe.Link, f *Frame) {
	for i := range s.State.Links {
		l := &s.State.Links[i]
		if !isTunnel(l) || l.Name == "tunl0" {
			continue
		}
		if !l.Up {
			w.drop(s, l.Name, fmt.Sprintf("%s is down on %s", l.Name, s.name()), s.name(), "ip link set "+l.Name+" up")
			return
		}
		inner := *f.Inner
		if f.Encap.Kind == "udp" && inner.TTL > 0 {
			inner.TTL--
		}
		if w.hop(s, l, In, &inner, "%s takes the packet out of its wrapping", l.Name) {
			w.input(s, l, &inner)
		}
		return
	}
	w.drop(s, in.Name, fmt.Sprintf("%s has no device that takes %s", s.name(), f.Encap), "", "")
}
