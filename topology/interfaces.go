package topology

import (
	"fmt"
	"net/netip"
)

// nic is an underlay interface while it is planned.
type nic struct {
	Interface
	path    string
	segment *segment
	machine *machine
	// mtuPath is the path of the key that the MTU comes from.
	mtuPath string
}

// underlay settles segments and interfaces. Fixed addresses come first, then
// a router without one takes its segment's gateway, then routers and nodes in
// order take the lowest that is free.
func (x *expansion) underlay() {
	x.segmentEntries()
	for i, m := range x.routers {
		x.attachAll(m, x.spec.Routers[i].Interfaces)
	}
	for _, m := range x.nodes {
		specs := m.spec.Interfaces
		if specs == nil && len(x.segments) > 0 {
			specs = []InterfaceSpec{{Segment: x.segments[0].spec.Name}}
		}
		x.attachAll(m, specs)
	}
	for _, m := range x.routers {
		for _, n := range m.interfaces {
			n.takeGateway()
		}
	}
	for _, m := range x.machines() {
		for _, n := range m.interfaces {
			x.allocate(n)
		}
	}
	x.checkPorts()
}

// checkPorts refuses more interfaces on a segment than its bridge has ports.
func (x *expansion) checkPorts() {
	for _, e := range x.segments {
		for _, s := range e.copies {
			if s.ports > maxBridgePorts {
				x.add(e.path, "has %d interfaces on it; a bridge of the kernel has at most %d ports: spread the nodes over segments", s.ports, maxBridgePorts)
			}
		}
	}
}

// attachAll gives a machine its interfaces.
func (x *expansion) attachAll(m *machine, specs []InterfaceSpec) {
	path := m.path + ".interfaces"
	switch n := len(specs); {
	case n == 0:
		x.add(path, "is empty; name one interface at least")
	case n > maxInterfaces:
		x.add(path, "has %d items; a machine has at most %d interfaces", n, maxInterfaces)
		specs = specs[:maxInterfaces]
	}
	for i := range specs {
		if n := x.attach(m, &specs[i], i); n != nil {
			m.interfaces = append(m.interfaces, n)
		} else {
			m.partial = true
		}
	}
	m.partial = m.partial || x.badUnder(path)
}

// attach puts one interface on its segment with what the spec fixes of it. It
// is nil if there is no such segment.
func (x *expansion) attach(m *machine, s *InterfaceSpec, i int) *nic {
	n := &nic{path: at(m.path+".interfaces", i), machine: m}
	x.nameInterface(n, s.Name, i)
	e := x.segmentNamed(n.path+".segment", s.Segment)
	if e == nil {
		return nil
	}
	if m.plan == nil && or(e.spec.PerNode, false) {
		x.add(n.path+".segment", "is %s, of which every node has its own copy (perNode); a router joins shared segments", e.spec.Name)
		return nil
	}
	seg := x.segmentOf(e, m)
	if seg == nil {
		return nil
	}
	n.segment, n.Segment = seg, seg.Name
	seg.ports++
	if m.plan == nil {
		seg.routers = append(seg.routers, n)
	}
	n.Port = x.ifnames.fit(m.name+"."+n.Name, n.path)
	n.MTU, n.mtuPath = x.mtu(n.path+".mtu", s.MTU, seg.MTU), n.path+".mtu"
	if s.MTU == nil {
		n.mtuPath = e.path + ".mtu"
	}
	n.MAC = x.claimMAC(seg.macs, s.MAC, n.path+".mac", "segment "+seg.Name, m.name, n.readable())
	n.Address = x.fix(n, "address", s.Address, seg.CIDR)
	n.Address6 = x.fix(n, "address6", s.Address6, seg.CIDR6)
	return n
}

// nameInterface settles the interface's name, hashed if it is too long.
func (x *expansion) nameInterface(n *nic, name string, i int) {
	m := n.machine
	if name == "" {
		name = fmt.Sprintf("eth%d", i)
	}
	// An altname has at most 127 bytes (ALTIFNAMSIZ less the NUL).
	if x.checkIfname(n.path+".name", name, 127) {
		for _, o := range m.interfaces {
			if o.readable() == name {
				x.add(n.path+".name", "is %s, as is %s; choose another name", name, o.path+".name")
			}
		}
	}
	if n.Name = m.ifnames.fit(name, n.path); n.Name != name {
		n.AltName = name
	}
}

// readable is the name that the spec gave the interface.
func (n *nic) readable() string {
	if n.AltName != "" {
		return n.AltName
	}
	return n.Name
}

// segmentNamed returns the entry of that name, after filing why there is
// none. No name is enough where there is one segment.
func (x *expansion) segmentNamed(path, name string) *segmentEntry {
	var names []string
	for _, e := range x.segments {
		if e.spec.Name == name || name == "" && len(x.segments) == 1 {
			return e
		}
		names = append(names, e.spec.Name)
	}
	switch {
	case x.lost("spec.underlay", len(x.spec.Underlay), "name") || len(names) == 0:
	case name == "":
		x.add(path, "is missing; %s", suggestOrList("", names))
	default:
		x.add(path, "is %s, and no segment is called that; %s", show(name), suggestOrList(name, names))
	}
	return nil
}

// fix reserves an address that the spec fixes.
func (x *expansion) fix(n *nic, key string, a netip.Addr, cidr netip.Prefix) netip.Prefix {
	path, is6 := n.path+"."+key, key == "address6"
	switch {
	case !a.IsValid() || !x.checkFamily(path, a, !is6):
	case is6 && !x.plan.Network.EnableIPv6:
		x.notDual(path)
	case !cidr.IsValid():
		x.add(path, "is %s, but segment %s has no cidr6; give it one", a, n.Segment)
	case !x.checkHost(path, a, cidr):
	case a == n.segment.gateway && n.machine.plan != nil:
		x.add(path, "is %s, the gateway of segment %s; choose another", a, n.Segment)
	case x.claim(n.segment.taken, a, path, "segment "+n.Segment):
		return netip.PrefixFrom(a, cidr.Bits())
	}
	n.machine.partial = n.machine.partial || a.IsValid()
	return netip.Prefix{}
}

// claim reserves an address for what is at the path, or files who has it.
func (x *expansion) claim(taken map[netip.Addr]string, a netip.Addr, path, where string) bool {
	switch first := taken[a]; first {
	case "":
		taken[a] = path
		return true
	case path:
		x.add(path, "is %s for every node that the entry makes, all on %s; give each node an entry of its own, or leave the address out", a, where)
	default:
		x.add(path, "is %s, as is %s on the same %s; choose another", a, first, where)
	}
	return false
}

// holder is what has a MAC address, and whether the spec fixed it.
type holder struct {
	path  string
	fixed bool
}

// claimMAC is claim for MAC addresses. It returns the one that the spec
// fixes, or else the one that derives from the names; two that derive alike
// have names alike, which is an error of its own.
func (x *expansion) claimMAC(taken map[MAC]holder, m MAC, path, where string, names ...string) MAC {
	fixed := !m.IsZero()
	if !fixed {
		m = DeriveMAC(append([]string{x.plan.Name}, names...)...)
	}
	switch first, is := taken[m]; {
	case !is:
		taken[m] = holder{path, fixed}
	case !fixed && !first.fixed:
	case first.path == path:
		x.add(path, "is %s for every node that the entry makes, all on %s; give each node an entry of its own, or leave the MAC out", m, where)
	default:
		x.add(path, "is %s, as is %s on the same %s; choose another", m, first.path, where)
	}
	return m
}

// takeGateway gives a router's interface its segment's gateway if neither it
// nor the gateway is taken.
func (n *nic) takeGateway() {
	s := n.segment
	if n.Address.IsValid() || !s.gateway.IsValid() || s.taken[s.gateway] != "" {
		return
	}
	s.taken[s.gateway] = n.path
	n.Address = netip.PrefixFrom(s.gateway, s.CIDR.Bits())
}

// allocate gives an interface the lowest addresses that are free.
func (x *expansion) allocate(n *nic) {
	s := n.segment
	if !n.Address.IsValid() && !x.source.bad[n.path+".address"] {
		n.Address = x.lowest(n, s.CIDR, &s.next)
	}
	if s.CIDR6.IsValid() && !n.Address6.IsValid() && !x.source.bad[n.path+".address6"] {
		n.Address6 = x.lowest(n, s.CIDR6, &s.next6)
	}
}

func (x *expansion) lowest(n *nic, cidr netip.Prefix, next *netip.Addr) netip.Prefix {
	s := n.segment
	for ; next.IsValid() && cidr.Contains(*next); *next = next.Next() {
		if a := *next; isHost(cidr, a) && a != s.gateway && s.taken[a] == "" {
			s.taken[a] = n.path
			return netip.PrefixFrom(a, cidr.Bits())
		}
	}
	n.machine.partial = true
	x.once(s.entry.path, "has %s on it, but %s does not have as many addresses to give; write a wider one", plural(s.ports, "interface"), cidr)
	return netip.Prefix{}
}
