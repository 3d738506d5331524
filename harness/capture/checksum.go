package capture

import "encoding/binary"

// Checksum says what a UDP checksum is.
type Checksum string

// What a checksum can be.
const (
	// ChecksumNone is zero: the sender computed none (RFC 768).
	ChecksumNone  Checksum = "none"
	ChecksumValid Checksum = "valid"
	ChecksumWrong Checksum = "wrong"
	// ChecksumPending was left to hardware that is not there.
	ChecksumPending Checksum = "pending"
	// ChecksumUnknown is that of what is no whole UDP packet.
	ChecksumUnknown Checksum = "unknown"
)

// UDPChecksum judges the checksum of the frame's outermost UDP header over the
// pseudo-header of RFC 768, or of RFC 8200, section 8.1, whose sum is made alike.
func (f *Frame) UDPChecksum() Checksum {
	p := f.Decode(0)
	if !p.Has(LayerUDP) || p.IP.MF || p.IP.Offset != 0 {
		return ChecksumUnknown
	}
	if f.ChecksumNotReady {
		return ChecksumPending
	}
	if p.UDP.Checksum == 0 {
		return ChecksumNone
	}
	if len(p.Payload)+8 < int(p.UDP.Length) || p.UDP.Length < 8 {
		return ChecksumUnknown // cut short by the capture
	}
	sum := add(0, p.IP.Src.AsSlice())
	sum = add(sum, p.IP.Dst.AsSlice())
	sum += protoUDP + uint32(p.UDP.Length)
	sum += uint32(p.UDP.Src) + uint32(p.UDP.Dst) + uint32(p.UDP.Length) + uint32(p.UDP.Checksum)
	sum = add(sum, p.Payload[:p.UDP.Length-8])
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0xffff {
		return ChecksumValid
	}
	return ChecksumWrong
}

// add adds 16-bit words to a sum; an odd byte at the end counts as a high one.
func add(sum uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}
