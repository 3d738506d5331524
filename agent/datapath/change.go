package datapath

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// Verb is what a Change does.
type Verb string

const (
	// Add makes an entry, or replaces the one that it takes the place of.
	Add Verb = "add"
	// Alter changes a link in place.
	Alter Verb = "set"
	// Delete removes an entry; one that is already gone is a success.
	Delete Verb = "del"
)

// A Change is one step from a present state to a wanted one. It prints as the
// command of ip(8) or bridge(8) that does the same.
type Change struct {
	Verb  Verb
	Entry Entry
}

func (c Change) String() string { return c.Entry.command(c.Verb) }

// Kind is what the change is about, in lower case, such as "route".
func (c Change) Kind() string { return strings.ToLower(reflect.TypeOf(c.Entry).Name()) }

// emit appends the message that makes the change, named as the change prints.
func (c Change) emit(b *rtnl.Batch, index map[string]int) {
	c.Entry.emit(b, c.Verb, func(name string) int { return index[name] })
	b.Describe(c.String)
}

// Entry is what a Change is about: a Link, Addr, Neigh, FDB, Route, SA or
// Policy.
type Entry interface {
	// device is the name of the device that the entry belongs to; empty for
	// those of IPsec.
	device() string
	// command is the change as a shell command.
	command(Verb) string
	// emit appends the message that makes the change; index finds the ifindex
	// of a device by name.
	emit(b *rtnl.Batch, v Verb, index func(string) int)
}

func (l Link) device() string  { return l.Name }
func (a Addr) device() string  { return a.Dev }
func (n Neigh) device() string { return n.Dev }
func (f FDB) device() string   { return f.Dev }
func (r Route) device() string { return r.Dev }

func (l Link) command(v Verb) string {
	state := "down"
	if l.Up {
		state = "up"
	}
	switch v {
	case Delete:
		return "ip link del " + l.Name
	case Alter:
		return fmt.Sprintf("ip link set %s %smtu %d %s", l.Name, l.address(), l.MTU, state)
	}
	if l.Kind == kindTun {
		return fmt.Sprintf("ip tuntap add dev %[1]s mode tun; ip link set %[1]s addrgenmode none; ip link set %[1]s mtu %[2]d %[3]s", l.Name, l.MTU, state)
	}
	if l.Kind == "ipip" {
		return fmt.Sprintf("ip link add %s mtu %d %s type ipip local %s", l.Name, l.MTU, state, l.Local)
	}
	if l.Kind == kindWireGuard {
		return fmt.Sprintf("ip link add %s mtu %d %s type %s", l.Name, l.MTU, state, l.Kind)
	}
	var s strings.Builder
	fmt.Fprintf(&s, "ip link add %s %smtu %d %s type %s id %d", l.Name, l.address(), l.MTU, state, l.Kind, l.VNI)
	if l.Local.IsValid() {
		fmt.Fprintf(&s, " local %s", l.Local)
	}
	if l.Underlay != "" {
		fmt.Fprintf(&s, " dev %s", l.Underlay)
	}
	fmt.Fprintf(&s, " dstport %d", l.Port)
	if !l.Learning {
		s.WriteString(" nolearning")
	}
	if l.GBP {
		s.WriteString(" gbp")
	}
	if l.SourcePorts != [2]uint16{} {
		fmt.Fprintf(&s, " srcport %d %d", l.SourcePorts[0], l.SourcePorts[1])
	}
	if l.NoChecksum {
		s.WriteString(" noudpcsum")
	}
	return s.String()
}

// address is the part of a command that sets the MAC address.
func (l Link) address() string {
	if l.MAC == (MAC{}) {
		return ""
	}
	return fmt.Sprintf("address %s ", l.MAC)
}

func (l Link) emit(b *rtnl.Batch, v Verb, index func(string) int) {
	link := rtnl.Link{Name: l.Name, MTU: l.MTU, Up: l.Up}
	if l.MAC != (MAC{}) {
		link.MAC = l.MAC.hardware()
	}
	switch v {
	case Add:
		if l.Kind == kindTun { // it is there, see Kernel.applyLinks
			link.Index = index(l.Name)
			b.SetLink(link)
			return
		}
		if l.Kind == "ipip" {
			b.AddIPIP(link, l.Local)
			return
		}
		if l.Kind == kindWireGuard {
			b.AddKind(link, l.Kind)
			return
		}
		b.AddVxlan(link, rtnl.Vxlan{
			VNI: l.VNI, Port: l.Port, Local: l.Local, Dev: index(l.Underlay), Learning: l.Learning, GBP: l.GBP,
			SourcePorts: l.SourcePorts, ZeroChecksum: l.NoChecksum,
		})
	case Alter:
		link.Index = index(l.Name)
		b.SetLink(link)
	case Delete:
		b.DelLink(index(l.Name))
		b.Tolerate(unix.ENODEV)
	}
}

func (a Addr) command(v Verb) string {
	s := fmt.Sprintf("ip addr %s %s dev %s", v, a.Prefix, a.Dev)
	if v == Add && a.Prefix.Addr().Is6() {
		s += " nodad"
	}
	return s
}

func (a Addr) emit(b *rtnl.Batch, v Verb, index func(string) int) {
	if v == Delete {
		b.DelAddr(index(a.Dev), a.Prefix)
		b.Tolerate(unix.EADDRNOTAVAIL, unix.ENODEV)
		return
	}
	b.AddAddr(index(a.Dev), a.Prefix)
	b.Tolerate(unix.EEXIST)
}

func (n Neigh) command(v Verb) string {
	if v == Delete {
		return fmt.Sprintf("ip neigh del %s dev %s", n.IP, n.Dev)
	}
	return fmt.Sprintf("ip neigh replace %s lladdr %s dev %s nud permanent", n.IP, n.MAC, n.Dev)
}

func (n Neigh) emit(b *rtnl.Batch, v Verb, index func(string) int) {
	entry := rtnl.Neigh{Dev: index(n.Dev), IP: n.IP, MAC: n.MAC.hardware()}
	if v == Delete {
		b.DelNeigh(entry)
		b.Tolerate(unix.ENOENT, unix.ENODEV)
		return
	}
	b.AddNeigh(entry)
}

func (f FDB) command(v Verb) string {
	if v == Add {
		v = "replace"
	}
	s := fmt.Sprintf("bridge fdb %s %s dev %s", v, f.MAC, f.Dev)
	if f.Dst.IsValid() {
		s += fmt.Sprintf(" dst %s", f.Dst)
	}
	if f.Port != 0 {
		s += fmt.Sprintf(" port %d", f.Port)
	}
	if f.VNI != 0 {
		s += fmt.Sprintf(" vni %d", f.VNI)
	}
	if f.Via != 0 {
		s += fmt.Sprintf(" via if%d", f.Via) // which bridge(8) takes for a name
	}
	if f.NotPermanent {
		return s + " self"
	}
	return s + " self permanent"
}

func (f FDB) emit(b *rtnl.Batch, v Verb, index func(string) int) {
	entry := rtnl.FDB{Dev: index(f.Dev), MAC: f.MAC.hardware(), Dst: f.Dst, Port: f.Port, VNI: f.VNI, Via: f.Via}
	if v == Delete {
		b.DelFDB(entry)
		b.Tolerate(unix.ENOENT, unix.ENODEV)
		return
	}
	b.AddFDB(entry)
}

func (r Route) command(v Verb) string {
	if v == Add {
		v = "replace"
	}
	s := fmt.Sprintf("ip route %s %s", v, r.Dst)
	if r.Blackhole {
		s = fmt.Sprintf("ip route %s blackhole %s", v, r.Dst)
	}
	if r.TOS != 0 {
		s += fmt.Sprintf(" tos %#x", r.TOS)
	}
	if r.Via.IsValid() {
		s += fmt.Sprintf(" via %s", r.Via)
	}
	if r.Dev != "" { // a blackhole has none, nor has a route of several hops
		s += " dev " + r.Dev
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	if r.Onlink {
		s += " onlink"
	}
	if v == "replace" && r.Dst.Addr().Is4() && !r.Blackhole && !r.LinkScope && !r.Via.IsValid() {
		s += " scope global" // ip(8) takes the link's where there is no next hop
	}
	return s
}

func (r Route) emit(b *rtnl.Batch, v Verb, index func(string) int) {
	route := rtnl.Route{
		Dst: r.Dst, Via: r.Via, Dev: index(r.Dev), Onlink: r.Onlink, Metric: r.Metric, TOS: r.TOS,
		Src: r.Src, LinkScope: r.LinkScope, Protocol: r.Protocol, Blackhole: r.Blackhole,
	}
	if v == Delete {
		b.DelRoute(route)
		b.Tolerate(unix.ESRCH, unix.ENODEV)
		return
	}
	if !r.Onlink || !r.Dst.Addr().Is6() {
		b.AddRoute(route)
		return
	}
	// The kernel looks an IPv6 next hop up even where it is onlink, and refuses
	// it if any route but the default one, however wide, leads there by another
	// device. For the moment of the check there is a narrower one.
	pass := rtnl.Route{Dst: netip.PrefixFrom(r.Via, r.Via.BitLen()), Dev: route.Dev}
	b.AddRoute(pass)
	b.AddRoute(route)
	b.Describe(func() string { return r.command(Add) })
	b.DelRoute(pass)
	b.Tolerate(unix.ESRCH, unix.ENODEV)
}
