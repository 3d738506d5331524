package capture

import (
	"encoding/binary"
	"fmt"
)

// The types of WireGuard's messages (https://www.wireguard.com/protocol/).
const (
	wgInitiation = 1
	wgResponse   = 2
	wgCookie     = 3
	wgData       = 4
	// wgEmpty is the length in bytes of a data message without data.
	wgEmpty = 32
)

// WireGuard is what can be seen of a message without its keys.
type WireGuard struct {
	Type uint8
	// Reserved holds 24 bits that are zero on a conforming wire.
	Reserved uint32
	// Length in bytes is that of the datagram, which may hold several messages
	// of one length where the kernel is to segment it.
	Length int
}

// WireGuard reads the packet's datagram as a WireGuard message; false where
// there is none, or one that is too short.
func (p *Packet) WireGuard() (WireGuard, bool) {
	if !p.Has(LayerUDP) || p.IP.Offset != 0 || len(p.Payload) < 4 {
		return WireGuard{}, false
	}
	return WireGuard{
		Type: p.Payload[0], Reserved: binary.LittleEndian.Uint32(p.Payload) >> 8, Length: int(p.UDP.Length) - 8,
	}, true
}

// Valid reports whether the type is one of the protocol's, the length that of
// its type, and the reserved bits zero.
func (m WireGuard) Valid() bool {
	if m.Reserved != 0 {
		return false
	}
	switch m.Type {
	case wgInitiation:
		return m.Length == 148
	case wgResponse:
		return m.Length == 92
	case wgCookie:
		return m.Length == 64
	case wgData: // padded to 16 bytes, unless the device's MTU is in the way
		return m.Length >= wgEmpty
	}
	return false
}

// Carries reports whether the message carries a packet: a keepalive is a data
// message without one.
func (m WireGuard) Carries() bool { return m.Valid() && m.Type == wgData && m.Length > wgEmpty }

func (m WireGuard) String() string {
	name, ok := map[uint8]string{wgInitiation: "initiation", wgResponse: "response", wgCookie: "cookie", wgData: "data"}[m.Type]
	switch {
	case !ok:
		name = fmt.Sprintf("type %d", m.Type)
	case m.Type == wgData && m.Length == wgEmpty:
		name = "keepalive"
	}
	s := fmt.Sprintf("WireGuard %s, length %d", name, m.Length)
	if m.Reserved != 0 {
		s += fmt.Sprintf(", reserved 0x%06x", m.Reserved)
	}
	return s
}
