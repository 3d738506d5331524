package match

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/topology"
)

// BeEncapsulated matches a capture.Packet that is VXLAN with this identifier
// in UDP to this port.
func BeEncapsulated(vni, port int) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("VXLAN, vni %d, in UDP to port %d", vni, port),
		ok: func(p *capture.Packet) bool {
			return p.Encapsulated() && int(p.VXLAN.VNI) == vni && int(p.UDP.Dst) == port
		},
		seen: brief,
	}
}

// GoBetween matches a capture.Packet in UDP whose outer addresses and
// destination port are these.
func GoBetween(src, dst netip.Addr, port int) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("UDP %s > %s.%d", src, dst, port),
		ok: func(p *capture.Packet) bool {
			return p.Has(capture.LayerUDP) && p.IP.Src == src && p.IP.Dst == dst && int(p.UDP.Dst) == port
		},
		seen: brief,
	}
}

// BeBare matches a capture.Packet that is ICMP in no tunnel.
func BeBare() Explainer {
	return of[capture.Packet]{
		expected: "bare ICMP",
		ok:       func(p *capture.Packet) bool { return p.IsICMP() && !p.Tunnelled() },
		seen:     brief,
	}
}

// BeIPIP matches a capture.Packet that is IP in IP (RFC 2003, protocol 4)
// between these outer addresses.
func BeIPIP(src, dst netip.Addr) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("IP in IP %s > %s", src, dst),
		ok:       func(p *capture.Packet) bool { return p.Has(capture.LayerIPIP) && p.IP.Src == src && p.IP.Dst == dst },
		seen:     brief,
	}
}

// CarryIPv4 matches a capture.Packet that is an IPv4 packet in UDP, as flannel's
// udp backend sends it, between these outer addresses and from and to this port.
func CarryIPv4(src, dst netip.Addr, port int) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("IPv4 in UDP %s.%d > %s.%d", src, port, dst, port),
		ok: func(p *capture.Packet) bool {
			return p.Has(capture.LayerRawIP) && p.IP.Src == src && p.IP.Dst == dst && int(p.UDP.Src) == port && int(p.UDP.Dst) == port
		},
		seen: brief,
	}
}

// BeWireGuard matches a capture.Packet that is a message of WireGuard, of any
// type, between these outer addresses and to this port.
func BeWireGuard(src, dst netip.Addr, port int) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("WireGuard %s > %s.%d", src, dst, port),
		ok: func(p *capture.Packet) bool {
			m, ok := p.WireGuard()
			return ok && m.Valid() && p.IP.Src == src && p.IP.Dst == dst && int(p.UDP.Dst) == port
		},
		seen: func(p *capture.Packet) string {
			if m, ok := p.WireGuard(); ok && int(p.UDP.Dst) == port && p.IP.Src == src && p.IP.Dst == dst {
				return m.String()
			}
			return brief(p)
		},
	}
}

// HaveNextHop matches a capture.Packet whose outermost Ethernet destination is
// this address: who the frame goes to, whatever is in it.
func HaveNextHop(mac topology.MAC) Explainer {
	return of[capture.Packet]{
		expected: "next hop " + mac.String(),
		ok:       func(p *capture.Packet) bool { return p.Has(capture.LayerEthernet) && p.Eth.Dst == mac },
		seen:     func(p *capture.Packet) string { return "next hop " + p.Eth.Dst.String() },
	}
}

// HaveVXLANHeader matches a capture.Packet whose VXLAN header is that of RFC
// 7348 section 5: flags 0x08, reserved bits zero, and this identifier.
func HaveVXLANHeader(vni int) Explainer {
	want := capture.VXLAN{Flags: 0x08, VNI: uint32(vni)}
	return of[capture.Packet]{
		expected: want.String(),
		ok:       func(p *capture.Packet) bool { return p.Encapsulated() && p.VXLAN == want },
		seen: func(p *capture.Packet) string {
			if p.Encapsulated() {
				return p.VXLAN.String()
			}
			return brief(p)
		},
	}
}

// HaveInnerMACs matches a capture.Packet whose inner Ethernet header has
// these addresses and no 802.1Q tag (RFC 7348 section 6.1).
func HaveInnerMACs(src, dst topology.MAC) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("inner %s > %s, untagged", src, dst),
		ok: func(p *capture.Packet) bool {
			return p.Encapsulated() && p.Inner.Eth.Src == src && p.Inner.Eth.Dst == dst && !p.Inner.Has(capture.LayerVLAN)
		},
		seen: func(p *capture.Packet) string {
			if !p.Encapsulated() {
				return brief(p)
			}
			s := fmt.Sprintf("inner %s > %s", p.Inner.Eth.Src, p.Inner.Eth.Dst)
			if p.Inner.Has(capture.LayerVLAN) {
				s += fmt.Sprintf(", tagged with VLAN %d", p.Inner.Eth.VLAN&0xfff)
			}
			return s
		},
	}
}

// HaveInnerTTL matches a capture.Packet whose inner TTL, or hop limit, is
// this one.
func HaveInnerTTL(ttl int) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("inner ttl %d", ttl),
		ok: func(p *capture.Packet) bool {
			return p.Tunnelled() && p.Inner.IsIP() && int(p.Inner.IP.TTL) == ttl
		},
		seen: func(p *capture.Packet) string {
			if !p.Tunnelled() {
				return brief(p)
			}
			return fmt.Sprintf("inner ttl %d", p.Inner.IP.TTL)
		},
	}
}

// HaveOuterTTL matches a capture.Packet whose outer TTL, or hop limit, is
// this one.
func HaveOuterTTL(ttl int) Explainer {
	return of[capture.Packet]{
		expected: fmt.Sprintf("outer ttl %d", ttl),
		ok:       func(p *capture.Packet) bool { return p.IsIP() && int(p.IP.TTL) == ttl },
		seen:     func(p *capture.Packet) string { return fmt.Sprintf("outer ttl %d", p.IP.TTL) },
	}
}

// brief names the packet's outermost protocol and addresses in one line.
func brief(p *capture.Packet) string {
	switch {
	case p.Encapsulated():
		return fmt.Sprintf("UDP %s > %s.%d, %s", p.IP.Src, p.IP.Dst, p.UDP.Dst, p.VXLAN)
	case p.Has(capture.LayerRawIP):
		return fmt.Sprintf("IPv4 in UDP %s.%d > %s.%d", p.IP.Src, p.UDP.Src, p.IP.Dst, p.UDP.Dst)
	case p.Has(capture.LayerIPIP):
		return fmt.Sprintf("IP in IP %s > %s", p.IP.Src, p.IP.Dst)
	case p.Has(capture.LayerUDP):
		return fmt.Sprintf("UDP %s > %s.%d", p.IP.Src, p.IP.Dst, p.UDP.Dst)
	case p.IsICMP():
		return fmt.Sprintf("bare ICMP %s > %s, ttl %d", p.IP.Src, p.IP.Dst, p.IP.TTL)
	case p.IsIP():
		return fmt.Sprintf("IP protocol %d, %s > %s", p.IP.Protocol, p.IP.Src, p.IP.Dst)
	}
	return fmt.Sprintf("Ethernet type 0x%04x", p.Eth.Type)
}
