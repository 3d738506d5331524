package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/topology"
)

// State is the network state of one namespace, as the kernel tells it over
// rtnetlink. Lists have the kernel's order.
type State struct {
	// Namespace is whose state it is.
	Namespace  string      `json:"namespace"`
	Taken      time.Time   `json:"taken"`
	Links      []Link      `json:"links"`
	Routes     []Route     `json:"routes"`
	Neighbours []Neighbour `json:"neighbours"`
	FDB        []FDBEntry  `json:"fdb"`
	// Rules say which routing table is asked; empty where the kernel has no
	// policy routing.
	Rules []Rule `json:"rules,omitempty"`
}

// Link returns the link of that name, or nil.
func (s *State) Link(name string) *Link {
	return s.link(func(l Link) bool { return l.Name == name })
}

// LinkByIndex returns the link of that ifindex, or nil.
func (s *State) LinkByIndex(index int) *Link {
	return s.link(func(l Link) bool { return l.Index == index })
}

func (s *State) link(is func(Link) bool) *Link {
	if i := slices.IndexFunc(s.Links, is); i >= 0 {
		return &s.Links[i]
	}
	return nil
}

// RoutesVia returns the routes whose device is the link.
func (s *State) RoutesVia(dev string) []Route {
	return only(s.Routes, func(r Route) bool { return r.Dev == dev })
}

// NeighboursOn returns the neighbour entries of a link.
func (s *State) NeighboursOn(dev string) []Neighbour {
	return only(s.Neighbours, func(n Neighbour) bool { return n.Dev == dev })
}

// FDBOf returns the forwarding entries of a link.
func (s *State) FDBOf(dev string) []FDBEntry {
	return only(s.FDB, func(f FDBEntry) bool { return f.Dev == dev })
}

func only[T any](s []T, is func(T) bool) []T {
	var out []T
	for _, v := range s {
		if is(v) {
			out = append(out, v)
		}
	}
	return out
}

// Link is one interface.
type Link struct {
	Index int    `json:"index"`
	Name  string `json:"name"`
	// AltNames are further, longer names.
	AltNames []string `json:"altNames,omitempty"`
	// Kind is the driver's name as ip(8) prints it, as veth or vxlan.
	Kind string       `json:"kind"`
	MAC  topology.MAC `json:"mac,omitzero"`
	MTU  int          `json:"mtu"`
	// Up is the administrative state, Oper that of operation.
	Up   bool   `json:"up"`
	Oper string `json:"oper"`
	// Master is the ifindex of the bridge that the link is a port of.
	Master int `json:"master,omitempty"`
	// Peer is the ifindex behind the @ of ip(8): a veth's other end, in the
	// namespace where that is.
	Peer int `json:"peer,omitempty"`
	// PeerNS is the local id of the peer's namespace, -1 for this one.
	PeerNS    int            `json:"peerNS"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	VXLAN     *VXLAN         `json:"vxlan,omitempty"`
}

// IPv4 returns the link's IPv4 addresses.
func (l *Link) IPv4() []netip.Prefix {
	return only(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is4() })
}

// IPv6 returns the link's IPv6 addresses but the link-local one, which the
// kernel gives.
func (l *Link) IPv6() []netip.Prefix {
	return only(l.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast() })
}

// AddressesLike returns the IPv4 or IPv6 addresses, whichever a is.
func (l *Link) AddressesLike(a netip.Addr) []netip.Prefix {
	if a.Is4() {
		return l.IPv4()
	}
	return l.IPv6()
}

// VXLAN is what a VXLAN device has besides.
type VXLAN struct {
	VNI   int        `json:"vni"`
	Port  int        `json:"port"`
	Local netip.Addr `json:"local,omitzero"`
	Group netip.Addr `json:"group,omitzero"`
	// Dev is the ifindex of the underlay interface, 0 if none is fixed.
	Dev      int  `json:"dev,omitempty"`
	Learning bool `json:"learning,omitempty"`
	GBP      bool `json:"gbp,omitempty"`
}

// Route is one route of the main table.
type Route struct {
	// Dst is the destination; the default route has 0.0.0.0/0 or ::/0.
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"`
	Dev string       `json:"dev,omitempty"`
	Src netip.Addr   `json:"src,omitzero"`
	// Onlink says that Via is on the link even if no address says so.
	Onlink bool `json:"onlink,omitempty"`
	// Kind is empty for a unicast route, else as ip(8) prints it.
	Kind     string `json:"kind,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Metric   int    `json:"metric,omitempty"`
	// MTU in bytes is the route's own, 0 where it has that of its link.
	MTU int `json:"mtu,omitempty"`
}

// String returns the route in the syntax of ip(8).
func (r Route) String() string {
	var b strings.Builder
	if r.Kind != "" {
		b.WriteString(r.Kind + " ")
	}
	if r.Dst.Bits() == 0 {
		b.WriteString("default")
	} else {
		b.WriteString(r.Dst.String())
	}
	if r.Via.IsValid() {
		b.WriteString(" via " + r.Via.String())
	}
	if r.Dev != "" {
		b.WriteString(" dev " + r.Dev)
	}
	if r.Src.IsValid() {
		b.WriteString(" src " + r.Src.String())
	}
	if r.Metric != 0 {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.Onlink {
		b.WriteString(" onlink")
	}
	return b.String()
}

// Rule is one entry of the routing policy.
type Rule struct {
	// Family is inet or inet6.
	Family   string       `json:"family"`
	Priority int          `json:"priority"`
	From     netip.Prefix `json:"from,omitzero"`
	To       netip.Prefix `json:"to,omitzero"`
	// IIF and OIF are the interfaces that it is for.
	IIF string `json:"iif,omitempty"`
	OIF string `json:"oif,omitempty"`
	// Mark is the packet's mark, in the form value/mask, empty for any.
	Mark string `json:"mark,omitempty"`
	// Action is what it does, as "lookup main"; "discard" is ip(8)'s
	// blackhole, unreachable or prohibit.
	Action string `json:"action"`
}

// String returns the rule in the syntax of ip(8), without its priority.
func (r Rule) String() string {
	var b strings.Builder
	b.WriteString("from ")
	if r.From.IsValid() && r.From.Bits() > 0 {
		b.WriteString(r.From.String())
	} else {
		b.WriteString("all")
	}
	if r.To.IsValid() && r.To.Bits() > 0 {
		b.WriteString(" to " + r.To.String())
	}
	for _, x := range []struct{ name, value string }{
		{"fwmark", r.Mark}, {"iif", r.IIF}, {"oif", r.OIF},
	} {
		if x.value != "" {
			b.WriteString(" " + x.name + " " + x.value)
		}
	}
	return b.String() + " " + r.Action
}

// Neighbour is one ARP or NDP entry.
type Neighbour struct {
	IP  netip.Addr   `json:"ip"`
	Dev string       `json:"dev"`
	MAC topology.MAC `json:"mac,omitzero"`
	// State as ip(8) prints it, as PERMANENT or REACHABLE.
	State string `json:"state"`
}

// String returns the entry in the syntax of ip(8).
func (n Neighbour) String() string {
	s := n.IP.String() + " dev " + n.Dev
	if !n.MAC.IsZero() {
		s += " lladdr " + n.MAC.String()
	}
	return s + " " + n.State
}

// FDBEntry is one forwarding entry of a bridge or VXLAN device.
type FDBEntry struct {
	MAC topology.MAC `json:"mac"`
	Dev string       `json:"dev"`
	Dst netip.Addr   `json:"dst,omitzero"`
	// Self entries belong to the device's own table, the others to that of
	// the bridge that it is a port of.
	Self bool `json:"self,omitempty"`
	// State as bridge(8) prints it: permanent, static, stale, or empty.
	State string `json:"state,omitempty"`
	VLAN  int    `json:"vlan,omitempty"`
}

// String returns the entry in the syntax of bridge(8).
func (f FDBEntry) String() string {
	mac := f.MAC.HardwareAddr().String() // the all-zero entry has a name too
	s := mac + " dev " + f.Dev
	if f.Dst.IsValid() {
		s += " dst " + f.Dst.String()
	}
	if f.VLAN != 0 {
		s += fmt.Sprintf(" vlan %d", f.VLAN)
	}
	if f.Self {
		s += " self"
	} else {
		s += " master"
	}
	if f.State != "" {
		s += " " + f.State
	}
	return s
}
