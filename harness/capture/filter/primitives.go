package filter

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/bpf"
)

// Side says which end of a packet a filter looks at.
type Side uint8

// The sides.
const (
	Either Side = iota
	Source
	Destination
)

func (s Side) String() string { return [...]string{"", "src ", "dst "}[s] }

// pick accepts by the source's or the destination's test, whichever the side
// asks for.
func (s Side) pick(p *program, accept, refuse label, src, dst func(p *program, accept, refuse label)) {
	switch s {
	case Source:
		src(p, accept, refuse)
	case Destination:
		dst(p, accept, refuse)
	default:
		next := p.label()
		src(p, accept, next)
		p.mark(next)
		dst(p, accept, refuse)
	}
}

// Not accepts what a filter refuses.
func (f Filter) Not() Filter {
	return Filter{"not " + f.String(), func(p *program, accept, refuse label) {
		if f.emit == nil {
			p.add(bpf.LoadConstant{Val: 0})
			p.jumpIf(bpf.JumpEqual, 0, refuse, refuse)
			return
		}
		f.emit(p, refuse, accept)
	}}
}

// Net accepts packets, and ARP for IPv4, from or to the addresses of a prefix.
func Net(side Side, n netip.Prefix) Filter {
	n = n.Masked()
	name := fmt.Sprintf("%snet %s", side, n)
	if n.IsSingleIP() {
		name = fmt.Sprintf("%shost %s", side, n.Addr())
	}
	if n.Addr().Is6() {
		return Filter{name, func(p *program, accept, refuse label) {
			ip := p.label()
			p.ether(etherIPv6, ip, refuse)
			p.mark(ip)
			side.pick(p, accept, refuse, within(22, n), within(38, n))
		}}
	}
	return Filter{name, func(p *program, accept, refuse label) {
		ip, other, arp := p.label(), p.label(), p.label()
		p.ether(etherIPv4, ip, other)
		p.mark(ip)
		side.pick(p, accept, refuse, within(26, n), within(30, n))
		p.mark(other)
		p.ether(etherARP, arp, refuse)
		p.mark(arp)
		side.pick(p, accept, refuse, within(28, n), within(38, n))
	}}
}

// within tests an address at an offset against a prefix, word by word.
func within(at uint32, n netip.Prefix) func(p *program, accept, refuse label) {
	return func(p *program, accept, refuse label) {
		address, bits := n.Addr().AsSlice(), n.Bits()
		for i := 0; i < len(address) && bits > 0; i, bits = i+4, bits-32 {
			p.load(at+uint32(i), 4)
			if bits < 32 {
				p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(0) << (32 - bits)})
			}
			next := p.label()
			p.jumpIf(bpf.JumpEqual, binary.BigEndian.Uint32(address[i:]), next, refuse)
			p.mark(next)
		}
		p.add(bpf.LoadConstant{Val: 0})
		p.jumpIf(bpf.JumpEqual, 0, accept, accept)
	}
}

// Port accepts TCP and UDP packets of both families, or those of one protocol
// number where it is not 0, from or to a port; of a fragmented packet the first
// fragment only, as the others hold no port.
func Port(protocol uint8, side Side, port uint16) Filter {
	name := fmt.Sprintf("%sport %d", side, port)
	switch protocol {
	case protoTCP:
		name = "tcp " + name
	case protoUDP:
		name = "udp " + name
	}
	return Filter{name, func(p *program, accept, refuse label) {
		v4, other, v6 := p.label(), p.label(), p.label()
		p.ether(etherIPv4, v4, other)
		p.mark(v4)
		p.transport(23, protocol, refuse)
		first := p.label()
		p.load(20, 2)
		p.jumpIf(bpf.JumpBitsSet, 0x1fff, refuse, first)
		p.mark(first)
		indirect := func(at uint32) func(p *program, accept, refuse label) {
			return func(p *program, accept, refuse label) {
				p.add(bpf.LoadMemShift{Off: p.base + 14})
				p.add(bpf.LoadIndirect{Off: p.base + at, Size: 2})
				p.jumpIf(bpf.JumpEqual, uint32(port), accept, refuse)
			}
		}
		side.pick(p, accept, refuse, indirect(14), indirect(16))
		p.mark(other)
		p.ether(etherIPv6, v6, refuse)
		p.mark(v6)
		p.transport(20, protocol, refuse)
		direct := func(at uint32) func(p *program, accept, refuse label) {
			return func(p *program, accept, refuse label) {
				p.load(at, 2)
				p.jumpIf(bpf.JumpEqual, uint32(port), accept, refuse)
			}
		}
		side.pick(p, accept, refuse, direct(54), direct(56))
	}}
}

// EtherHost accepts frames from or to a MAC address.
func EtherHost(side Side, mac [6]byte) Filter {
	is := func(at uint32) func(p *program, accept, refuse label) {
		return func(p *program, accept, refuse label) {
			rest := p.label()
			p.load(at, 4)
			p.jumpIf(bpf.JumpEqual, binary.BigEndian.Uint32(mac[:]), rest, refuse)
			p.mark(rest)
			p.load(at+4, 2)
			p.jumpIf(bpf.JumpEqual, uint32(binary.BigEndian.Uint16(mac[4:])), accept, refuse)
		}
	}
	return Filter{fmt.Sprintf("ether %shost %s", side, net.HardwareAddr(mac[:])),
		func(p *program, accept, refuse label) { side.pick(p, accept, refuse, is(6), is(0)) }}
}

// VLAN accepts frames with an 802.1Q tag that the kernel has taken off, of one
// identifier or, if it is negative, of any.
func VLAN(id int) Filter {
	name := "vlan"
	if id >= 0 {
		name = fmt.Sprintf("vlan %d", id)
	}
	return Filter{name, func(p *program, accept, refuse label) {
		tagged := p.label()
		p.add(bpf.LoadExtension{Num: bpf.ExtVLANTagPresent})
		if id < 0 {
			p.jumpIf(bpf.JumpEqual, 0, refuse, accept)
			return
		}
		p.jumpIf(bpf.JumpEqual, 0, refuse, tagged)
		p.mark(tagged)
		p.add(bpf.LoadExtension{Num: bpf.ExtVLANTag})
		p.add(bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfff})
		p.jumpIf(bpf.JumpEqual, uint32(id), accept, refuse)
	}}
}

// VXLAN accepts VXLAN packets to a UDP port, over IPv4 or IPv6, of one network
// identifier or, if it is negative, of any.
func VXLAN(port uint16, vni int) Filter {
	name := "vxlan"
	if vni >= 0 {
		name = fmt.Sprintf("vxlan %d", vni)
	}
	return Filter{name, func(p *program, accept, refuse label) {
		is := p.label()
		Port(protoUDP, Destination, port).emit(p, is, refuse)
		p.mark(is)
		if vni < 0 {
			p.add(bpf.LoadConstant{Val: 0})
			p.jumpIf(bpf.JumpEqual, 0, accept, accept)
			return
		}
		v4, v6 := p.label(), p.label()
		p.ether(etherIPv4, v4, v6)
		p.mark(v4)
		p.add(bpf.LoadMemShift{Off: p.base + 14})
		p.add(bpf.LoadIndirect{Off: p.base + 26, Size: 4})
		p.vni(vni, accept, refuse)
		p.mark(v6)
		p.load(66, 4)
		p.vni(vni, accept, refuse)
	}}
}

// vni tests the word that ends a VXLAN header.
func (p *program) vni(vni int, accept, refuse label) {
	p.add(bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 8})
	p.jumpIf(bpf.JumpEqual, uint32(vni), accept, refuse)
}

// Inner accepts VXLAN packets to a UDP port whose inner frame a filter accepts.
// The outer packet is IPv4 without options, or IPv6 without further headers, as
// the kernel sends them.
func Inner(port uint16, f Filter) Filter {
	if f.emit == nil {
		return VXLAN(port, -1)
	}
	return Filter{fmt.Sprintf("inner (%s)", f), func(p *program, accept, refuse label) {
		const vxlan4, vxlan6 = 14 + 20 + 8 + 8, 14 + 40 + 8 + 8
		is, v4, plain, v6 := p.label(), p.label(), p.label(), p.label()
		VXLAN(port, -1).emit(p, is, refuse)
		p.mark(is)
		p.ether(etherIPv4, v4, v6)
		p.mark(v4)
		p.load(14, 1)
		p.jumpIf(bpf.JumpEqual, 0x45, plain, refuse)
		p.mark(plain)
		p.at(vxlan4, func() { f.emit(p, accept, refuse) })
		p.mark(v6)
		p.at(vxlan6, func() { f.emit(p, accept, refuse) })
	}}
}

// at emits code for a frame that begins at an offset in the present one.
func (p *program) at(offset uint32, emit func()) {
	p.base += offset
	emit()
	p.base -= offset
}

// load loads bytes of the frame.
func (p *program) load(at uint32, size int) {
	p.add(bpf.LoadAbsolute{Off: p.base + at, Size: size})
}

// ether tests the Ethernet protocol.
func (p *program) ether(typ uint32, accept, refuse label) {
	p.load(12, 2)
	p.jumpIf(bpf.JumpEqual, typ, accept, refuse)
}

// transport goes on if the byte at an offset is a protocol number, or, for 0,
// that of TCP or UDP.
func (p *program) transport(at uint32, protocol uint8, refuse label) {
	on := p.label()
	p.load(at, 1)
	if protocol != 0 {
		p.jumpIf(bpf.JumpEqual, uint32(protocol), on, refuse)
	} else {
		udp := p.label()
		p.jumpIf(bpf.JumpEqual, protoTCP, on, udp)
		p.mark(udp)
		p.jumpIf(bpf.JumpEqual, protoUDP, on, refuse)
	}
	p.mark(on)
}
