package topology

import (
	"net/netip"
	"slices"
)

// machines returns all routers, then all nodes.
func (x *expansion) machines() []*machine { return slices.Concat(x.routers, x.nodes) }

// hop is the way from a machine to a segment. The first three fields are zero
// for a segment that the machine is on.
type hop struct {
	via, via6 netip.Addr
	dev       string
	segment   *segment
}

// routing settles the routes of routers and nodes.
func (x *expansion) routing() {
	for _, m := range x.routers {
		m.addRoutes(m.reach())
	}
	for _, m := range x.nodes {
		hops := m.reach()
		x.staticRoutes(m)
		m.addDefault()
		m.addRoutes(hops)
	}
	x.checkOverlaps()
}

// reach returns the segments that the machine can send to, nearest first; of
// two ways of one length the one by the interface, then by the router, that
// comes first in the spec.
func (m *machine) reach() []hop {
	m.reaches = map[*segmentEntry]bool{}
	var hops []hop
	seen := map[*segment]bool{}
	visit := func(h hop) {
		if !seen[h.segment] {
			seen[h.segment] = true
			m.reaches[h.segment.entry] = true
			hops = append(hops, h)
		}
	}
	for _, n := range m.interfaces {
		visit(hop{segment: n.segment})
	}
	passed := map[*machine]bool{m: true}
	for i := 0; i < len(hops); i++ {
		for _, r := range hops[i].segment.routers {
			if passed[r.machine] {
				continue
			}
			passed[r.machine] = true
			next := hops[i]
			if next.dev == "" {
				next = hop{via: r.Address.Addr(), via6: r.Address6.Addr(), dev: m.on(hops[i].segment).Name}
			}
			for _, other := range r.machine.interfaces {
				next.segment = other.segment
				visit(next)
			}
		}
	}
	return hops
}

// on returns the machine's first interface on a segment.
func (m *machine) on(s *segment) *nic {
	return m.interfaces[slices.IndexFunc(m.interfaces, func(n *nic) bool { return n.segment == s })]
}

// addRoutes adds a route for each segment behind a router, unless the default
// route goes the same way or the spec has a route there already.
func (m *machine) addRoutes(hops []hop) {
	for _, h := range hops {
		if h.dev == "" {
			continue
		}
		m.addRoute(Route{Dst: h.segment.CIDR, Via: h.via, Dev: h.dev})
		if h.segment.CIDR6.IsValid() {
			m.addRoute(Route{Dst: h.segment.CIDR6, Via: h.via6, Dev: h.dev})
		}
	}
}

func (m *machine) addRoute(r Route) {
	for _, o := range m.routes {
		if o.Dst == r.Dst || !o.Dst.IsValid() && o.Via == r.Via {
			return
		}
	}
	if r.Via.IsValid() {
		m.routes = append(m.routes, r)
	}
}

// addDefault adds the default route to the gateway of the first interface
// that has one, unless the spec has a default route.
func (m *machine) addDefault() {
	if m.defaultDev(true) != "" {
		return
	}
	for _, n := range m.interfaces {
		if g := n.segment.gateway; g.IsValid() {
			m.routes = append(m.routes, Route{Via: g, Dev: n.Name})
			return
		}
	}
}

// defaultDev returns the interface of the default route of IPv4, or of IPv6,
// or nothing.
func (m *machine) defaultDev(is4 bool) string {
	for _, r := range m.routes {
		if !r.Dst.IsValid() && r.Via.Is4() == is4 {
			return r.Dev
		}
	}
	return ""
}

// staticRoutes settles the routes that the spec gives a node.
func (x *expansion) staticRoutes(m *machine) {
	first := map[netip.Prefix]string{}
	for i, s := range m.spec.Routes {
		path := at(m.path+".routes", i)
		n := x.nextHop(m, path, s)
		if n == nil || !x.checkDst(m, path+".dst", s) {
			continue
		}
		r := Route{Dst: s.Dst, Via: s.Via, Dev: n.Name}
		key := s.Dst
		if !key.IsValid() {
			key, _ = s.Via.Prefix(0)
		}
		if key.Bits() == 0 {
			r.Dst = netip.Prefix{}
		}
		if o := first[key]; o != "" {
			x.add(path, "leads to %s, as does %s; a node has one route to a place", key, o)
			continue
		}
		first[key] = path
		m.routes = append(m.routes, r)
	}
}

// nextHop returns the interface by which a route leaves, after filing why
// there is none.
func (x *expansion) nextHop(m *machine, path string, s RouteSpec) *nic {
	var names []string
	known := s.Dev == ""
	for _, n := range m.interfaces {
		names = append(names, n.readable())
		if s.Dev != "" && s.Dev != n.Name && s.Dev != n.AltName {
			continue
		}
		known = true
		if s.Via == n.Address.Addr() || s.Via == n.Address6.Addr() {
			x.add(path+".via", "is %s, %s's own address; write that of another machine", s.Via, m.name)
			return nil
		}
		if n.segment.CIDR.Contains(s.Via) || n.segment.CIDR6.Contains(s.Via) {
			return n
		}
	}
	switch {
	case m.partial || len(names) == 0:
	case !known:
		x.add(path+".dev", "is %s, and %s has no interface of that name; %s", show(s.Dev), m.name, suggestOrList(s.Dev, names))
	case s.Dev != "":
		x.add(path+".via", "is %s, which is not on the segment of %s", s.Via, s.Dev)
	default:
		x.add(path+".via", "is %s, which is on no segment of %s; a next hop is one link away", s.Via, m.name)
	}
	return nil
}

// checkDst checks a route's destination.
func (x *expansion) checkDst(m *machine, path string, s RouteSpec) bool {
	if !s.Dst.IsValid() {
		return true
	}
	if s.Dst != s.Dst.Masked() {
		x.add(path, "is %s, an address within a network; write %s", s.Dst, s.Dst.Masked())
		return false
	}
	if s.Dst.Addr().Is4() != s.Via.Is4() {
		x.add(path, "is %s, and via is %s, of the other address family", s.Dst, s.Via)
		return false
	}
	for _, n := range m.interfaces {
		if s.Dst == n.segment.CIDR || s.Dst == n.segment.CIDR6 {
			x.add(path, "is %s, the segment of %s, which needs no route; leave it out", s.Dst, n.readable())
			return false
		}
	}
	return true
}
