package lease

import (
	"errors"
	"fmt"
	"net/netip"
)

// Range is a network that is cut into the nodes' subnets.
type Range struct {
	Network netip.Prefix
	// Len is the prefix length of a node's subnet; Min and Max are the network
	// addresses of the first and the last.
	Len      int
	Min, Max netip.Addr
}

// allows reports whether the subnet is one that Allocate could choose.
func (r Range) allows(p netip.Prefix) bool {
	return p.IsValid() && p.Bits() == r.Len && p.Masked() == p && r.Network.Contains(p.Addr()) &&
		!p.Addr().Less(r.Min) && !r.Max.Less(p.Addr())
}

// free returns the first subnets that are not taken, at most n.
func (r Range) free(taken occupied, n int) []netip.Prefix {
	var out []netip.Prefix
	for a, ok := r.Min, true; ok && !r.Max.Less(a) && len(out) < n; a, ok = following(a, r.Len) {
		p := netip.PrefixFrom(a, r.Len)
		if _, found := taken.overlapping(p); !found {
			out = append(out, p)
		}
	}
	return out
}

// following returns the address of the next subnet of that length, and whether
// there is one.
func following(a netip.Addr, length int) (netip.Addr, bool) {
	b := a.AsSlice()
	carry := uint(1) << ((8 - length%8) % 8)
	for i := (length - 1) / 8; i >= 0 && carry > 0; i-- {
		sum := uint(b[i]) + carry
		b[i], carry = byte(sum), sum>>8
	}
	next, _ := netip.AddrFromSlice(b)
	return next, carry == 0
}

// last returns the address of the last subnet of that length in a network.
func last(network netip.Prefix, length int) netip.Addr {
	b := network.Masked().Addr().AsSlice()
	for i := network.Bits(); i < length; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// rules are what flannel calls the keys of one family, and the numbers that it
// puts there (pkg/subnet/config.go).
type rules struct {
	family Family
	// prefix is that of the keys' names.
	prefix, example string
	// longest is the longest subnet, smallest the longest network that needs no
	// SubnetLen, usual the SubnetLen of a wide one.
	longest, smallest, usual int
}

var (
	rules4 = rules{IPv4, "", "10.244.0.0/16", 30, 28, 24}
	rules6 = rules{IPv6, "IPv6", "fd00:10:244::/48", 126, 124, 64}
)

// keys are what a configuration says of one family.
type keys struct {
	network, low, high string
	length             int
}

// read fills and checks a range by flannel's rules.
func (f rules) read(in keys) (Range, error) {
	if in.network == "" {
		return Range{}, fmt.Errorf("field %sNetwork is missing: an %s network, such as %s", f.prefix, f.family, f.example)
	}
	network, err := netip.ParsePrefix(in.network)
	if err != nil || !f.family.Has(network.Addr()) {
		return Range{}, fmt.Errorf("field %sNetwork %q is not an %s network, such as %s", f.prefix, in.network, f.family, f.example)
	}
	r := Range{Network: network.Masked()}
	if r.Len, err = f.length(in.length, r.Network); err != nil {
		return Range{}, err
	}
	// The first subnet is left out: its address is that of the network.
	r.Min, _ = following(r.Network.Addr(), r.Len)
	r.Max = last(r.Network, r.Len)
	errs := []error{f.bound("SubnetMin", in.low, r, &r.Min), f.bound("SubnetMax", in.high, r, &r.Max)}
	if r.Max.Less(r.Min) {
		errs = append(errs, fmt.Errorf("%[1]sSubnetMin %[2]s is above %[1]sSubnetMax %[3]s: no subnet is left", f.prefix, r.Min, r.Max))
	}
	return r, errors.Join(errs...)
}

// length returns the prefix length of the nodes' subnets.
func (f rules) length(asked int, network netip.Prefix) (int, error) {
	bits := network.Bits()
	switch {
	case asked > f.longest:
		return 0, fmt.Errorf("%[1]sSubnetLen %[2]d: %[1]sSubnetLen must be less than /%[3]d", f.prefix, asked, f.longest+1)
	case asked > 0 && asked < bits+2, asked < 0:
		return 0, fmt.Errorf("%sSubnetLen %d: network %s must be able to accommodate at least four subnets", f.prefix, asked, network)
	case asked > 0:
		return asked, nil
	case bits > f.smallest:
		return 0, fmt.Errorf("network %s is too small. Minimum useful network prefix is /%d", network, f.smallest)
	case bits <= f.usual-2:
		return f.usual, nil
	}
	return bits + 2, nil
}

// bound reads SubnetMin or SubnetMax, if given.
func (f rules) bound(name, value string, r Range, out *netip.Addr) error {
	if value == "" {
		return nil
	}
	name = f.prefix + name
	a, err := netip.ParseAddr(value)
	switch {
	case err != nil || !f.family.Has(a):
		return fmt.Errorf("%s %q is not an %s address", name, value, f.family)
	case !r.Network.Contains(a):
		return fmt.Errorf("%s is not in the range of the Network: %s is outside %s", name, a, r.Network)
	case netip.PrefixFrom(a, r.Len).Masked().Addr() != a:
		return fmt.Errorf("%s is not on a SubnetLen boundary: %s", name, a)
	}
	*out = a
	return nil
}
