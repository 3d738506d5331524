package lease

import (
	"encoding/json"
	"fmt"
	"net/netip"
)

// Family is an address family: 4 or 6. A network has one of them or both, and
// what a node tells of itself it tells for each.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string { return fmt.Sprintf("IPv%d", int(f)) }

// Has reports whether an address is of the family.
func (f Family) Has(a netip.Addr) bool {
	if f == IPv4 {
		return a.Is4()
	}
	return a.Is6() && !a.Is4In6()
}

// Of returns the key's subnet of a family, unset where it has none.
func (k Key) Of(f Family) netip.Prefix {
	if f == IPv4 {
		return k.Subnet
	}
	return k.Subnet6
}

// with returns the key with another subnet of a family.
func (k Key) with(f Family, p netip.Prefix) Key {
	if f == IPv4 {
		k.Subnet = p
	} else {
		k.Subnet6 = p
	}
	return k
}

// Public returns the address of a family that the node's peers send to, unset
// where there is none.
func (a Attrs) Public(f Family) netip.Addr {
	if f == IPv4 {
		return a.PublicIP
	}
	return a.PublicIPv6
}

// PublicField is the name of the address that Public returns.
func (f Family) PublicField() string {
	if f == IPv4 {
		return "PublicIP"
	}
	return "PublicIPv6"
}

// Data returns the backend's data of a family.
func (a Attrs) Data(f Family) json.RawMessage {
	if f == IPv4 {
		return a.BackendData
	}
	return a.BackendV6Data
}

// Identity is the address by which nodes are told apart: PublicIP where the
// network has IPv4, as flannel does, and in a network of IPv6 alone PublicIPv6,
// since there every node's PublicIP is 0.0.0.0.
func (c *Config) Identity(a Attrs) netip.Addr { return a.Public(c.Families()[0]) }
