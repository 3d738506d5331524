package relay

import (
	"encoding/binary"
	"math/bits"
)

// The Internet checksum (RFC 1071) is a sum in one's complement, which may be
// taken of words of any size and in the machine's own byte order, as long as it
// is stored in the same.

// sum adds b, whose first byte is even among those that are summed, to acc.
func sum(b []byte, acc uint64) uint64 {
	var carry uint64
	for len(b) >= 64 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[0:]), 0)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[24:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[32:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[40:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[48:]), carry)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b[56:]), carry)
		acc += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		acc, carry = bits.Add64(acc, binary.NativeEndian.Uint64(last[:]), 0)
		acc += carry
	}
	return acc
}

// fold makes 16 bits of a sum.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc>>16 + acc&0xffff)
}

// putSum stores 16 bits of a sum.
func putSum(b []byte, v uint16) { binary.NativeEndian.PutUint16(b, v) }

// pseudo is the sum of the pseudo-header of a transport protocol's checksum
// (RFC 9293 section 3.1) for a payload of n bytes of the IPv4 packet p.
func pseudo(p packet, n int) uint64 {
	tail := [4]byte{0, p[9], byte(n >> 8), byte(n)}
	return sum(tail[:], sum(p[12:20], 0))
}
