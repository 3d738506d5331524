package lease

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Key is a lease's name: its subnets.
type Key struct {
	// Subnet is unset (0.0.0.0/0 in the store) for a node with IPv6 alone.
	Subnet netip.Prefix
	// Subnet6 is unset for a node with IPv4 alone.
	Subnet6 netip.Prefix
}

// Overlaps reports whether two keys have addresses of some family in common.
func (k Key) Overlaps(other Key) bool {
	return k.Subnet.Overlaps(other.Subnet) || k.Subnet6.Overlaps(other.Subnet6)
}

// String returns flannel's spelling: "10.244.1.0-24", and with two families
// "10.244.1.0-24&fd00:1::-64".
func (k Key) String() string {
	s := "0.0.0.0-0"
	if k.Subnet.IsValid() {
		s = spell(k.Subnet)
	}
	if k.Subnet6.IsValid() {
		s += "&" + spell(k.Subnet6)
	}
	return s
}

func spell(p netip.Prefix) string { return fmt.Sprintf("%s-%d", p.Addr(), p.Bits()) }

// ParseKey reads the spelling of String. Flannel's expression lets anything
// stand before the key; here the whole must be one.
func ParseKey(s string) (Key, error) {
	k, err := parseKey(s)
	if err != nil {
		return Key{}, fmt.Errorf("%q is not the key of a subnet: %w", s, err)
	}
	return k, nil
}

func parseKey(s string) (k Key, err error) {
	v4, v6, dual := strings.Cut(s, "&")
	if k.Subnet, err = parseSubnet(v4, netip.Addr.Is4, 31); err != nil {
		return Key{}, err
	}
	if dual {
		if k.Subnet6, err = parseSubnet(v6, netip.Addr.Is6, 127); err != nil {
			return Key{}, err
		}
	}
	if k.Subnet.Bits() == 0 {
		k.Subnet = netip.Prefix{}
		if !dual {
			return Key{}, errors.New("it covers every address")
		}
	}
	// One subnet must not be two keys: the agent writes and deletes by this
	// spelling, which is also the one that flannel writes.
	if k.String() != s {
		return Key{}, fmt.Errorf("its spelling is %s", k)
	}
	return k, nil
}

// parseSubnet reads "address-length"; longest is the greatest length that
// flannel takes.
func parseSubnet(s string, family func(netip.Addr) bool, longest int) (netip.Prefix, error) {
	a, n, ok := strings.Cut(s, "-")
	if !ok {
		return netip.Prefix{}, fmt.Errorf("no length behind %q", s)
	}
	addr, err := netip.ParseAddr(a)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !family(addr) {
		return netip.Prefix{}, fmt.Errorf("%s is of the wrong family", addr)
	}
	bits, err := strconv.ParseUint(n, 10, 8)
	if err != nil || int(bits) > longest {
		return netip.Prefix{}, fmt.Errorf("length %q is not a number up to %d", n, longest)
	}
	p := netip.PrefixFrom(addr, int(bits))
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%s has bits set behind its length; its subnet is %s", p, p.Masked())
	}
	return p, nil
}

// compareKeys orders leases by subnet.
func compareKeys(a, b Lease) int {
	return cmp.Or(
		a.Key.Subnet.Addr().Compare(b.Key.Subnet.Addr()), cmp.Compare(a.Key.Subnet.Bits(), b.Key.Subnet.Bits()),
		a.Key.Subnet6.Addr().Compare(b.Key.Subnet6.Addr()), cmp.Compare(a.Key.Subnet6.Bits(), b.Key.Subnet6.Bits()),
	)
}

// Sort orders leases by subnet.
func Sort(leases []Lease) { slices.SortFunc(leases, compareKeys) }
