package rtnl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// rtaNextHopID is RTA_NH_ID of linux/rtnetlink.h.
const rtaNextHopID = 30

// errTruncated says that a message is shorter than it claims.
var errTruncated = errors.New("truncated rtnetlink message")

// A Message is one object that the kernel told of: an element of a dump, or a
// notification. It is valid only during the call that hands it over.
type Message struct {
	// Type is RTM_*, Flags are NLM_F_*.
	Type, Flags uint16
	// Body is what follows the netlink header.
	Body []byte
	raw  []byte
}

func (m Message) clone() Message {
	raw := bytes.Clone(m.raw)
	return Message{Type: m.Type, Flags: m.Flags, Body: raw[unix.SizeofNlMsghdr:], raw: raw}
}

// split calls fn for each message of a datagram.
func split(buf []byte, fn func(seq uint32, m Message) error) error {
	for len(buf) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(buf))
		if size < unix.SizeofNlMsghdr || size > len(buf) {
			return errTruncated
		}
		m := Message{
			Type:  binary.NativeEndian.Uint16(buf[4:]),
			Flags: binary.NativeEndian.Uint16(buf[6:]),
			Body:  buf[unix.SizeofNlMsghdr:size],
			raw:   buf[:size],
		}
		if err := fn(binary.NativeEndian.Uint32(buf[8:]), m); err != nil {
			return err
		}
		buf = buf[min(align(size), len(buf)):]
	}
	return nil
}

// attrs calls fn for each attribute behind a header of the given size.
func attrs(body []byte, header int, fn func(typ uint16, value []byte)) error {
	if len(body) < header {
		return errTruncated
	}
	for rest := body[align(header):]; len(rest) >= 4; {
		size := int(binary.NativeEndian.Uint16(rest))
		if size < 4 || size > len(rest) {
			return errTruncated
		}
		fn(binary.NativeEndian.Uint16(rest[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), rest[4:size])
		rest = rest[min(align(size), len(rest)):]
	}
	return nil
}

// The readers of attribute values answer zero for a value of the wrong size,
// which the kernel does not send.

func u8(v []byte) uint8 {
	if len(v) < 1 {
		return 0
	}
	return v[0]
}

func u16BE(v []byte) uint16 {
	if len(v) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(v)
}

func u32(v []byte) uint32 {
	if len(v) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(v)
}

func text(v []byte) string { return string(bytes.TrimRight(v, "\x00")) }

func address(v []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(v)
	return a
}

// LinkState is a link as the kernel describes it.
type LinkState struct {
	Link
	// Kind is the driver's name, as "vxlan"; empty for hardware and loopback.
	Kind string
	// Flags are IFF_*.
	Flags uint32
	// Vxlan is set for a link of kind "vxlan" only, IPIP for one of "ipip", Tun
	// for one of "tun".
	Vxlan *VxlanState
	IPIP  *IPIPState
	Tun   *TunState
}

// IPIPState is an IP-in-IP device as the kernel describes it.
type IPIPState struct {
	// Local is the outer source address.
	Local netip.Addr
	// Other names, in ip(8)'s words, what is set besides.
	Other []string
}

// TunState is a TUN or TAP device as the kernel describes it.
type TunState struct {
	// Tap marks a device of Ethernet frames, Persistent one that stays without
	// a process, MultiQueue one that several descriptors may be attached to.
	Tap, Persistent, MultiQueue bool
}

// VxlanState is a VXLAN device as the kernel describes it.
type VxlanState struct {
	Vxlan
	// Other names, in ip(8)'s words, the features that are on and that Vxlan
	// does not know.
	Other []string
}

// Link reads a message of type RTM_NEWLINK or RTM_DELLINK.
func (m Message) Link() (LinkState, error) {
	var l LinkState
	err := attrs(m.Body, unix.SizeofIfInfomsg, func(typ uint16, v []byte) {
		switch typ {
		case unix.IFLA_IFNAME:
			l.Name = text(v)
		case unix.IFLA_ADDRESS:
			l.MAC = net.HardwareAddr(bytes.Clone(v))
		case unix.IFLA_MTU:
			l.MTU = int(u32(v))
		case unix.IFLA_MASTER:
			l.Master = int(u32(v))
		case unix.IFLA_LINK:
			l.Parent = int(u32(v))
		case unix.IFLA_TXQLEN:
			l.TxQueueLen = int(u32(v))
		case unix.IFLA_LINKINFO:
			l.readInfo(v)
		}
	})
	if err != nil {
		return l, fmt.Errorf("read link: %w", err)
	}
	l.Index = int(binary.NativeEndian.Uint32(m.Body[4:]))
	l.Flags = binary.NativeEndian.Uint32(m.Body[8:])
	l.Up = l.Flags&unix.IFF_UP != 0
	return l, nil
}

// readInfo reads IFLA_LINKINFO. The kind precedes its data.
func (l *LinkState) readInfo(info []byte) {
	_ = attrs(info, 0, func(typ uint16, v []byte) {
		switch {
		case typ == unix.IFLA_INFO_KIND:
			l.Kind = text(v)
		case typ == unix.IFLA_INFO_DATA && l.Kind == "vxlan":
			l.Vxlan = readVxlan(v)
		case typ == unix.IFLA_INFO_DATA && l.Kind == "ipip":
			l.IPIP = readIPIP(v)
		case typ == unix.IFLA_INFO_DATA && l.Kind == "tun":
			l.Tun = readTun(v)
		}
	})
}

func readTun(data []byte) *TunState {
	var s TunState
	_ = attrs(data, 0, func(typ uint16, v []byte) {
		switch typ {
		case ifaTunType:
			s.Tap = u8(v) == unix.IFF_TAP
		case ifaTunPersist:
			s.Persistent = u8(v) != 0
		case ifaTunMultiQueue:
			s.MultiQueue = u8(v) != 0
		}
	})
	return &s
}

func readIPIP(data []byte) *IPIPState {
	var s IPIPState
	_ = attrs(data, 0, func(typ uint16, v []byte) {
		switch typ {
		case ifaTunnelLocal:
			s.Local = address(v)
		case ifaTunnelRemote:
			if a := address(v); a.IsValid() && !a.IsUnspecified() {
				s.Other = append(s.Other, "remote "+a.String())
			}
		case ifaTunnelLink:
			if i := u32(v); i != 0 {
				s.Other = append(s.Other, fmt.Sprintf("dev #%d", i))
			}
		case ifaTunnelTTL:
			if ttl := u8(v); ttl != 0 {
				s.Other = append(s.Other, fmt.Sprintf("ttl %d", ttl))
			}
		}
	})
	return &s
}

func readVxlan(data []byte) *VxlanState {
	var s VxlanState
	other := func(on bool, format string, a ...any) {
		if on {
			s.Other = append(s.Other, fmt.Sprintf(format, a...))
		}
	}
	_ = attrs(data, 0, func(typ uint16, v []byte) {
		switch typ {
		case ifaVxlanID:
			s.VNI = int(u32(v))
		case ifaVxlanLink:
			s.Dev = int(u32(v))
		case ifaVxlanLocal, ifaVxlanLocal6:
			s.Local = address(v)
		case ifaVxlanPortRange:
			if len(v) >= 4 {
				s.SourcePorts = [2]uint16{u16BE(v), u16BE(v[2:])}
			}
		case ifaVxlanChecksum:
			s.ZeroChecksum = u8(v) == 0
		case ifaVxlanLearning:
			s.Learning = u8(v) != 0
		case ifaVxlanTTL:
			other(u8(v) != 0, "ttl %d", u8(v))
		case ifaVxlanTOS:
			other(u8(v) != 0, "tos %#x", u8(v))
		case ifaVxlanLimit:
			other(u32(v) != 0, "maxaddress %d", u32(v))
		case ifaVxlanTTLInherit:
			other(u8(v) != 0, "ttl inherit")
		case ifaVxlanDF:
			other(u8(v) != 0, "df %d", u8(v))
		case ifaVxlanPort:
			s.Port = int(u16BE(v))
		case ifaVxlanGBP:
			s.GBP = true
		case ifaVxlanGroup, ifaVxlanGroup6:
			other(!address(v).IsUnspecified(), "group %s", address(v))
		case ifaVxlanProxy:
			other(u8(v) != 0, "proxy")
		case ifaVxlanRSC:
			other(u8(v) != 0, "rsc")
		case ifaVxlanL2Miss:
			other(u8(v) != 0, "l2miss")
		case ifaVxlanL3Miss:
			other(u8(v) != 0, "l3miss")
		case ifaVxlanMetadata:
			other(u8(v) != 0, "external")
		case ifaVxlanGPE:
			other(true, "gpe")
		}
	})
	return &s
}

// AddrState is an address of a link as the kernel describes it.
type AddrState struct {
	Dev     int
	Address netip.Prefix
	// Scope is RT_SCOPE_*, Flags are IFA_F_*.
	Scope uint8
	Flags uint32
}

// Addr reads a message of type RTM_NEWADDR or RTM_DELADDR.
func (m Message) Addr() (AddrState, error) {
	var a AddrState
	var local, addr netip.Addr
	err := attrs(m.Body, unix.SizeofIfAddrmsg, func(typ uint16, v []byte) {
		switch typ {
		case unix.IFA_LOCAL:
			local = address(v)
		case unix.IFA_ADDRESS:
			addr = address(v)
		case unix.IFA_FLAGS:
			a.Flags = u32(v)
		}
	})
	if err != nil {
		return a, fmt.Errorf("read address: %w", err)
	}
	if !local.IsValid() { // IPv6 has IFA_ADDRESS alone
		local = addr
	}
	a.Address = netip.PrefixFrom(local, int(m.Body[1]))
	a.Scope = m.Body[3]
	a.Dev = int(binary.NativeEndian.Uint32(m.Body[4:]))
	return a, nil
}

// RouteState is a route as the kernel describes it.
type RouteState struct {
	Route
	// Table is RT_TABLE_*, Type is RTN_*, Scope is RT_SCOPE_*.
	Table       uint32
	Type, Scope uint8
	// Other names what Route does not know: several hops, metrics, an
	// encapsulation.
	Other string
}

// Route reads a message of type RTM_NEWROUTE or RTM_DELROUTE.
func (m Message) Route() (RouteState, error) {
	if len(m.Body) < unix.SizeofRtMsg {
		return RouteState{}, fmt.Errorf("read route: %w", errTruncated)
	}
	h := m.Body
	r := RouteState{Table: uint32(h[4]), Type: h[7], Scope: h[6]}
	r.Protocol, r.TOS = h[5], h[3]
	r.Onlink = binary.NativeEndian.Uint32(h[8:])&unix.RTNH_F_ONLINK != 0
	r.LinkScope = r.Scope == unix.RT_SCOPE_LINK
	r.Blackhole = r.Type == unix.RTN_BLACKHOLE
	dst := netip.IPv4Unspecified()
	if h[0] == unix.AF_INET6 {
		dst = netip.IPv6Unspecified()
	}
	err := attrs(m.Body, unix.SizeofRtMsg, func(typ uint16, v []byte) {
		switch typ {
		case unix.RTA_DST:
			dst = address(v)
		case unix.RTA_GATEWAY:
			r.Via = address(v)
		case unix.RTA_OIF:
			r.Dev = int(u32(v))
		case unix.RTA_PREFSRC:
			r.Src = address(v)
		case unix.RTA_PRIORITY:
			r.Metric = int(u32(v))
		case unix.RTA_TABLE:
			r.Table = u32(v)
		case unix.RTA_METRICS, unix.RTA_MULTIPATH, unix.RTA_ENCAP, unix.RTA_VIA, rtaNextHopID, unix.RTA_FLOW:
			r.Other += fmt.Sprintf("attribute %d=%x ", typ, v)
		}
	})
	if err != nil {
		return r, fmt.Errorf("read route: %w", err)
	}
	r.Dst = netip.PrefixFrom(dst, int(h[1]))
	if h[0] == unix.AF_INET6 && r.Metric == defaultMetric6 {
		r.Metric = 0
	}
	return r, nil
}

// NeighState is a neighbour or an entry of a forwarding database as the kernel
// describes it.
type NeighState struct {
	// Family is AF_INET, AF_INET6, or AF_BRIDGE for a forwarding database.
	Family uint8
	Dev    int
	// IP is the neighbour's address; in a VXLAN device's forwarding database,
	// that of the remote VTEP.
	IP  netip.Addr
	MAC net.HardwareAddr
	// State is NUD_*, Flags are NTF_*.
	State uint16
	Flags uint8
	// Port, VNI and Via, the ifindex of the underlay, are set where a VXLAN
	// entry overrides the device's.
	Port uint16
	VNI  uint32
	Via  int
}

// Neigh reads a message of type RTM_NEWNEIGH or RTM_DELNEIGH.
func (m Message) Neigh() (NeighState, error) {
	var n NeighState
	err := attrs(m.Body, 12, func(typ uint16, v []byte) {
		switch typ {
		case unix.NDA_DST:
			n.IP = address(v)
		case unix.NDA_LLADDR:
			n.MAC = net.HardwareAddr(bytes.Clone(v))
		case unix.NDA_PORT:
			n.Port = u16BE(v)
		case unix.NDA_VNI:
			n.VNI = u32(v)
		case unix.NDA_IFINDEX:
			n.Via = int(u32(v))
		}
	})
	if err != nil {
		return n, fmt.Errorf("read neighbour: %w", err)
	}
	n.Family = m.Body[0]
	n.Dev = int(binary.NativeEndian.Uint32(m.Body[4:]))
	n.State = binary.NativeEndian.Uint16(m.Body[8:])
	n.Flags = m.Body[10]
	return n, nil
}
