package predict

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/probe"
)

// walker follows one packet.
type walker struct {
	net  *Network
	path *Path
	// pending are decisions since the last hop.
	pending []Decision
	// answering says that the packet is an answer, of a flow that connection
	// tracking knows.
	answering bool
}

// maxHops ends what goes round in circles without a TTL, as between bridges.
const maxHops = 256

// usualTTL is the kernel's default, of echo replies and of VXLAN's outer
// header (net.ipv4.ip_default_ttl).
const usualTTL = 64

// Predict says where a packet goes that the namespace from sends.
func (n *Network) Predict(from string, p Packet) *Path {
	w := &walker{net: n, path: &Path{sent: p}}
	w.start(from, p)
	return w.path
}

// Reply says where the answer to a packet goes that took this path. The path
// must have arrived. Whether a port is open, and so how long its answer is, no
// state tells.
func (n *Network) Reply(to *Path) *Path {
	w := &walker{net: n, path: &Path{translated: to.translated}, answering: true}
	a := to.Arrived
	if to.sent.Port != 0 {
		w.start(to.End, Packet{Src: a.Dst, Dst: a.Src, TTL: usualTTL})
		return w.path
	}
	ignore := "net.ipv4.icmp_echo_ignore_all"
	if n.is6() {
		ignore = "net.ipv6.icmp.echo_ignore_all"
	}
	if s := n.Spaces[to.End]; s.sysctl(strings.ReplaceAll(ignore, ".", "/"), "0") != "0" {
		w.drop(s, "", fmt.Sprintf("%s answers no echo requests: %s is set", to.End, ignore), to.End, "sysctl -w "+ignore+"=0")
		return w.path
	}
	w.start(to.End, Packet{Src: a.Dst, Dst: a.Src, TTL: usualTTL, Size: a.Size})
	return w.path
}

func (w *walker) start(from string, p Packet) {
	s := w.net.Spaces[from]
	f := &Frame{Src: p.Src, Dst: p.Dst, TTL: p.TTL, Size: p.Size, DF: p.DF}
	w.output(s, f)
}

func (w *walker) decide(kind, format string, args ...any) {
	w.pending = append(w.pending, Decision{kind, fmt.Sprintf(format, args...)})
}

func (w *walker) hop(s *Space, l *probe.Link, d Direction, f *Frame, format string, args ...any) bool {
	if len(w.path.Hops) == maxHops {
		w.drop(s, l.Name, "the packet goes round in circles", "", "")
		return false
	}
	w.path.Hops = append(w.path.Hops, Hop{
		Space: s.name(), Interface: l.Name, Direction: d,
		Does: fmt.Sprintf(format, args...), Decisions: w.pending, Frame: *f,
	})
	w.pending = nil
	return true
}

func (w *walker) drop(s *Space, dev, cause, on, mend string) {
	d := &Drop{Space: s.name(), Interface: dev, Cause: cause, Mend: mend, On: on, Decisions: w.pending}
	if x := w.path.Astray; x != nil && x.Cause != cause {
		d.Cause, d.Mend, d.On = x.Cause+"; so "+cause, x.Mend, x.On
	}
	w.path.Drop, w.path.End = d, s.name()
}

// suspicion notes the first entry that leads astray: where the packet does not
// arrive, that is why.
func (w *walker) suspicion(s *Space, cause, on, mend string) {
	if w.path.Astray == nil {
		w.path.Astray = &Drop{Space: s.name(), Cause: cause, Mend: mend, On: on}
	}
}

// deliver ends the path.
func (w *walker) deliver(s *Space, f *Frame) {
	a := *f
	w.path.Arrived, w.path.End = &a, s.name()
}

// output sends a packet of the namespace's own.
func (w *walker) output(s *Space, f *Frame) {
	if s.local(f.Dst) {
		lo := s.State.Link("lo")
		if lo == nil || !lo.Up {
			w.drop(s, "lo", "lo is down", s.name(), "ip link set lo up")
			return
		}
		if !f.Src.IsValid() {
			f.Src = f.Dst
		}
		w.decide("route", "local %s dev lo", f.Dst)
		if w.hop(s, lo, Out, f, "the address is %s's own: the packet goes through lo", s.name()) &&
			w.hop(s, lo, In, f, "and comes back") {
			w.deliver(s, f)
		}
		return
	}
	r := w.lookup(s, f.Dst, "")
	if r == nil {
		return
	}
	if !f.Src.IsValid() {
		f.Src = s.source(r, f.Dst)
	}
	if l := s.State.Link(r.Dev); l != nil && f.Size > l.MTU && f.DF {
		w.drop(s, l.Name, fmt.Sprintf("the packet of %d bytes may not be fragmented and %s has mtu %d: the kernel refuses to send it (EMSGSIZE)", f.Size, l.Name, l.MTU),
			"", fmt.Sprintf("send at most %d bytes", l.MTU))
		return
	}
	w.transmitIP(s, r, f)
}

// lookup finds the route and judges it; nil if the packet ends here.
func (w *walker) lookup(s *Space, dst netip.Addr, dev string) *probe.Route {
	r := s.route(dst, dev)
	owner, subnet := w.net.podNode(dst)
	astray := owner != nil && owner != s && s.isNode()
	if v := w.net.vxlan(s); astray && v != nil && !v.Up {
		w.suspicion(s, fmt.Sprintf("%s is down on %s, and its routes are gone", v.Name, s.name()), s.name(), "ip link set "+v.Name+" up, and the routes anew")
	}
	if astray && (r == nil || r.Dst.Bits() < min(subnet.Bits(), w.net.Overlay.Bits())) {
		w.suspicion(s, fmt.Sprintf("%s has no route to %s, the pods of %s", s.name(), subnet, owner.name()),
			s.name(), w.net.routeTo(s, owner, subnet))
	}
	if r == nil {
		w.drop(s, "", fmt.Sprintf("the kernel finds no route to %s (ENETUNREACH)", dst), "", "")
		return nil
	}
	w.decide("route", "%s", r)
	if r.Kind != "" {
		w.suspicion(s, fmt.Sprintf("%s has a route that refuses: %s", s.name(), r), s.name(), "ip route del "+r.Dst.String())
		w.drop(s, "", fmt.Sprintf("the kernel drops what is for %s", dst), "", "")
		return nil
	}
	if astray && r.Via.IsValid() {
		if holder, _ := w.net.holder(r.Via); holder != nil && holder != owner && holder.isNode() {
			w.suspicion(s, fmt.Sprintf("%s routes %s to %s, and its pods are on %s", s.name(), subnet, holder.name(), owner.name()),
				s.name(), w.net.routeTo(s, owner, subnet))
		}
	}
	l := s.State.Link(r.Dev)
	if l == nil || !l.Up {
		w.drop(s, r.Dev, fmt.Sprintf("%s is down on %s", r.Dev, s.name()), s.name(), "ip link set "+r.Dev+" up")
		return nil
	}
	return r
}

// routeTo is what ought to lead from one node to another's pods: through the
// VXLAN devices if both have one, else by the address on the underlay.
func (n *Network) routeTo(s, owner *Space, subnet netip.Prefix) string {
	if mine, theirs := n.vxlan(s), n.vxlan(owner); mine != nil && theirs != nil {
		for _, a := range theirs.AddressesLike(subnet.Addr()) {
			return fmt.Sprintf("ip route replace %s via %s dev %s onlink", subnet, a.Addr(), mine.Name)
		}
	}
	if e := n.Tunnels.of(owner.name()); e != nil {
		for _, l := range s.State.Links {
			if isTunnel(&l) && l.Kind == "ipip" {
				return fmt.Sprintf("ip route replace %s via %s dev %s onlink", subnet, e.Address, l.Name)
			}
			if isTunnel(&l) {
				return fmt.Sprintf("ip route replace %s dev %s", subnet, l.Name)
			}
		}
	}
	for _, l := range owner.State.Links {
		for _, a := range l.AddressesLike(subnet.Addr()) {
			if r := s.route(a.Addr(), ""); r != nil && r.Dst == a.Masked() && !r.Via.IsValid() {
				return fmt.Sprintf("ip route replace %s via %s dev %s", subnet, a.Addr(), r.Dev)
			}
		}
	}
	return ""
}

// input is a packet that an interface of the namespace has received and that
// is addressed to its MAC.
func (w *walker) input(s *Space, l *probe.Link, f *Frame) {
	if t := w.translation(s, f); t != nil {
		w.decide("nat", "%s was masqueraded as %s: the answer is for the former", t.was, t.now)
		f.Dst = t.was
	}
	if reason, mend := s.refusesSource(l, f); reason != "" {
		w.drop(s, l.Name, reason, s.name(), mend)
		return
	}
	if s.local(f.Dst) {
		w.local(s, l, f)
		return
	}
	w.forward(s, l, f)
}

// refusesSource is the reverse path filter of RFC 3704, which IPv6 has not.
func (s *Space) refusesSource(l *probe.Link, f *Frame) (reason, mend string) {
	mode := s.reversePathFilter(l.Name)
	if mode == "0" || f.Src.Is6() || s.local(f.Src) {
		return "", ""
	}
	back := s.route(f.Src, "")
	mend = fmt.Sprintf("sysctl -w net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/%s/rp_filter=0", l.Name)
	switch {
	case back == nil:
		return fmt.Sprintf("rp_filter=%s on %s's %s and no route back to %s: the kernel drops the packet", mode, s.name(), l.Name, f.Src), mend
	case mode == "1" && back.Dev != l.Name:
		return fmt.Sprintf("rp_filter=1 on %s's %s, and the way back to %s is by %s: the kernel drops the packet", s.name(), l.Name, f.Src, back.Dev), mend
	}
	return "", ""
}

// isLeaf reports whether a namespace, as a pod's, has one link to the others and
// so nobody to forward to.
func (s *Space) isLeaf() bool {
	links := 0
	for _, l := range s.State.Links {
		if l.Name != "lo" {
			links++
		}
	}
	return links == 1
}

// forward sends a packet on that is for another namespace.
func (w *walker) forward(s *Space, in *probe.Link, f *Frame) {
	keys := []string{"net/ipv4/ip_forward", "net/ipv4/conf/" + in.Name + "/forwarding"}
	if f.Dst.Is6() { // that of an interface only says whether it is a router's
		keys = []string{"net/ipv6/conf/all/forwarding"}
	}
	for _, key := range keys {
		if s.sysctl(key, "1") == "0" && s.isLeaf() {
			w.drop(s, in.Name, fmt.Sprintf("%s has no address %s: the packet is not for it, and its kernel drops it", s.name(), f.Dst), "", "")
			return
		}
		if s.sysctl(key, "1") == "0" {
			w.drop(s, in.Name, fmt.Sprintf("%s does not forward: %s is 0, and the kernel drops what is for others", s.name(), key),
				s.name(), "sysctl -w "+key+"=1")
			return
		}
	}
	if f.TTL == 1 {
		w.drop(s, in.Name, fmt.Sprintf("the TTL is used up on %s, which answers with ICMP time exceeded", s.name()), "", "send with a greater TTL")
		return
	}
	r := w.lookup(s, f.Dst, "")
	if r == nil {
		return
	}
	out := s.State.Link(r.Dev)
	if f.Size > out.MTU && (f.DF || f.Dst.Is6()) { // IPv6 has routers fragment nothing
		answer := "ICMP fragmentation needed"
		if f.Dst.Is6() {
			answer = "ICMPv6 packet too big"
		}
		w.drop(s, out.Name, fmt.Sprintf("the packet of %d bytes may not be fragmented and %s's %s has mtu %d: it answers with %s", f.Size, s.name(), out.Name, out.MTU, answer),
			"", fmt.Sprintf("send at most %d bytes", out.MTU))
		return
	}
	if f.TTL > 0 {
		f.TTL--
	}
	w.masquerade(s, out, f)
	w.transmitIP(s, r, f)
}

// masquerade gives what leaves the overlay the address of the interface.
func (w *walker) masquerade(s *Space, out *probe.Link, f *Frame) {
	if w.answering || !s.Masquerade || !w.net.Overlay.Contains(f.Src) || w.net.Overlay.Contains(f.Dst) {
		return
	}
	for _, p := range out.AddressesLike(f.Dst) {
		w.decide("nat", "masquerade %s as %s", f.Src, p.Addr())
		w.path.translated = append(w.path.translated, translation{s.name(), f.Src, p.Addr(), f.Dst})
		f.Src = p.Addr()
		return
	}
}

// translation is the masquerading that a packet answers to.
func (w *walker) translation(s *Space, f *Frame) *translation {
	i := slices.IndexFunc(w.path.translated, func(t translation) bool {
		return t.space == s.name() && t.now == f.Dst && t.dst == f.Src
	})
	if i < 0 {
		return nil
	}
	return &w.path.translated[i]
}

// local takes a packet that is for the namespace itself.
func (w *walker) local(s *Space, l *probe.Link, f *Frame) {
	if f.Encap == nil {
		w.deliver(s, f)
		return
	}
	if f.Encap.Kind == "vxlan" {
		w.decapsulate(s, l, f)
		return
	}
	w.leaveTunnel(s, l, f)
}

// next is the address that the packet is handed to.
func next(r *probe.Route, f *Frame) netip.Addr {
	if r.Via.IsValid() {
		return r.Via
	}
	return f.Dst
}

// transmitIP hands a packet to the interface of its route.
func (w *walker) transmitIP(s *Space, r *probe.Route, f *Frame) {
	l := s.State.Link(r.Dev)
	if isTunnel(l) {
		w.enterTunnel(s, l, r, f)
		return
	}
	mac, ok := w.resolve(s, l, next(r, f))
	if !ok {
		return
	}
	f.SrcMAC, f.DstMAC = l.MAC, mac
	w.transmit(s, l, f)
}
