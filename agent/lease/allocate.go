package lease

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// candidates is among how many free subnets a node chooses: few enough to keep
// a network's subnets together, enough that nodes which start at once seldom
// choose the same. It is flannel's number.
const candidates = 100

// Own returns the lease that belongs to the node: the one of its PublicIP,
// and among several the previous subnet's, or else the first. stale are those
// of its PublicIP that the configuration no longer allows.
func Own(c Claim, leases []Lease) (own *Lease, stale []Lease) {
	for i, l := range leases {
		switch {
		case l.Attrs.PublicIP != c.Attrs.PublicIP:
		case !c.Config.allows(l.Key.Subnet):
			stale = append(stale, l)
		case own == nil || l.Key.Subnet == c.Previous:
			own = &leases[i]
		}
	}
	return own, stale
}

// Allocate returns the subnets that a node without a lease may try: its
// previous one if that is free and allowed, and else the first free ones from
// SubnetMin upwards. It reads the leases' keys only.
func Allocate(c Claim, leases []Lease) ([]netip.Prefix, error) {
	taken := newOccupied(c.Config.SubnetLen)
	for _, l := range leases {
		if l.Key.Subnet.IsValid() {
			taken.add(l.Key.Subnet)
		}
	}
	free := func(p netip.Prefix) bool {
		_, found := taken.overlapping(p)
		return !found
	}
	if c.Config.allows(c.Previous) && free(c.Previous) {
		return []netip.Prefix{c.Previous}, nil
	}
	var out []netip.Prefix
	size := uint64(1) << (32 - c.Config.SubnetLen)
	last := toInt(c.Config.SubnetMax)
	for a := toInt(c.Config.SubnetMin); a <= last && len(out) < candidates; a += size {
		if p := netip.PrefixFrom(fromInt(a), c.Config.SubnetLen); free(p) {
			out = append(out, p)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("out of subnets: every /%d from %s to %s is taken",
			c.Config.SubnetLen, c.Config.SubnetMin, c.Config.SubnetMax)
	}
	return out, nil
}

// toInt and fromInt convert an IPv4 address; 64 bits leave room for the end of
// the address space.
func toInt(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

func fromInt(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(n))))
}
