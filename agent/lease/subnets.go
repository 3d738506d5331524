package lease

import (
	"fmt"
	"net/netip"
	"slices"
)

// Subnets are pieces of a network, no two of which overlap.
type Subnets struct {
	network netip.Prefix
	taken   occupied
}

// NewSubnets returns an empty set for the configuration's network of a family.
func NewSubnets(c *Config, f Family) *Subnets {
	r := c.Range(f)
	return &Subnets{network: r.Network, taken: newOccupied(r.Len)}
}

// Take enters a subnet. Its error says that it lies outside the Network, or
// overlaps one that was taken before.
func (s *Subnets) Take(p netip.Prefix) error {
	if p.Bits() < s.network.Bits() || !s.network.Contains(p.Addr()) {
		return fmt.Errorf("subnet %s is not inside the Network %s", p, s.network)
	}
	if other, found := s.taken.overlapping(p); found {
		return fmt.Errorf("subnet %s overlaps %s of another node", p, other)
	}
	s.taken.add(p)
	return nil
}

// OrdinaryFirst returns the leases in their order, but those whose subnet of a
// family has the configuration's length before all others: where two overlap,
// the other is what somebody wrote by hand.
func OrdinaryFirst(c *Config, f Family, leases []Lease) []Lease {
	length := c.Range(f).Len
	rank := func(l Lease) int {
		if l.Key.Of(f).Bits() == length {
			return 0
		}
		return 1
	}
	return slices.SortedStableFunc(slices.Values(leases), func(a, b Lease) int { return rank(a) - rank(b) })
}

// occupied are subnets of which most have one length.
type occupied struct {
	length   int
	ordinary map[netip.Prefix]bool
	odd      []netip.Prefix // of another length: compared one by one
}

func newOccupied(length int) occupied {
	return occupied{length: length, ordinary: map[netip.Prefix]bool{}}
}

func (o *occupied) add(p netip.Prefix) {
	if p.Bits() == o.length {
		o.ordinary[p] = true
	} else {
		o.odd = append(o.odd, p)
	}
}

// overlapping returns a subnet that p overlaps.
func (o *occupied) overlapping(p netip.Prefix) (netip.Prefix, bool) {
	if p.Bits() == o.length {
		if o.ordinary[p] {
			return p, true
		}
	} else {
		for other := range o.ordinary {
			if other.Overlaps(p) {
				return other, true
			}
		}
	}
	for _, other := range o.odd {
		if other.Overlaps(p) {
			return other, true
		}
	}
	return netip.Prefix{}, false
}
