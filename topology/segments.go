package topology

import "net/netip"

// segmentEntry is an entry of spec.underlay: one segment, or with perNode a
// copy for each node that is on it.
type segmentEntry struct {
	spec *SegmentSpec
	path string
	mtu  int
	// usable tells that name, CIDRs and gateway are sound.
	usable bool
	copies []*segment
	byNode map[string]*segment
}

// segment is an L2 network while it is planned.
type segment struct {
	Segment
	entry   *segmentEntry
	gateway netip.Addr
	// taken and macs hold the path of what has an address.
	taken map[netip.Addr]string
	macs  map[MAC]holder
	// next and next6 are where the search for a free address goes on.
	next, next6 netip.Addr
	// ports counts the interfaces on the segment; routers are those of
	// routers.
	ports   int
	routers []*nic
}

// segmentEntries checks the entries of spec.underlay on their own, and makes
// the segments of those without perNode.
func (x *expansion) segmentEntries() {
	specs := x.spec.Underlay
	if specs == nil {
		specs = []SegmentSpec{x.defaultSegment()}
	} else if len(specs) == 0 {
		x.add("spec.underlay", "is empty; name a segment, or leave underlay out for one called lan")
	}
	if len(specs) > maxSegments {
		x.add("spec.underlay", "has %d segments; a lab has at most %d", len(specs), maxSegments)
		specs = specs[:maxSegments]
	}
	for i := range specs {
		s, path := &specs[i], at("spec.underlay", i)
		e := &segmentEntry{spec: s, path: path, mtu: x.mtu(path+".mtu", s.MTU, 1500), byNode: map[string]*segment{}}
		e.usable = x.checkLabel(path+".name", s.Name, 63)
		e.usable = e.usable && x.claimSegment(s.Name, path+".name")
		e.usable = x.checkSegment(e) && e.usable
		x.segments = append(x.segments, e)
		if e.usable && !or(s.PerNode, false) {
			x.makeSegment(e, s.Name)
		}
	}
}

func (x *expansion) defaultSegment() SegmentSpec {
	s := SegmentSpec{Name: "lan", CIDR: netip.MustParsePrefix("172.16.1.0/24")}
	if x.plan.Network.EnableIPv6 {
		s.CIDR6 = netip.MustParsePrefix("fd00:172:16:1::/64")
	}
	return s
}

// claimSegment files an error when two segments would have one name.
func (x *expansion) claimSegment(name, path string) bool {
	if first := x.segmentNames[name]; first != "" {
		x.add(path, "is %s, as is %s; choose another name", name, first)
		return false
	}
	x.segmentNames[name] = path
	return true
}

// mtu checks a link's MTU in bytes. RFC 791 has every host accept 576; 65535
// is the most that the kernel gives a veth or a bridge (ETH_MAX_MTU).
func (x *expansion) mtu(path string, mtu *int, otherwise int) int {
	return x.between(path, mtu, 576, 65535, otherwise, " bytes")
}

// checkSegment checks an entry's prefixes and gateway.
func (x *expansion) checkSegment(e *segmentEntry) bool {
	s := e.spec
	ok := x.checkCIDR(e.path+".cidr", s.CIDR, x.v4, true)
	if s.CIDR6.IsValid() {
		if !x.plan.Network.EnableIPv6 {
			x.notDual(e.path + ".cidr6")
			ok = false
		}
		ok = x.checkCIDR(e.path+".cidr6", s.CIDR6, x.v6, false) && ok
	}
	if ok && s.Gateway.IsValid() {
		ok = x.checkFamily(e.path+".gateway", s.Gateway, true) && x.checkHost(e.path+".gateway", s.Gateway, s.CIDR)
	}
	return ok
}

// notDual files the error of an IPv6 key in a lab of IPv4.
func (x *expansion) notDual(path string) {
	if x.source.bad["spec.network.EnableIPv6"] {
		return
	}
	x.add(path, "is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out")
}

// checkCIDR checks one prefix of a segment.
func (x *expansion) checkCIDR(path string, p netip.Prefix, overlay subnets, is4 bool) bool {
	example := "172.16.1.0/24"
	if !is4 {
		example = "fd00:172:16:1::/64"
	}
	switch {
	case !p.IsValid():
		x.add(path, "is missing; write a CIDR such as %s", example)
	case !x.checkFamily(path, p.Addr(), is4):
	case p != p.Masked():
		x.add(path, "is %s, an address within a segment; write %s", p, p.Masked())
	case special(p) != "":
		x.add(path, "is %s, which overlaps %s; choose a private one such as %s", p, special(p), example)
	case p.IsSingleIP():
		x.add(path, "is %s, a single address; a segment has two at least", p)
	case overlay.network.IsValid() && overlay.network.Overlaps(p) && x.spec.Underlay == nil:
		x.add("spec.network.Network", "is %s, which overlaps the default segment's %s; choose another, or name a segment outside it in spec.underlay", overlay.network, p)
	case overlay.network.IsValid() && overlay.network.Overlaps(p):
		x.add(path, "is %s, which overlaps the overlay's network %s; choose one outside it", p, overlay.network)
	default:
		return true
	}
	return false
}

// checkHost files an error unless an interface on the prefix can have the
// address.
func (x *expansion) checkHost(path string, a netip.Addr, p netip.Prefix) bool {
	switch {
	case !p.Contains(a):
		x.add(path, "is %s, outside the segment's %s", a, p)
	case !isHost(p, a) && a == p.Addr():
		x.add(path, "is %s, the network address of %s; choose one after it", a, p)
	case !isHost(p, a):
		x.add(path, "is %s, the broadcast address of %s; choose one before it", a, p)
	default:
		return true
	}
	return false
}

// segmentOf returns the segment that an interface of a node is on: the
// entry's own, or the node's copy. It is nil when the entry is not usable.
func (x *expansion) segmentOf(e *segmentEntry, m *machine) *segment {
	switch {
	case !e.usable:
		return nil
	case !or(e.spec.PerNode, false):
		return e.copies[0]
	case e.byNode[m.name] == nil:
		name := e.spec.Name + "-" + m.name
		if !x.checkLabel(e.path+".name", name, 63) || !x.claimSegment(name, e.path+".name") {
			e.usable = false
			return nil
		}
		e.byNode[m.name] = x.makeSegment(e, name)
	}
	return e.byNode[m.name]
}

func (x *expansion) makeSegment(e *segmentEntry, name string) *segment {
	s := &segment{
		Segment: Segment{Name: name, Bridge: x.ifnames.fit("br-"+name, e.path), CIDR: e.spec.CIDR, CIDR6: e.spec.CIDR6, MTU: e.mtu},
		entry:   e,
		gateway: e.spec.Gateway,
		taken:   map[netip.Addr]string{},
		macs:    map[MAC]holder{},
		next:    e.spec.CIDR.Addr(),
		next6:   e.spec.CIDR6.Addr(),
	}
	e.copies = append(e.copies, s)
	return s
}

// checkOverlaps refuses segments whose prefixes overlap, save those that are
// the same network twice, as behind NAT, with no machine that reaches both.
func (x *expansion) checkOverlaps() {
	for i, b := range x.segments {
		for _, a := range x.segments[:i] {
			if !a.usable || !b.usable {
				continue
			}
			switch s, t := a.spec, b.spec; {
			case s.CIDR.Overlaps(t.CIDR):
				x.checkOverlap(a, b, ".cidr", s.CIDR, t.CIDR)
			case s.CIDR6.IsValid() && t.CIDR6.IsValid() && s.CIDR6.Overlaps(t.CIDR6):
				x.checkOverlap(a, b, ".cidr6", s.CIDR6, t.CIDR6)
			}
		}
	}
}

func (x *expansion) checkOverlap(a, b *segmentEntry, key string, p, q netip.Prefix) {
	path, name := b.path+key, a.spec.Name
	if p != q || len(a.copies) == 0 || len(b.copies) == 0 || a.copies[0].ports == 0 || b.copies[0].ports == 0 {
		x.add(path, "is %s, which overlaps the %s of segment %s; choose one outside it", q, p, name)
		return
	}
	for _, m := range x.machines() {
		if m.reaches[a] && m.reaches[b] {
			x.add(path, "is %s, as is that of segment %s, and %s reaches both; choose another", q, name, m.name)
			return
		}
	}
}
