package rtnl

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Link is what the kinds of link have in common. Zero fields are left to the
// kernel.
type Link struct {
	Name string
	// Index fixes the ifindex, so that later messages of the same batch can
	// name the link before the kernel has answered.
	Index int
	MAC   net.HardwareAddr
	// MTU in bytes.
	MTU int
	// Master is the ifindex of the bridge that the link is a port of.
	Master int
	// NetNS, when above zero, is the descriptor of the network namespace in
	// which the link is created.
	NetNS int
	// Parent is the ifindex that IFLA_LINK names.
	Parent int
	// TxQueueLen is the transmit queue's length in packets.
	TxQueueLen int
	// Up creates the link in state up. A veth's peer cannot be (ENOTCONN).
	Up bool
}

// Vxlan is the part of a link that a VXLAN device has besides.
type Vxlan struct {
	// VNI is the 24-bit network identifier.
	VNI int
	// Port is the destination UDP port; 0 leaves the kernel's 8472.
	Port int
	// Local is the outer source address, Dev the underlay's ifindex.
	Local netip.Addr
	Dev   int
	// Learning lets the kernel learn FDB entries from what it receives.
	Learning bool
	// GBP adds the group policy extension to the header.
	GBP bool
	// ZeroChecksum leaves the outer UDP checksum out, as RFC 7348 section 5
	// asks; the kernel's own default is to compute it.
	ZeroChecksum bool
	// SourcePorts are the first and the last outer source port that flows are
	// told apart by; zeros leave the range of local ports
	// (net.ipv4.ip_local_port_range).
	SourcePorts [2]uint16
}

// Attributes of linux/if_link.h that x/sys/unix does not name.
const (
	ifaVethPeer        = 1  // VETH_INFO_PEER
	ifaVxlanID         = 1  // IFLA_VXLAN_ID
	ifaVxlanGroup      = 2  // IFLA_VXLAN_GROUP
	ifaVxlanLink       = 3  // IFLA_VXLAN_LINK
	ifaVxlanLocal      = 4  // IFLA_VXLAN_LOCAL
	ifaVxlanTTL        = 5  // IFLA_VXLAN_TTL
	ifaVxlanTOS        = 6  // IFLA_VXLAN_TOS
	ifaVxlanLearning   = 7  // IFLA_VXLAN_LEARNING
	ifaVxlanLimit      = 9  // IFLA_VXLAN_LIMIT
	ifaVxlanPortRange  = 10 // IFLA_VXLAN_PORT_RANGE
	ifaVxlanProxy      = 11 // IFLA_VXLAN_PROXY
	ifaVxlanRSC        = 12 // IFLA_VXLAN_RSC
	ifaVxlanL2Miss     = 13 // IFLA_VXLAN_L2MISS
	ifaVxlanL3Miss     = 14 // IFLA_VXLAN_L3MISS
	ifaVxlanPort       = 15 // IFLA_VXLAN_PORT
	ifaVxlanGroup6     = 16 // IFLA_VXLAN_GROUP6
	ifaVxlanLocal6     = 17 // IFLA_VXLAN_LOCAL6
	ifaVxlanChecksum   = 18 // IFLA_VXLAN_UDP_CSUM
	ifaVxlanGBP        = 23 // IFLA_VXLAN_GBP
	ifaVxlanMetadata   = 25 // IFLA_VXLAN_COLLECT_METADATA
	ifaVxlanGPE        = 27 // IFLA_VXLAN_GPE
	ifaVxlanTTLInherit = 28 // IFLA_VXLAN_TTL_INHERIT
	ifaVxlanDF         = 29 // IFLA_VXLAN_DF
	ifaTunnelLink      = 1  // IFLA_IPTUN_LINK
	ifaTunnelLocal     = 2  // IFLA_IPTUN_LOCAL
	ifaTunnelRemote    = 3  // IFLA_IPTUN_REMOTE
	ifaTunnelTTL       = 4  // IFLA_IPTUN_TTL
	ifaTunType         = 3  // IFLA_TUN_TYPE
	ifaTunPersist      = 6  // IFLA_TUN_PERSIST
	ifaTunMultiQueue   = 7  // IFLA_TUN_MULTI_QUEUE
	ifaBrportHairpin   = 4  // IFLA_BRPORT_MODE
	ifaPropList        = unix.IFLA_PROP_LIST
	ifaAltName         = unix.IFLA_ALT_IFNAME
	nestedFlag         = unix.NLA_F_NESTED
	exclusiveCreation  = unix.NLM_F_CREATE | unix.NLM_F_EXCL
)

func ifInfo(index int, flags, change uint32) []byte {
	h := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(h[4:], uint32(index))
	binary.NativeEndian.PutUint32(h[8:], flags)
	binary.NativeEndian.PutUint32(h[12:], change)
	return h
}

func (l Link) header() []byte {
	if l.Up {
		return ifInfo(l.Index, unix.IFF_UP, unix.IFF_UP)
	}
	return ifInfo(l.Index, 0, 0)
}

func (b *Batch) linkAttrs(l Link) {
	if l.Name != "" {
		b.attrString(unix.IFLA_IFNAME, l.Name)
	}
	if l.MAC != nil {
		b.attr(unix.IFLA_ADDRESS, l.MAC)
	}
	for typ, v := range map[uint16]int{
		unix.IFLA_MTU:    l.MTU,
		unix.IFLA_MASTER: l.Master,
		unix.IFLA_LINK:   l.Parent,
		unix.IFLA_TXQLEN: l.TxQueueLen,
	} {
		if v != 0 {
			b.attr32(typ, uint32(v))
		}
	}
	if l.NetNS > 0 {
		b.attr32(unix.IFLA_NET_NS_FD, uint32(l.NetNS))
	}
}

// addLink creates a link of a kind; data appends its IFLA_INFO_DATA.
func (b *Batch) addLink(l Link, kind string, data func()) {
	b.begin(unix.RTM_NEWLINK, exclusiveCreation, l.header(), func() string {
		return fmt.Sprintf("link add %s type %s", l.Name, kind)
	})
	b.linkAttrs(l)
	b.nest(unix.IFLA_LINKINFO, func() {
		b.attrString(unix.IFLA_INFO_KIND, kind)
		if data != nil {
			b.nest(unix.IFLA_INFO_DATA, data)
		}
	})
	b.end()
}

// AddBridge creates a bridge.
func (b *Batch) AddBridge(l Link) { b.addLink(l, "bridge", nil) }

// AddVeth creates both ends of a veth pair, each in the namespace that its
// NetNS names: placing an end directly is ten times faster than moving it.
func (b *Batch) AddVeth(l, peer Link) {
	b.addLink(l, "veth", func() {
		off := len(b.buf)
		b.attr(ifaVethPeer, peer.header())
		b.linkAttrs(peer)
		binary.NativeEndian.PutUint16(b.buf[off:], uint16(len(b.buf)-off))
	})
}

// AddVxlan creates a VXLAN device without a group: it sends only to what the
// FDB names.
func (b *Batch) AddVxlan(l Link, v Vxlan) {
	b.addLink(l, "vxlan", func() {
		b.attr32(ifaVxlanID, uint32(v.VNI))
		if v.Dev != 0 {
			b.attr32(ifaVxlanLink, uint32(v.Dev))
		}
		switch {
		case v.Local.Is4():
			b.attr(ifaVxlanLocal, v.Local.AsSlice())
		case v.Local.Is6():
			b.attr(ifaVxlanLocal6, v.Local.AsSlice())
		}
		learning := uint8(0)
		if v.Learning {
			learning = 1
		}
		b.attr8(ifaVxlanLearning, learning)
		if v.Port != 0 {
			b.attr16BE(ifaVxlanPort, uint16(v.Port))
		}
		if v.GBP {
			b.attr(ifaVxlanGBP, nil)
		}
		if v.ZeroChecksum {
			b.attr8(ifaVxlanChecksum, 0)
		}
		if v.SourcePorts != [2]uint16{} { // struct ifla_vxlan_port_range
			b.attr(ifaVxlanPortRange, binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, v.SourcePorts[0]), v.SourcePorts[1]))
		}
	})
}

// AddIPIP creates an IP-in-IP device (RFC 2003) without a remote end: it sends
// to what the routes' next hops name, with the inner packet's TTL.
func (b *Batch) AddIPIP(l Link, local netip.Addr) {
	b.addLink(l, "ipip", func() { b.attr(ifaTunnelLocal, local.AsSlice()) })
}

// AddKind creates a link of a kind that takes no settings at its creation, such
// as "wireguard", whose keys and peers are set by other means.
func (b *Batch) AddKind(l Link, kind string) { b.addLink(l, kind, nil) }

// TryKind asks for a link of a kind without a queue to send from, which no
// kernel makes. EOPNOTSUPP then says that the kernel knows no such kind, and any
// other error that it does.
func (b *Batch) TryKind(kind string) {
	b.begin(unix.RTM_NEWLINK, exclusiveCreation, Link{}.header(), func() string { return "link try type " + kind })
	b.attr32(unix.IFLA_NUM_TX_QUEUES, 0)
	b.nest(unix.IFLA_LINKINFO, func() { b.attrString(unix.IFLA_INFO_KIND, kind) })
	b.end()
}

// SetLink changes the fields of l that are set; Index chooses the link, and
// Name only names it in errors. Up brings it up, and nothing takes it down.
func (b *Batch) SetLink(l Link) {
	label := l.label()
	b.begin(unix.RTM_NEWLINK, 0, l.header(), func() string { return "link set " + label })
	// Before Linux 6.2 a name, even its own, is refused to a link that is up.
	l.Name = ""
	b.linkAttrs(l)
	b.end()
}

// SetLinkDown takes a link down.
func (b *Batch) SetLinkDown(index int) {
	b.begin(unix.RTM_NEWLINK, 0, ifInfo(index, 0, unix.IFF_UP), func() string {
		return fmt.Sprintf("link set %s down", Link{Index: index}.label())
	})
	b.end()
}

// DelLink deletes a link; a veth's peer goes with it.
func (b *Batch) DelLink(index int) {
	b.begin(unix.RTM_DELLINK, 0, ifInfo(index, 0, 0), func() string {
		return fmt.Sprintf("link del %s", Link{Index: index}.label())
	})
	b.end()
}

// DelLinks deletes links together: of many veths, in the time that one takes.
// It puts them into the group, which must be no other link's and not 0.
func (b *Batch) DelLinks(group uint32, indices ...int) {
	for _, i := range indices {
		b.begin(unix.RTM_NEWLINK, 0, ifInfo(i, 0, 0), func() string {
			return fmt.Sprintf("link set %s group %d", Link{Index: i}.label(), group)
		})
		b.attr32(unix.IFLA_GROUP, group)
		b.end()
	}
	b.begin(unix.RTM_DELLINK, 0, ifInfo(0, 0, 0), func() string { return fmt.Sprintf("link del group %d", group) })
	b.attr32(unix.IFLA_GROUP, group)
	b.end()
}

// SetHairpin lets a bridge send a frame back through the port it came from,
// which a pod needs that reaches itself through a translated address.
func (b *Batch) SetHairpin(index int, on bool) {
	h := ifInfo(index, 0, 0)
	h[0] = unix.AF_BRIDGE
	b.begin(unix.RTM_SETLINK, 0, h, func() string {
		return fmt.Sprintf("bridge link set %s hairpin %v", Link{Index: index}.label(), on)
	})
	v := uint8(0)
	if on {
		v = 1
	}
	b.nest(unix.IFLA_PROTINFO|nestedFlag, func() { b.attr8(ifaBrportHairpin, v) })
	b.end()
}

// AddAltName gives a link a second, longer name (at most 127 bytes).
func (b *Batch) AddAltName(index int, name string) {
	b.begin(unix.RTM_NEWLINKPROP, exclusiveCreation|unix.NLM_F_APPEND, ifInfo(index, 0, 0), func() string {
		return fmt.Sprintf("link property add %s altname %s", Link{Index: index}.label(), name)
	})
	b.nest(ifaPropList|nestedFlag, func() { b.attrString(ifaAltName, name) })
	b.end()
}

// label names the link in errors.
func (l Link) label() string {
	if l.Name != "" {
		return l.Name
	}
	return fmt.Sprintf("#%d", l.Index)
}
