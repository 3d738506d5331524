// Package frame builds Ethernet frames byte by byte, right or wrong on
// purpose, for probes that no socket would send. It computes checksums and
// lengths; everything else is as the caller says.
package frame

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/uuid"

	"github.com/overlab/overlab/topology"
)

// EtherTypes and IP protocols.
const (
	TypeIPv4 = 0x0800

	protoICMP = 1
	protoUDP  = 17
)

// Ethernet returns a frame of an EtherType, untagged and without padding.
func Ethernet(dst, src topology.MAC, etherType uint16, payload []byte) []byte {
	b := append(append(make([]byte, 0, 14+len(payload)), dst[:]...), src[:]...)
	return append(binary.BigEndian.AppendUint16(b, etherType), payload...)
}

// IPv4 is the header of RFC 791 without options.
type IPv4 struct {
	Src, Dst netip.Addr
	// TTL is 64 where zero.
	TTL uint8
	DF  bool
}

// initialTTL is Linux's.
const initialTTL = 64

// packet returns the packet with its payload, which is of a protocol.
func (h IPv4) packet(protocol uint8, payload []byte) []byte {
	if h.TTL == 0 {
		h.TTL = initialTTL
	}
	b := make([]byte, 20, 20+len(payload))
	b[0], b[8], b[9] = 0x45, h.TTL, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	if h.DF {
		b[6] = 0x40
	}
	src, dst := h.Src.As4(), h.Dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

// UDP returns a UDP packet without a checksum, which IPv4 allows (RFC 768).
func (h IPv4) UDP(src, dst uint16, payload []byte) []byte {
	b := make([]byte, 8, 8+len(payload))
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
	return h.packet(protoUDP, append(b, payload...))
}

// Silent returns a packet that its receiver ignores: an ICMP echo reply that
// nobody waits for, with an identifier by which a capture finds it.
func (h IPv4) Silent(id uuid.UUID) []byte {
	b := make([]byte, 8, 8+len(id))
	binary.BigEndian.PutUint16(b[4:], 0xffff)
	b = append(b, id[:]...)
	binary.BigEndian.PutUint16(b[2:], checksum(b))
	return h.packet(protoICMP, b)
}

// VXLAN is the header of RFC 7348 section 5. The I flag is 0x08; Reserved holds
// the 24 bits behind the flags and Reserved2 the last 8.
type VXLAN struct {
	Flags               uint8
	VNI                 uint32
	Reserved, Reserved2 uint32
}

// Wrap returns the header with the inner frame behind it: a UDP payload.
func (h VXLAN) Wrap(inner []byte) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 8+len(inner)), uint32(h.Flags)<<24|h.Reserved&0xffffff)
	b = binary.BigEndian.AppendUint32(b, h.VNI<<8|h.Reserved2&0xff)
	return append(b, inner...)
}

// checksum is the Internet checksum of RFC 1071, over a field of zero.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
