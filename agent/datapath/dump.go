package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// A Scope says what is owned: some devices, and everything that hangs on them,
// and of another device some routes. Nothing else is ever dumped, and so
// nothing else is ever deleted.
type Scope struct {
	// Devices are the names of the owned devices.
	Devices []string
	// Underlays are the names of the devices that the owned ones stand on;
	// they are watched, not owned.
	Underlays []string
	// Bare are the routes that are owned on a device that is not.
	Bare BareRoutes
	// IPsec includes the agents' associations and policies.
	IPsec bool
	// Blackholes are the destinations whose blackhole routes of the metric
	// BlackholeMetric are owned.
	Blackholes []Destinations
	// IPv6 includes addresses, neighbours and routes of that family.
	IPv6 bool
	// Contested are the destinations of IPv6 routes whose rivals are looked for,
	// on any device: other routes to the same place, of the default metric, which
	// in IPv6 a wanted one cannot displace by being made.
	Contested Destinations
}

// Destinations are the nodes' subnets, of exactly Len bits, in a network; none
// where Network is unset.
type Destinations struct {
	Network netip.Prefix
	Len     int
}

// covers reports whether a destination is one of them.
func (d Destinations) covers(dst netip.Prefix) bool {
	return d.Network.IsValid() && dst.Bits() == d.Len && d.Network.Bits() <= d.Len && d.Network.Contains(dst.Addr())
}

// BareRoutes says which routes out of a device that is not owned are: those
// that lead bare packets to the pods of another node. Such a route has a next
// hop, and a destination that is one node's subnet: within Network, of exactly
// Len bits, or within Network6, of exactly Len6. And it is as flannel makes it:
// in the main table, without a metric or a type of service, of the protocol
// boot. Whoever wants a route of that destination left alone gives it another
// protocol (as routing daemons and "ip route add … proto static" do), or a
// metric.
//
// A wanted route takes the place of any other of its destination and metric,
// whosever that is: only one of them can carry packets.
type BareRoutes struct {
	// Dev is the device's name; with the empty name no route is owned.
	Dev     string
	Network netip.Prefix
	Len     int
	// Network6 and Len6 are those of IPv6; unset where no such route is owned.
	Network6 netip.Prefix `json:",omitzero"`
	Len6     int          `json:",omitempty"`
}

// Covers reports whether a destination is one of those whose routes are owned.
func (b BareRoutes) Covers(dst netip.Prefix) bool {
	return Destinations{b.Network, b.Len}.covers(dst) || Destinations{b.Network6, b.Len6}.covers(dst)
}

// Owns reports whether a route is owned.
func (b BareRoutes) Owns(r Route) bool {
	return b.Dev != "" && r.Dev == b.Dev && r.Via.IsValid() && r.Metric == 0 && r.TOS == 0 && r.Protocol == 0 && b.Covers(r.Dst)
}

// ownHole reports whether a route is an owned blackhole.
func (s Scope) ownHole(r Route) bool {
	return r.Blackhole && r.Metric == BlackholeMetric &&
		slices.ContainsFunc(s.Blackholes, func(d Destinations) bool { return d.covers(r.Dst) })
}

func (s Scope) families() []byte {
	if s.IPv6 {
		return []byte{unix.AF_INET, unix.AF_INET6}
	}
	return []byte{unix.AF_INET}
}

// dump reads what the kernel holds of the scope, less IPsec, in the connection's
// network namespace, which is also the calling thread's. It also returns the
// ifindex of each owned device that there is.
func dump(c *rtnl.Conn, scope Scope) (State, map[string]int, error) {
	s, indexes := NewState(), map[string]int{}
	for _, name := range scope.Devices {
		index, err := s.dumpDevice(c, scope, name)
		switch {
		case err == nil:
			indexes[name] = index
		case errors.Is(err, unix.ENODEV): // there is none, or it went during the dump
			s = s.without(Set[string]{name: {}})
		default:
			return s, nil, err
		}
	}
	if len(scope.Blackholes) > 0 {
		if err := s.dumpBlackholes(c, scope); err != nil {
			return s, nil, err
		}
	}
	if scope.Bare.Dev != "" {
		index, err := s.dumpBare(c, scope)
		switch {
		case err == nil:
			indexes[scope.Bare.Dev] = index
		case errors.Is(err, unix.ENODEV):
			s = s.without(Set[string]{scope.Bare.Dev: {}})
		default:
			return s, nil, err
		}
	}
	return s, indexes, s.dumpRivals(c, scope, indexes)
}

// dumpBlackholes adds the owned blackhole routes.
func (s State) dumpBlackholes(c *rtnl.Conn, scope Scope) error {
	for _, family := range scope.families() {
		routes, err := c.Routes(family, 0)
		if err != nil {
			return err
		}
		for _, r := range routes {
			if r, ok := readRoute("", r); ok && scope.ownHole(r) {
				s.Routes.Add(r)
			}
		}
	}
	return nil
}

// dumpBare adds the owned routes of the device that is not owned.
func (s State) dumpBare(c *rtnl.Conn, scope Scope) (index int, err error) {
	link, err := c.LinkByName(scope.Bare.Dev)
	if err != nil {
		return 0, err
	}
	for _, family := range scope.families() {
		routes, err := c.Routes(family, link.Index)
		if err != nil {
			return 0, err
		}
		for _, r := range routes {
			if r, ok := readRoute(scope.Bare.Dev, r); ok && scope.Bare.Owns(r) {
				s.Routes.Add(r)
			}
		}
	}
	return link.Index, nil
}

// dumpRivals adds the contested routes that are not owned, and to indexes the
// devices that they leave by.
func (s State) dumpRivals(c *rtnl.Conn, scope Scope, indexes map[string]int) error {
	if !scope.Contested.Network.IsValid() {
		return nil
	}
	routes, err := c.Routes(unix.AF_INET6, 0)
	if err != nil {
		return err
	}
	for _, state := range routes {
		if !scope.contests(state) {
			continue
		}
		dev := "" // of several hops
		if state.Dev != 0 {
			if dev, err = linkName(c, state.Dev); err != nil {
				return err
			}
			indexes[dev] = state.Dev
		}
		if r := readRival(dev, state); !s.Routes.Has(r) {
			s.Rivals.Add(r)
		}
	}
	return nil
}

// contests reports whether a route is, or is a rival of, one to a node's
// subnet. Those of the kernel itself, as of the node's own subnet, are neither.
func (s Scope) contests(r rtnl.RouteState) bool {
	return r.Table == unix.RT_TABLE_MAIN && r.Protocol != unix.RTPROT_KERNEL && r.Metric == 0 && s.Contested.covers(r.Dst)
}

func (s State) dumpDevice(c *rtnl.Conn, scope Scope, name string) (index int, err error) {
	link, err := c.LinkByName(name)
	if err != nil {
		return 0, err
	}
	l, err := readLink(c, link)
	if err != nil {
		return 0, err
	}
	s.Links.Add(l)
	for _, family := range scope.families() {
		if err := s.dumpFamily(c, family, name, link.Index); err != nil {
			return 0, err
		}
	}
	entries, err := c.Neighs(unix.AF_BRIDGE, link.Index)
	for _, e := range entries {
		s.addNeigh(name, e)
	}
	return link.Index, err
}

func (s State) dumpFamily(c *rtnl.Conn, family byte, name string, index int) error {
	addrs, err := c.Addrs(family, index)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if a.Scope == unix.RT_SCOPE_UNIVERSE { // the kernel's own are of link scope
			s.Addrs.Add(Addr{name, a.Address})
		}
	}
	neighs, err := c.Neighs(family, index)
	if err != nil {
		return err
	}
	for _, n := range neighs {
		s.addNeigh(name, n)
	}
	routes, err := c.Routes(family, index)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r, ok := readRoute(name, r); ok {
			s.Routes.Add(r)
		}
	}
	return nil
}

// addNeigh takes up a forwarding entry, or a neighbour if it is permanent: the
// kernel makes and removes the others by itself.
func (s State) addNeigh(dev string, n rtnl.NeighState) {
	switch {
	case len(n.MAC) != len(MAC{}):
	case n.Family == unix.AF_BRIDGE:
		if n.Flags&unix.NTF_SELF != 0 {
			s.FDB.Add(readFDB(dev, n))
		}
	case permanent(n):
		s.Neighs[NeighKey{dev, n.IP}] = MAC(n.MAC)
	}
}

func permanent(n rtnl.NeighState) bool { return n.State&unix.NUD_PERMANENT != 0 }

func readFDB(dev string, n rtnl.NeighState) FDB {
	return FDB{Dev: dev, MAC: MAC(n.MAC), Dst: n.IP, Port: n.Port, VNI: n.VNI, Via: n.Via, NotPermanent: !permanent(n)}
}

// layer3 reports whether devices of the kind never have neighbours.
func layer3(kind string) bool { return kind == "ipip" || kind == kindTun || kind == kindWireGuard }

// readLink turns the kernel's description into a Link.
func readLink(c *rtnl.Conn, l rtnl.LinkState) (Link, error) {
	out := Link{Name: l.Name, Kind: l.Kind, MTU: l.MTU, Up: l.Up}
	if len(l.MAC) == len(out.MAC) {
		out.MAC = MAC(l.MAC)
	}
	var other []string
	if l.Master != 0 {
		other = append(other, fmt.Sprintf("master #%d", l.Master))
	}
	if l.Flags&unix.IFF_NOARP != 0 && !layer3(l.Kind) {
		other = append(other, "arp off")
	}
	if v := l.Vxlan; v != nil {
		out.Local, out.VNI, out.Port, out.Learning, out.GBP = v.Local, v.VNI, v.Port, v.Learning, v.GBP
		// Over IPv6 the kernel has another setting, which is as it ought to be
		// unless somebody has changed it.
		out.SourcePorts, out.NoChecksum = v.SourcePorts, v.ZeroChecksum && v.Local.Is4()
		other = append(other, v.Other...)
		if v.Dev != 0 {
			name, err := linkName(c, v.Dev)
			if err != nil {
				return out, err
			}
			out.Underlay = name
		}
	}
	if t := l.IPIP; t != nil {
		out.Local = t.Local
		other = append(other, t.Other...)
	}
	if t := l.Tun; t != nil {
		other = append(other, tunOther(*t)...)
	}
	out.Other = strings.Join(other, " ")
	return out, nil
}

// tunOther names what a wanted TUN device is not.
func tunOther(t rtnl.TunState) []string {
	var other []string
	if t.Tap {
		other = append(other, "mode tap")
	}
	if !t.Persistent {
		other = append(other, "not persistent")
	}
	if t.MultiQueue {
		other = append(other, "multi_queue")
	}
	return other
}

func linkName(c *rtnl.Conn, index int) (string, error) {
	l, err := c.LinkByIndex(index)
	if errors.Is(err, unix.ENODEV) {
		return fmt.Sprintf("#%d", index), nil // it lives in another namespace
	}
	return l.Name, err
}

// readRoute turns the kernel's description into a Route; false for one that
// the kernel made, or that is not a plain route.
func readRoute(dev string, r rtnl.RouteState) (Route, bool) {
	plain := r.Type == unix.RTN_UNICAST && dev != "" || r.Blackhole && dev == ""
	if r.Table != unix.RT_TABLE_MAIN || !plain || r.Protocol == unix.RTPROT_KERNEL {
		return Route{}, false
	}
	return plainRoute(dev, r), true
}

// readRival turns the kernel's description of any route into a Route.
func readRival(dev string, r rtnl.RouteState) Route {
	out := plainRoute(dev, r)
	if r.Type != unix.RTN_UNICAST {
		out.Other += fmt.Sprintf("type %d ", r.Type)
	}
	return out
}

func plainRoute(dev string, r rtnl.RouteState) Route {
	out := Route{
		Dst: r.Dst, Via: r.Via, Dev: dev, Onlink: r.Onlink, Metric: r.Metric, TOS: r.TOS,
		Protocol: r.Protocol, LinkScope: r.LinkScope, Src: r.Src, Other: r.Other, Blackhole: r.Blackhole,
	}
	if out.Protocol == unix.RTPROT_BOOT {
		out.Protocol = 0
	}
	return out
}
