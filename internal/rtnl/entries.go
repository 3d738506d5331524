package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// AddAddr gives a link an address of global scope, with the subnet's broadcast
// address where it has one.
func (b *Batch) AddAddr(index int, p netip.Prefix) {
	b.addr(unix.RTM_NEWADDR, exclusiveCreation, index, p, "add")
}

// DelAddr takes an address from a link.
func (b *Batch) DelAddr(index int, p netip.Prefix) {
	b.addr(unix.RTM_DELADDR, 0, index, p, "del")
}

func (b *Batch) addr(typ, flags uint16, index int, p netip.Prefix, verb string) {
	h := make([]byte, unix.SizeofIfAddrmsg)
	h[0], h[1] = family(p.Addr()), byte(p.Bits())
	if p.Addr().Is6() {
		h[2] = unix.IFA_F_NODAD // addresses are unique by plan, or by their lease
	}
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	b.begin(typ, flags, h, func() string {
		return fmt.Sprintf("addr %s %s dev %s", verb, p, Link{Index: index}.label())
	})
	b.attr(unix.IFA_LOCAL, p.Addr().AsSlice())
	b.attr(unix.IFA_ADDRESS, p.Addr().AsSlice())
	if typ == unix.RTM_NEWADDR && p.Addr().Is4() && p.Bits() <= 30 {
		b.attr(unix.IFA_BROADCAST, broadcast(p).AsSlice())
	}
	b.end()
}

// broadcast is the last address of an IPv4 prefix.
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	host := uint32(1)<<(32-p.Bits()) - 1
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(a[:])|host)
	return netip.AddrFrom4(a)
}

// Route is one unicast route of the main table.
type Route struct {
	// Dst is the destination; the zero Prefix is the default of Via's family.
	Dst netip.Prefix
	// Via is the next hop, and may be unset for a route on link.
	Via netip.Addr
	// Dev is the ifindex; 0 lets the kernel find it from Via.
	Dev int
	// Src is the preferred source address.
	Src netip.Addr
	// Onlink says that Via is on the link even if no address says so.
	Onlink bool
	// LinkScope marks a route without a next hop.
	LinkScope bool
	// Protocol is the route's origin, RTPROT_*; 0 is RTPROT_BOOT, which
	// flannel uses and ip(8) does not print.
	Protocol uint8
	// Metric is the priority; 0 is the kernel's default for the family, which
	// for IPv6 is 1024 (IP6_RT_PRIO_USER).
	Metric int
	// TOS is the type of service that the route is limited to; 0 is none.
	TOS uint8
	// Blackhole drops the packets; such a route has no next hop and no Dev.
	Blackhole bool
}

func (r Route) String() string {
	s := "default"
	if r.Dst.IsValid() && r.Dst.Bits() > 0 {
		s = r.Dst.String()
	}
	if r.Blackhole {
		s = "blackhole " + s
	}
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	if r.Dev != 0 {
		s += " dev " + Link{Index: r.Dev}.label()
	}
	if r.Onlink {
		s += " onlink"
	}
	return s
}

// AddRoute adds a route, or replaces the one of the same destination and
// metric.
func (b *Batch) AddRoute(r Route) {
	b.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, r, "replace")
}

// NewRoute adds a route, and fails with EEXIST where there is one of the same
// destination and metric.
func (b *Batch) NewRoute(r Route) { b.route(unix.RTM_NEWROUTE, exclusiveCreation, r, "add") }

// defaultMetric6 is the kernel's IP6_RT_PRIO_USER.
const defaultMetric6 = 1024

// DelRoute deletes a route that matches every field that is set, and in IPv6
// also the default metric.
func (b *Batch) DelRoute(r Route) { b.route(unix.RTM_DELROUTE, 0, r, "del") }

func (b *Batch) route(typ, flags uint16, r Route, verb string) {
	fam := byte(unix.AF_INET)
	if r.Dst.Addr().Is6() || r.Via.Is6() {
		fam = unix.AF_INET6
	}
	h := make([]byte, unix.SizeofRtMsg)
	h[0] = fam
	h[4] = unix.RT_TABLE_MAIN
	h[5] = r.Protocol
	h[6] = unix.RT_SCOPE_UNIVERSE
	h[7] = unix.RTN_UNICAST
	if r.Blackhole {
		h[7] = unix.RTN_BLACKHOLE
	}
	if r.Protocol == 0 {
		h[5] = unix.RTPROT_BOOT
	}
	if r.LinkScope {
		h[6] = unix.RT_SCOPE_LINK
	}
	if typ == unix.RTM_DELROUTE {
		h[6] = unix.RT_SCOPE_NOWHERE // match any scope
		h[5] = r.Protocol
	}
	if r.Dst.IsValid() {
		h[1] = byte(r.Dst.Bits())
	}
	h[3] = r.TOS
	if r.Onlink {
		binary.NativeEndian.PutUint32(h[8:], unix.RTNH_F_ONLINK)
	}
	b.begin(typ, flags, h, func() string { return fmt.Sprintf("route %s %s", verb, r) })
	if r.Dst.IsValid() && r.Dst.Bits() > 0 {
		b.attr(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice())
	}
	if r.Via.IsValid() {
		b.attr(unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	if r.Src.IsValid() {
		b.attr(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.Dev != 0 {
		b.attr32(unix.RTA_OIF, uint32(r.Dev))
	}
	switch {
	case r.Metric != 0:
		b.attr32(unix.RTA_PRIORITY, uint32(r.Metric))
	case fam == unix.AF_INET6: // a deletion without one would match any
		b.attr32(unix.RTA_PRIORITY, defaultMetric6)
	}
	b.end()
}

// Neigh is one permanent neighbour (ARP or NDP) entry.
type Neigh struct {
	Dev int
	IP  netip.Addr
	MAC net.HardwareAddr
}

// AddNeigh adds or replaces a permanent neighbour entry.
func (b *Batch) AddNeigh(n Neigh) {
	b.neigh(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, n, "replace")
}

// DelNeigh deletes a neighbour entry.
func (b *Batch) DelNeigh(n Neigh) { b.neigh(unix.RTM_DELNEIGH, 0, n, "del") }

func (b *Batch) neigh(typ, flags uint16, n Neigh, verb string) {
	h := ndMsg(family(n.IP), n.Dev, 0)
	b.begin(typ, flags, h, func() string {
		return fmt.Sprintf("neigh %s %s lladdr %s dev %s", verb, n.IP, n.MAC, Link{Index: n.Dev}.label())
	})
	b.attr(unix.NDA_DST, n.IP.AsSlice())
	if n.MAC != nil {
		b.attr(unix.NDA_LLADDR, n.MAC)
	}
	b.end()
}

// FDB is one permanent entry of a VXLAN device's own forwarding database.
type FDB struct {
	Dev int
	MAC net.HardwareAddr
	// Dst is the remote VTEP's underlay address.
	Dst netip.Addr
	// Port, VNI and Via, the ifindex of the underlay, are those of the entry
	// where it overrides the device's; 0 is the device's.
	Port uint16
	VNI  uint32
	Via  int
}

// AddFDB adds an entry, or replaces the destination of the MAC's entry.
func (b *Batch) AddFDB(f FDB) {
	b.fdb(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, f, "replace")
}

// DelFDB deletes an entry.
func (b *Batch) DelFDB(f FDB) { b.fdb(unix.RTM_DELNEIGH, 0, f, "del") }

func (b *Batch) fdb(typ, flags uint16, f FDB, verb string) {
	b.begin(typ, flags, ndMsg(unix.AF_BRIDGE, f.Dev, unix.NTF_SELF), func() string {
		return fmt.Sprintf("bridge fdb %s %s dev %s dst %s self permanent", verb, f.MAC, Link{Index: f.Dev}.label(), f.Dst)
	})
	b.attr(unix.NDA_LLADDR, f.MAC)
	if f.Dst.IsValid() {
		b.attr(unix.NDA_DST, f.Dst.AsSlice())
	}
	if f.Port != 0 {
		b.attr16BE(unix.NDA_PORT, f.Port)
	}
	if f.VNI != 0 {
		b.attr32(unix.NDA_VNI, f.VNI)
	}
	if f.Via != 0 {
		b.attr32(unix.NDA_IFINDEX, uint32(f.Via))
	}
	b.end()
}

func ndMsg(family byte, dev int, flags byte) []byte {
	h := make([]byte, 12) // struct ndmsg
	h[0] = family
	binary.NativeEndian.PutUint32(h[4:], uint32(dev))
	binary.NativeEndian.PutUint16(h[8:], unix.NUD_PERMANENT)
	h[10] = flags
	return h
}
