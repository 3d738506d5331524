package relay

import (
	"encoding/binary"
	"net/netip"
)

const (
	protoICMP = 1
	protoIPIP = 4
	protoTCP  = 6
	protoUDP  = 17

	ipv4HeaderLen = 20
)

// packet is a whole IPv4 packet: see parse.
type packet []byte

// parse cuts the IPv4 packet at the start of b to its length. It fails for
// anything else, and for one that is cut short.
func parse(b []byte) (packet, bool) {
	if len(b) < ipv4HeaderLen || b[0]>>4 != 4 {
		return nil, false
	}
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4HeaderLen || total < header || total > len(b) {
		return nil, false
	}
	return b[:total], true
}

func (p packet) headerLen() int { return int(p[0]&15) * 4 }

func (p packet) payload() []byte { return p[p.headerLen():] }

func (p packet) src() netip.Addr { return netip.AddrFrom4([4]byte(p[12:16])) }

func (p packet) dst() netip.Addr { return netip.AddrFrom4([4]byte(p[16:20])) }

func (p packet) ttl() byte { return p[8] }

func (p packet) dontFragment() bool { return p[6]&0x40 != 0 }

// fragment reports whether the packet is a piece of another, and laterOne
// whether it is not the first piece.
func (p packet) fragment() bool { return binary.BigEndian.Uint16(p[6:])&0x3fff != 0 }

func (p packet) laterFragment() bool { return binary.BigEndian.Uint16(p[6:])&0x1fff != 0 }

// hop takes one off the TTL, which must not be 0, and keeps the header's
// checksum true (RFC 1624, equation 3).
func (p packet) hop() {
	before := binary.NativeEndian.Uint16(p[8:])
	p[8]--
	after := binary.NativeEndian.Uint16(p[8:])
	check := binary.NativeEndian.Uint16(p[10:])
	putSum(p[10:], ^fold(uint64(^check)+uint64(^before)+uint64(after)))
}

// seal writes the header's checksum.
func (p packet) seal() {
	putSum(p[10:], 0)
	putSum(p[10:], ^fold(sum(p[:p.headerLen()], 0)))
}

// setLen writes the total length.
func (p packet) setLen() { binary.BigEndian.PutUint16(p[2:], uint16(len(p))) }
