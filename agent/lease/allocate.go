package lease

import (
	"fmt"
	"net/netip"
)

// candidates is among how many free subnets a node chooses: few enough to keep
// a network's subnets together, enough that nodes which start at once seldom
// choose the same. It is flannel's number.
const candidates = 100

// Own returns the lease that belongs to the node: the one of its Identity, and
// among several the previous key's, or else the first. stale are those of its
// Identity that the configuration no longer allows.
//
// The other family's address decides nothing, as in flannel: a node that gets
// another one keeps its subnets.
func Own(c Claim, leases []Lease) (own *Lease, stale []Lease) {
	for i, l := range leases {
		switch {
		case c.Config.Identity(l.Attrs) != c.Config.Identity(c.Attrs):
		case !c.Config.allows(l.Key):
			stale = append(stale, l)
		case own == nil || l.Key == c.Previous:
			own = &leases[i]
		}
	}
	return own, stale
}

// Allocate returns the keys that a node without a lease may try. Of each family
// of the network it is the previous subnet, if that is free and allowed, and
// else one of the first free ones from SubnetMin upwards. It reads the leases'
// keys only.
func Allocate(c Claim, leases []Lease) ([]Key, error) {
	families := c.Config.Families()
	choice := map[Family][]netip.Prefix{}
	for _, f := range families {
		r := c.Config.Range(f)
		taken := newOccupied(r.Len)
		for _, l := range leases {
			if p := l.Key.Of(f); p.IsValid() {
				taken.add(p)
			}
		}
		previous := c.Previous.Of(f)
		if _, found := taken.overlapping(previous); r.allows(previous) && !found {
			choice[f] = []netip.Prefix{previous}
			continue
		}
		choice[f] = r.free(taken, candidates)
		if len(choice[f]) == 0 {
			return nil, fmt.Errorf("out of subnets: every /%d from %s to %s is taken", r.Len, r.Min, r.Max)
		}
	}
	return pair(families, choice), nil
}

// pair makes keys of the families' subnets: the first with the first, and so
// on, so that two nodes with the same choice take the same key or none of the
// other's subnets. One that is alone, as a previous one is, goes with all.
func pair(families []Family, choice map[Family][]netip.Prefix) []Key {
	n := 1
	for _, f := range families {
		if some := len(choice[f]); some > 1 && (n == 1 || some < n) {
			n = some
		}
	}
	keys := make([]Key, n)
	for i := range keys {
		for _, f := range families {
			keys[i] = keys[i].with(f, choice[f][i%len(choice[f])])
		}
	}
	return keys
}
