package predict

import (
	"net/netip"

	"github.com/overlab/overlab/harness/probe"
)

// route returns the route that the kernel takes: the longest prefix, and among
// equals the lowest metric. dev, where given, is the only interface allowed.
func (s *Space) route(dst netip.Addr, dev string) *probe.Route {
	var best *probe.Route
	for i := range s.State.Routes {
		r := &s.State.Routes[i]
		if !r.Dst.Contains(dst) || dev != "" && r.Dev != dev {
			continue
		}
		if best == nil || r.Dst.Bits() > best.Dst.Bits() || r.Dst.Bits() == best.Dst.Bits() && r.Metric < best.Metric {
			best = r
		}
	}
	return best
}

// source is the address that the kernel gives a packet that has none: that of
// the route, else the interface's, that of the next hop's subnet first, else
// any other.
func (s *Space) source(r *probe.Route, dst netip.Addr) netip.Addr {
	if r.Src.IsValid() {
		return r.Src
	}
	next := dst
	if r.Via.IsValid() {
		next = r.Via
	}
	var first netip.Addr
	if l := s.State.Link(r.Dev); l != nil {
		for _, p := range l.AddressesLike(dst) {
			if p.Contains(next) {
				return p.Addr()
			}
			if !first.IsValid() {
				first = p.Addr()
			}
		}
	}
	for _, l := range s.State.Links {
		if first.IsValid() {
			break
		}
		for _, p := range l.AddressesLike(dst) {
			if !p.Addr().IsLoopback() && !first.IsValid() {
				first = p.Addr()
			}
		}
	}
	return first
}

// sysctl returns a kernel parameter, usual where it is not known.
func (s *Space) sysctl(key, usual string) string {
	if v, ok := s.Sysctls[key]; ok {
		return v
	}
	return usual
}

// reversePathFilter is the greater of the interface's setting and that of all:
// 0 none, 1 strict, 2 loose (ip-sysctl in the kernel's documentation).
func (s *Space) reversePathFilter(dev string) string {
	return max(s.sysctl("net/ipv4/conf/all/rp_filter", "0"), s.sysctl("net/ipv4/conf/"+dev+"/rp_filter", "0"))
}
