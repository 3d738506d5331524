// Package datapath is the kernel's part of an overlay as data: what links,
// addresses, neighbours, forwarding entries and routes there ought to be, what
// there is, the difference, and the few messages that remove it.
package datapath

import (
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
)

// A Set is a set of comparable values.
type Set[T comparable] map[T]struct{}

// Add puts values into the set.
func (s Set[T]) Add(values ...T) {
	for _, v := range values {
		s[v] = struct{}{}
	}
}

// Has reports whether the value is in the set.
func (s Set[T]) Has(v T) bool {
	_, ok := s[v]
	return ok
}

// State is what an overlay owns in one network namespace: some devices,
// everything that hangs on them, routes of another (see BareRoutes), and its
// share of IPsec. Wanted and present states have the same type.
type State struct {
	Links Set[Link]
	Addrs Set[Addr]
	// Neighs holds the permanent entries.
	Neighs map[NeighKey]MAC
	// FDB holds the entries of the devices' own databases.
	FDB Set[FDB]
	// Routes holds the main table's routes that leave through the devices, the
	// owned ones of another, and the owned blackholes.
	Routes Set[Route]
	// Rivals are IPv6 routes of others (see Scope.Contested). They are removed
	// where a wanted route has their key, and else let be; no wanted state has
	// any.
	Rivals Set[Route]
	// SAs and Policies are those of IPsec.
	SAs      Set[SA]
	Policies Set[Policy]
}

// NewState returns an empty state.
func NewState() State {
	return State{
		Links:  Set[Link]{},
		Addrs:  Set[Addr]{},
		Neighs: map[NeighKey]MAC{},
		FDB:    Set[FDB]{},
		Routes: Set[Route]{},
		Rivals: Set[Route]{},

		SAs:      Set[SA]{},
		Policies: Set[Policy]{},
	}
}

// Count returns how many entries of each kind there are, by the words of
// Change.Kind.
func (s State) Count() map[string]int {
	return map[string]int{
		"link": len(s.Links), "addr": len(s.Addrs), "neigh": len(s.Neighs), "fdb": len(s.FDB), "route": len(s.Routes),
		"sa": len(s.SAs), "policy": len(s.Policies),
	}
}

// Link returns the device of that name.
func (s State) Link(name string) (Link, bool) {
	for l := range s.Links {
		if l.Name == name {
			return l, true
		}
	}
	return Link{}, false
}

// MAC is a 48-bit Ethernet address that can be compared.
type MAC [6]byte

// ParseMAC reads an Ethernet address that one interface can have: 48 bits, not
// zero, not a group's.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil {
		return MAC{}, err
	}
	if len(hw) != 6 || hw[0]&1 != 0 || MAC(hw) == (MAC{}) {
		return MAC{}, fmt.Errorf("%q is not the Ethernet address of one interface", s)
	}
	return MAC(hw), nil
}

// RandomMAC returns a random, locally administered unicast address.
func RandomMAC() MAC {
	var m MAC
	_, _ = rand.Read(m[:]) // it never fails
	m[0] = m[0]&^0x01 | 0x02
	return m
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

func (m MAC) hardware() net.HardwareAddr { return net.HardwareAddr(m[:]) }

// Link is a VXLAN, IP-in-IP, WireGuard or TUN device. A TUN device is
// persistent: it stays when no process moves its packets.
type Link struct {
	Name string
	// Kind is the driver's name, "vxlan", "ipip", "wireguard" or "tun" in every
	// wanted state.
	Kind string
	// MAC is that of a vxlan device; the others have none.
	MAC MAC
	// MTU in bytes.
	MTU int
	Up  bool
	// Underlay is the name of the device that encapsulated packets leave by;
	// empty for ipip and wireguard, whose packets go by the routes, and tun.
	Underlay string
	// Local is the outer source address; unset for wireguard and tun.
	Local netip.Addr
	// VNI is the 24-bit network identifier, Port the destination UDP port; both
	// of vxlan alone, as are the next.
	VNI, Port int
	Learning  bool
	GBP       bool
	// SourcePorts are the first and the last outer source port, zeros for the
	// kernel's range of local ports; NoChecksum leaves the checksum of an outer
	// UDP header over IPv4 out.
	SourcePorts [2]uint16
	NoChecksum  bool
	// Other names, in ip(8)'s words, what is on besides: nothing, in every
	// wanted state.
	Other string
}

// compatible reports whether a device can be made like l without recreating
// it. The kernel changes the rest (name, driver, tunnel) only for a new one.
func (l Link) compatible(have Link) bool {
	have.MAC, have.MTU, have.Up = l.MAC, l.MTU, l.Up
	return l == have
}

// Addr is an address of a device, of global scope.
type Addr struct {
	Dev    string
	Prefix netip.Prefix
}

// NeighKey names a neighbour.
type NeighKey struct {
	Dev string
	IP  netip.Addr
}

// Neigh is one permanent neighbour.
type Neigh struct {
	NeighKey
	MAC MAC
}

// FDB is one entry of a VXLAN device's forwarding database.
type FDB struct {
	Dev string
	MAC MAC
	// Dst is the remote VTEP's underlay address.
	Dst netip.Addr
	// The rest is zero in every wanted state. Port, VNI and Via, an ifindex,
	// override the device's destination port, VNI and underlay.
	Port uint16
	VNI  uint32
	Via  int
	// NotPermanent marks an entry that the kernel has learned and will forget,
	// and a permanent one that somebody made such.
	NotPermanent bool
}

// vtep is what the kernel has one entry for, with one destination or several.
type vtep struct {
	dev string
	mac MAC
}

func (f FDB) vtep() vtep { return vtep{f.Dev, f.MAC} }

// Route is a route of the main table.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Dev    string
	Onlink bool
	// Blackhole drops the packets. Such a route has no Via and no Dev, and the
	// metric BlackholeMetric.
	Blackhole bool
	// Metric is 0 in every wanted state, but for a blackhole.
	Metric int
	// The rest is zero in every wanted state. Protocol is RTPROT_*, with 0
	// for RTPROT_BOOT, which flannel's routes have.
	TOS, Protocol uint8
	LinkScope     bool
	Src           netip.Addr
	// Other holds what this type does not know, such as metrics.
	Other string
}

// BlackholeMetric puts a blackhole behind every other route of its destination:
// with the metric 0, as flanneld has it, it would come before the route to the
// pods' bridge wherever it is made first, and drop their packets.
const BlackholeMetric = 1<<31 - 1

// BlackholeRoute is the route that drops what leads to no pod of a subnet.
func BlackholeRoute(subnet netip.Prefix) Route {
	return Route{Dst: subnet, Blackhole: true, Metric: BlackholeMetric}
}

// routeKey is what the kernel tells IPv4 routes of one table apart by: a second
// route of the same key replaces the first, or is appended behind it. In IPv6
// it may also stand beside the first, or be a second hop of it.
type routeKey struct {
	dst    netip.Prefix
	metric int
	tos    uint8
}

func (r Route) key() routeKey { return routeKey{r.Dst, r.Metric, r.TOS} }
