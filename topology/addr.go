package topology

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// step returns a + n·2^shift, and whether that is still an address of the
// same family.
func step(a netip.Addr, n uint64, shift int) (netip.Addr, bool) {
	b := a.As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	addHi, addLo := n>>(64-min(shift, 64)), n<<shift
	if shift >= 64 {
		addHi, addLo = n<<(shift-64), 0
	}
	lo, carry := bits.Add64(lo, addLo, 0)
	hi, carry = bits.Add64(hi, addHi, carry)
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	out := netip.AddrFrom16(b)
	if a.Is4() {
		if !out.Is4In6() {
			return netip.Addr{}, false
		}
		out = out.Unmap()
	}
	return out, carry == 0
}

// last returns the highest address of a prefix: IPv4's broadcast address.
func last(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// lastSubnet returns the address of the highest subnet of a length.
func lastSubnet(network netip.Prefix, length int) netip.Addr {
	return netip.PrefixFrom(last(network), length).Masked().Addr()
}

// isHost reports whether an address of the prefix can be an interface's. The
// first is the network's (IPv6: the routers' anycast, RFC 4291 2.6.1), and
// IPv4's last is the broadcast; a prefix of two addresses has neither (RFC
// 3021, RFC 6164).
func isHost(p netip.Prefix, a netip.Addr) bool {
	switch p.Addr().BitLen() - p.Bits() {
	case 0, 1:
		return p.Contains(a)
	default:
		return p.Contains(a) && a != p.Masked().Addr() && (a.Is6() || a != last(p))
	}
}

// hosts returns how many addresses of a prefix can be interfaces', at most
// 2^30.
func hosts(p netip.Prefix) int {
	n := p.Addr().BitLen() - p.Bits()
	switch {
	case n <= 1:
		return 1 << n
	case n >= 30:
		return 1 << 30
	case p.Addr().Is4():
		return 1<<n - 2
	default:
		return 1<<n - 1
	}
}

// checkFamily files an error unless the address is of the family.
func (x *expansion) checkFamily(path string, a netip.Addr, is4 bool) bool {
	switch {
	case is4 && !a.Is4():
		x.add(path, "is %s, of IPv6; an IPv4 one belongs here", a)
	case !is4 && (!a.Is6() || a.Is4In6()):
		x.add(path, "is %s, of IPv4; an IPv6 one belongs here", a)
	default:
		return true
	}
	return false
}

// special names the range that a prefix overlaps and that no interface of a
// lab can have, or is empty.
func special(p netip.Prefix) string {
	for _, s := range []struct{ cidr, name string }{
		{"0.0.0.0/8", "this network, 0.0.0.0/8"},
		{"127.0.0.0/8", "loopback, 127.0.0.0/8"},
		{"224.0.0.0/4", "multicast, 224.0.0.0/4"},
		{"240.0.0.0/4", "the reserved 240.0.0.0/4"},
		{"::/8", "the reserved ::/8"},
		{"fe80::/10", "link-local, fe80::/10"},
		{"ff00::/8", "multicast, ff00::/8"},
	} {
		if netip.MustParsePrefix(s.cidr).Overlaps(p) {
			return s.name
		}
	}
	return ""
}
