package capture

import (
	"encoding/binary"
	"net/netip"

	"github.com/overlab/overlab/topology"
)

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherVLAN = 0x8100
	etherQinQ = 0x88a8
	etherIPv6 = 0x86dd

	protoICMP = 1
	protoIPIP = 4
	protoTCP  = 6
	protoUDP  = 17

	protoIPv6Fragment = 44
	protoICMPv6       = 58
)

// Layer is a set of the headers that were found.
type Layer uint16

// The layers that Decode knows.
const (
	LayerEthernet Layer = 1 << iota
	LayerVLAN
	LayerARP
	LayerIPv4
	LayerUDP
	LayerTCP
	LayerICMP
	LayerVXLAN
	LayerIPIP
	// LayerRawIP is an IPv4 packet that is the whole of a UDP datagram, as
	// flannel's udp backend sends it.
	LayerRawIP
	LayerIPv6
	LayerICMPv6
)

// A Packet is a decoded frame. Where it holds VXLAN, IP in IP or IP in UDP,
// Headers are the outer ones and Inner is what the tunnel carries.
type Packet struct {
	Headers
	VXLAN VXLAN
	Inner Headers
}

// Encapsulated reports whether a VXLAN header was decoded.
func (p *Packet) Encapsulated() bool { return p.Has(LayerVXLAN) }

// Tunnelled reports whether the packet carries another, in VXLAN, in IP or in
// UDP.
func (p *Packet) Tunnelled() bool {
	return p.Encapsulated() || p.Has(LayerIPIP) || p.Has(LayerRawIP)
}

// Innermost returns the inner headers of a tunnelled packet, and the only ones
// of any other.
func (p *Packet) Innermost() *Headers {
	if p.Tunnelled() {
		return &p.Inner
	}
	return &p.Headers
}

// Headers are the headers from one Ethernet header up to its payload. Only
// the fields of layers that are present mean anything.
type Headers struct {
	Layers Layer
	Eth    Ethernet
	ARP    ARP
	IP     IP
	UDP    UDP
	TCP    TCP
	ICMP   ICMP
	// Payload is what follows the last decoded header; it aliases the frame.
	Payload []byte
}

// Has reports whether all the layers are present.
func (h *Headers) Has(l Layer) bool { return h.Layers&l == l }

// IsIP reports whether there is a packet of either version.
func (h *Headers) IsIP() bool { return h.Has(LayerIPv4) || h.Has(LayerIPv6) }

// IsICMP reports whether there is a message of either version.
func (h *Headers) IsICMP() bool { return h.Has(LayerICMP) || h.Has(LayerICMPv6) }

// IsEchoReply reports whether there is an echo's reply, of either version.
func (h *Headers) IsEchoReply() bool {
	return h.Has(LayerICMP) && h.ICMP.Type == 0 || h.Has(LayerICMPv6) && h.ICMP.Type == 129
}

// Ethernet is an Ethernet header. Type is that behind a VLAN tag.
type Ethernet struct {
	Dst, Src topology.MAC
	Type     uint16
	// VLAN is the tag control information, TagType its EtherType, where the
	// tag is in the frame itself.
	VLAN, TagType uint16
}

// ARP is an ARP packet for IPv4 over Ethernet.
type ARP struct {
	// Op is 1 for a request, 2 for a reply.
	Op                   uint16
	SenderMAC, TargetMAC topology.MAC
	SenderIP, TargetIP   netip.Addr
}

// IP is an IPv4 header (LayerIPv4), or an IPv6 header (LayerIPv6) with a
// fragment header where there is one. ID and DF are IPv4's alone.
type IP struct {
	// TOS is IPv6's traffic class, TTL its hop limit, Protocol its next header.
	TOS, TTL, Protocol uint8
	// Length is the total length in bytes, HeaderLen that of the header.
	Length, HeaderLen int
	ID                uint16
	DF, MF            bool
	// Offset of a fragment in bytes.
	Offset   int
	Src, Dst netip.Addr
}

// UDP is a UDP header. Length in bytes includes the header.
type UDP struct {
	Src, Dst, Length, Checksum uint16
}

// TCP is the start of a TCP header.
type TCP struct {
	Src, Dst uint16
	Seq, Ack uint32
	Flags    uint8
	// MSS is the maximum segment size in bytes that the header announces (RFC
	// 9293 section 3.7.1), 0 for none.
	MSS uint16
}

// Flags of a TCP header.
const (
	SYN = 0x02
	ACK = 0x10
)

// ICMP is an ICMP header, or one of ICMPv6 (LayerICMPv6); ID and Seq are those
// of an echo, MTU that of a "fragmentation needed" (RFC 1191), or of a "packet
// too big" (RFC 4443 section 3.2), of which no more than 65535 is kept.
type ICMP struct {
	Type, Code   uint8
	ID, Seq, MTU uint16
}

// VXLAN is the header of RFC 7348 section 5. Reserved holds its 24 and 8
// reserved bits, in that order; both are zero on a conforming wire.
type VXLAN struct {
	Flags     uint8
	VNI       uint32
	Reserved1 uint32
	Reserved2 uint8
}

// Decode reads an Ethernet frame. A UDP datagram to vxlanPort is taken for
// VXLAN, and one to any port for an IPv4 packet if it is exactly one. It never
// fails: what is cut short or unknown ends in Payload.
func Decode(frame []byte, vxlanPort uint16) Packet {
	var p Packet
	p.decode(frame)
	if p.Has(LayerUDP) && p.IP.Offset == 0 && isIPv4(p.Payload) {
		p.Layers |= LayerRawIP
		p.Inner.Payload = p.Payload
		p.Inner.decodeIPv4(p.Payload)
		return p
	}
	if p.Has(LayerUDP) && p.IP.Offset == 0 && p.UDP.Dst == vxlanPort && len(p.Payload) >= 8 {
		b := p.Payload
		p.VXLAN = VXLAN{
			Flags:     b[0],
			Reserved1: binary.BigEndian.Uint32(b) & 0xffffff,
			VNI:       binary.BigEndian.Uint32(b[4:]) >> 8,
			Reserved2: b[7],
		}
		p.Layers |= LayerVXLAN
		p.Inner.decode(b[8:])
	}
	if p.Has(LayerIPv4) && p.IP.Offset == 0 && p.IP.Protocol == protoIPIP { // RFC 2003
		p.Layers |= LayerIPIP
		p.Inner.Payload = p.Payload
		p.Inner.decodeIPv4(p.Payload)
	}
	return p
}

// isIPv4 reports whether b is one IPv4 packet, no more and no less, whose
// header has the right checksum.
func isIPv4(b []byte) bool {
	if len(b) < 20 || b[0]>>4 != 4 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return false
	}
	size := int(b[0]&15) * 4
	if size < 20 || size > len(b) {
		return false
	}
	var sum uint32
	for i := 0; i < size; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	return sum%0xffff == 0 && sum != 0
}

func (h *Headers) decode(b []byte) {
	h.Payload = b
	if len(b) < 14 {
		return
	}
	h.Eth = Ethernet{Dst: topology.MAC(b[:6]), Src: topology.MAC(b[6:12]), Type: binary.BigEndian.Uint16(b[12:])}
	h.Layers |= LayerEthernet
	b = b[14:]
	if (h.Eth.Type == etherVLAN || h.Eth.Type == etherQinQ) && len(b) >= 4 {
		h.Eth.TagType = h.Eth.Type
		h.Eth.VLAN, h.Eth.Type = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		h.Layers |= LayerVLAN
		b = b[4:]
	}
	h.Payload = b
	switch h.Eth.Type {
	case etherIPv4:
		h.decodeIPv4(b)
	case etherIPv6:
		h.decodeIPv6(b)
	case etherARP:
		h.decodeARP(b)
	}
}

func (h *Headers) decodeARP(b []byte) {
	if len(b) < 28 {
		return
	}
	h.ARP = ARP{
		Op:        binary.BigEndian.Uint16(b[6:]),
		SenderMAC: topology.MAC(b[8:14]), SenderIP: netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: topology.MAC(b[18:24]), TargetIP: netip.AddrFrom4([4]byte(b[24:28])),
	}
	h.Layers |= LayerARP
	h.Payload = b[28:]
}

func (h *Headers) decodeIPv4(b []byte) {
	if len(b) < 20 || b[0]>>4 != 4 {
		return
	}
	size := int(b[0]&15) * 4
	if size < 20 || size > len(b) {
		return
	}
	frag := binary.BigEndian.Uint16(b[6:])
	h.IP = IP{
		TOS: b[1], TTL: b[8], Protocol: b[9],
		Length: int(binary.BigEndian.Uint16(b[2:])), HeaderLen: size,
		ID: binary.BigEndian.Uint16(b[4:]),
		DF: frag&0x4000 != 0, MF: frag&0x2000 != 0, Offset: int(frag&0x1fff) * 8,
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
	}
	h.Layers |= LayerIPv4
	// What is behind the packet's own end pads the frame to 60 bytes.
	if h.IP.Length >= size && h.IP.Length < len(b) {
		b = b[:h.IP.Length]
	}
	h.decodeTransport(b[size:])
}

// decodeIPv6 reads the header of RFC 8200. Of the extension headers it knows
// the fragment header; what is behind another is payload.
func (h *Headers) decodeIPv6(b []byte) {
	const size, fragment = 40, 8
	if len(b) < size || b[0]>>4 != 6 {
		return
	}
	h.IP = IP{
		TOS: b[0]<<4 | b[1]>>4, TTL: b[7], Protocol: b[6],
		Length: size + int(binary.BigEndian.Uint16(b[4:])), HeaderLen: size,
		Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
	}
	h.Layers |= LayerIPv6
	if h.IP.Length < len(b) {
		b = b[:h.IP.Length]
	}
	if b = b[size:]; h.IP.Protocol == protoIPv6Fragment && len(b) >= fragment {
		at := binary.BigEndian.Uint16(b[2:])
		h.IP.Protocol, h.IP.Offset, h.IP.MF = b[0], int(at&^7), at&1 != 0
		h.IP.HeaderLen += fragment
		b = b[fragment:]
	}
	h.decodeTransport(b)
}

// decodeTransport reads what an IP packet carries.
func (h *Headers) decodeTransport(b []byte) {
	h.Payload = b
	if h.IP.Offset != 0 {
		return
	}
	switch {
	case h.IP.Protocol == protoUDP && len(b) >= 8:
		h.UDP = UDP{
			Src: binary.BigEndian.Uint16(b), Dst: binary.BigEndian.Uint16(b[2:]),
			Length: binary.BigEndian.Uint16(b[4:]), Checksum: binary.BigEndian.Uint16(b[6:]),
		}
		h.Layers |= LayerUDP
		h.Payload = b[8:]
	case h.IP.Protocol == protoTCP && len(b) >= 20:
		h.TCP = TCP{
			Src: binary.BigEndian.Uint16(b), Dst: binary.BigEndian.Uint16(b[2:]),
			Seq: binary.BigEndian.Uint32(b[4:]), Ack: binary.BigEndian.Uint32(b[8:]), Flags: b[13],
		}
		h.Layers |= LayerTCP
		if size := int(b[12]>>4) * 4; size >= 20 && size <= len(b) {
			h.TCP.MSS = maximumSegment(b[20:size])
			h.Payload = b[size:]
		}
	case h.Has(LayerIPv6) && h.IP.Protocol == protoICMPv6 && len(b) >= 8:
		h.ICMP = ICMP{Type: b[0], Code: b[1]}
		switch b[0] {
		case 128, 129:
			h.ICMP.ID, h.ICMP.Seq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		case 2:
			h.ICMP.MTU = uint16(min(binary.BigEndian.Uint32(b[4:]), 65535))
		}
		h.Layers |= LayerICMPv6
		h.Payload = b[8:]
	case h.Has(LayerIPv4) && h.IP.Protocol == protoICMP && len(b) >= 8:
		h.ICMP = ICMP{Type: b[0], Code: b[1]}
		switch {
		case b[0] == 0 || b[0] == 8:
			h.ICMP.ID, h.ICMP.Seq = binary.BigEndian.Uint16(b[4:]), binary.BigEndian.Uint16(b[6:])
		case b[0] == 3 && b[1] == 4:
			h.ICMP.MTU = binary.BigEndian.Uint16(b[6:])
		}
		h.Layers |= LayerICMP
		h.Payload = b[8:]
	}
}

// maximumSegment finds the MSS among the options of a TCP header.
func maximumSegment(options []byte) uint16 {
	const end, padding, mss = 0, 1, 2
	for len(options) > 0 && options[0] != end {
		if options[0] == padding {
			options = options[1:]
			continue
		}
		if len(options) < 2 || options[1] < 2 || int(options[1]) > len(options) {
			return 0
		}
		if options[0] == mss && options[1] == 4 {
			return binary.BigEndian.Uint16(options[2:])
		}
		options = options[options[1]:]
	}
	return 0
}
