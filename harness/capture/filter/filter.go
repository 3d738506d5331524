// Package filter builds the kernel's packet filters (classic BPF) from small
// parts, without libpcap.
package filter

import (
	"errors"
	"fmt"

	"golang.org/x/net/bpf"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd

	protoICMP   = 1
	protoIPIP   = 4
	protoTCP    = 6
	protoUDP    = 17
	protoESP    = 50
	protoICMPv6 = 58
)

// A Filter decides in the kernel which frames a tap sees. The zero Filter is
// All. Filters read what is in the frame: a VLAN tag that the kernel keeps
// beside the frame does not disturb them.
type Filter struct {
	name string
	// emit writes code that goes on at accept or at refuse; nil accepts.
	emit func(p *program, accept, refuse label)
}

// String returns the filter in words close to pcap-filter(7).
func (f Filter) String() string {
	if f.emit == nil {
		return "all"
	}
	return f.name
}

// All accepts every frame.
func All() Filter { return Filter{} }

// EtherType accepts the frames of one Ethernet protocol, as 0x0806 for ARP.
func EtherType(typ uint16) Filter {
	return Filter{fmt.Sprintf("ether proto 0x%04x", typ), func(p *program, accept, refuse label) {
		p.load(12, 2)
		p.jumpIf(bpf.JumpEqual, uint32(typ), accept, refuse)
	}}
}

// Protocol accepts IPv4 packets and fragments of one protocol number.
func Protocol(number uint8) Filter {
	return Filter{fmt.Sprintf("ip proto %d", number), func(p *program, accept, refuse label) {
		p.emitProtocol(number, accept, refuse)
	}}
}

// NextHeader accepts IPv6 packets whose first header behind IPv6's own is of
// this protocol number; fragments have another there.
func NextHeader(number uint8) Filter {
	return Filter{fmt.Sprintf("ip6 proto %d", number), func(p *program, accept, refuse label) {
		p.emitNumber(etherIPv6, 20, number, accept, refuse)
	}}
}

// UDP6 accepts IPv6 UDP packets.
func UDP6() Filter { return named("udp6", NextHeader(protoUDP)) }

// ICMPv6 accepts ICMPv6 packets.
func ICMPv6() Filter { return named("icmp6", NextHeader(protoICMPv6)) }

// UDP accepts IPv4 UDP packets, fragments of them too.
func UDP() Filter { return named("udp", Protocol(protoUDP)) }

// TCP accepts IPv4 TCP packets, fragments of them too.
func TCP() Filter { return named("tcp", Protocol(protoTCP)) }

// ICMP accepts IPv4 ICMP packets, fragments of them too.
func ICMP() Filter { return named("icmp", Protocol(protoICMP)) }

// UDPPort accepts IPv4 UDP packets from or to a port; of a fragmented packet
// the first fragment only, as the others hold no port.
func UDPPort(port uint16) Filter {
	return Filter{fmt.Sprintf("udp port %d", port), func(p *program, accept, refuse label) {
		udp, first, other := p.label(), p.label(), p.label()
		p.emitProtocol(protoUDP, udp, refuse)
		p.mark(udp)
		p.load(20, 2)
		p.jumpIf(bpf.JumpBitsSet, 0x1fff, refuse, first)
		p.mark(first)
		p.add(bpf.LoadMemShift{Off: p.base + 14})
		p.add(bpf.LoadIndirect{Off: p.base + 14, Size: 2})
		p.jumpIf(bpf.JumpEqual, uint32(port), accept, other)
		p.mark(other)
		p.add(bpf.LoadIndirect{Off: p.base + 16, Size: 2})
		p.jumpIf(bpf.JumpEqual, uint32(port), accept, refuse)
	}}
}

// Or accepts what either filter accepts.
func (f Filter) Or(g Filter) Filter {
	if f.emit == nil || g.emit == nil {
		return All()
	}
	return Filter{fmt.Sprintf("(%s or %s)", f, g), func(p *program, accept, refuse label) {
		next := p.label()
		f.emit(p, accept, next)
		p.mark(next)
		g.emit(p, accept, refuse)
	}}
}

// And accepts what both filters accept.
func (f Filter) And(g Filter) Filter {
	switch {
	case f.emit == nil:
		return g
	case g.emit == nil:
		return f
	}
	return Filter{fmt.Sprintf("(%s and %s)", f, g), func(p *program, accept, refuse label) {
		next := p.label()
		f.emit(p, next, refuse)
		p.mark(next)
		g.emit(p, accept, refuse)
	}}
}

func named(name string, f Filter) Filter { return Filter{name, f.emit} }

// Assemble returns the program, which keeps at most snap bytes of a frame.
// The error is of a filter that is too long.
func (f Filter) Assemble(snap uint32) ([]bpf.RawInstruction, error) {
	p := new(program)
	accept, refuse := p.label(), p.label()
	if f.emit != nil {
		f.emit(p, accept, refuse)
	}
	p.mark(accept)
	p.add(bpf.RetConstant{Val: snap})
	p.mark(refuse)
	p.add(bpf.RetConstant{Val: 0})
	return p.assemble()
}

// A label is a place in a program that is not known yet.
type label int

// program collects instructions whose jumps are resolved at the end.
type program struct {
	code   []bpf.Instruction
	jumps  map[int][2]label
	places []int
	// base is where the frame that is looked at begins.
	base uint32
}

func (p *program) label() label {
	p.places = append(p.places, -1)
	return label(len(p.places) - 1)
}

func (p *program) mark(l label) { p.places[l] = len(p.code) }

func (p *program) add(i bpf.Instruction) { p.code = append(p.code, i) }

func (p *program) jumpIf(cond bpf.JumpTest, val uint32, yes, no label) {
	if p.jumps == nil {
		p.jumps = map[int][2]label{}
	}
	p.jumps[len(p.code)] = [2]label{yes, no}
	p.add(bpf.JumpIf{Cond: cond, Val: val})
}

func (p *program) emitProtocol(number uint8, accept, refuse label) {
	p.emitNumber(etherIPv4, 23, number, accept, refuse)
}

// emitNumber accepts packets of an Ethernet protocol that have the number at an
// offset in bytes.
func (p *program) emitNumber(ether, at uint32, number uint8, accept, refuse label) {
	ip := p.label()
	p.load(12, 2)
	p.jumpIf(bpf.JumpEqual, ether, ip, refuse)
	p.mark(ip)
	p.load(at, 1)
	p.jumpIf(bpf.JumpEqual, uint32(number), accept, refuse)
}

func (p *program) assemble() ([]bpf.RawInstruction, error) {
	for at, to := range p.jumps {
		yes, no := p.places[to[0]]-at-1, p.places[to[1]]-at-1
		if yes > 255 || no > 255 {
			return nil, errors.New("the filter is too long: a jump spans more than 255 instructions")
		}
		j := p.code[at].(bpf.JumpIf)
		j.SkipTrue, j.SkipFalse = uint8(yes), uint8(no)
		p.code[at] = j
	}
	return bpf.Assemble(p.code)
}
