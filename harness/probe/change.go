package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// A Change alters one object of a namespace's state: a fault, or its repair.
// It names exactly one object, by the words that State has for it.
type Change struct {
	// Delete takes the object away; else it is set, in the place of one that
	// the kernel holds to be the same.
	Delete    bool
	Route     *Route
	Neighbour *Neighbour
	FDB       *FDBEntry
	// Link is the name of a link, which is set up, or down where Down says so.
	Link string
	Down bool
	// MTU in bytes is given to the link, or to the route as that of its path;
	// 0 leaves it.
	MTU int
}

// String is what ip(8) or bridge(8) would be told.
func (c Change) String() string {
	verb := "replace "
	if c.Delete {
		verb = "del "
	}
	switch {
	case c.Route != nil && c.MTU != 0:
		return fmt.Sprintf("ip route %s%s mtu %d", verb, c.Route, c.MTU)
	case c.Route != nil:
		return "ip route " + verb + c.Route.String()
	case c.Neighbour != nil:
		return "ip neigh " + verb + c.Neighbour.String()
	case c.FDB != nil:
		return "bridge fdb " + verb + c.FDB.String()
	case c.Delete:
		return "ip link del " + c.Link
	case c.Down:
		return "ip link set " + c.Link + " down"
	case c.MTU != 0:
		return fmt.Sprintf("ip link set %s mtu %d", c.Link, c.MTU)
	}
	return "ip link set " + c.Link + " up"
}

// Change makes changes, in their order; the first that the kernel refuses ends
// it.
func (s *Session) Change(ctx context.Context, changes ...Change) error {
	return tell(ctx, s, kindChange, changes, func() error { return s.change(ctx, changes) })
}

func (s *Session) change(ctx context.Context, changes []Change) error {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	for _, c := range changes {
		err := ctx.Err()
		if err == nil {
			err = s.state.change(c)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", s.name, c, err)
		}
	}
	return nil
}

func (d *dumper) change(c Change) error {
	switch {
	case c.Route != nil:
		return d.changeRoute(c.Delete, *c.Route, c.MTU)
	case c.Neighbour != nil:
		n := &netlink.Neigh{Family: family(c.Neighbour.IP), IP: c.Neighbour.IP.AsSlice(),
			HardwareAddr: c.Neighbour.MAC.HardwareAddr(), State: unix.NUD_PERMANENT}
		return d.changeNeigh(c.Delete, c.Neighbour.Dev, n)
	case c.FDB != nil:
		n := &netlink.Neigh{Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, IP: c.FDB.Dst.AsSlice(),
			HardwareAddr: c.FDB.MAC.HardwareAddr(), State: unix.NUD_PERMANENT}
		return d.changeNeigh(c.Delete, c.FDB.Dev, n)
	}
	return d.changeLink(c)
}

func (d *dumper) changeNeigh(remove bool, dev string, n *netlink.Neigh) error {
	l, err := d.h.LinkByName(dev)
	if err != nil {
		return err
	}
	n.LinkIndex = l.Attrs().Index
	if remove {
		return d.h.NeighDel(n)
	}
	return d.h.NeighSet(n)
}

// changeRoute sets or deletes a unicast route of the main table.
func (d *dumper) changeRoute(remove bool, r Route, mtu int) error {
	out := &netlink.Route{MTU: mtu, Dst: ipNet(r.Dst), Gw: r.Via.AsSlice(), Src: r.Src.AsSlice(), Priority: r.Metric}
	if r.Dev != "" {
		l, err := d.h.LinkByName(r.Dev)
		if err != nil {
			return err
		}
		out.LinkIndex = l.Attrs().Index
	}
	if r.Onlink {
		out.Flags = unix.RTNH_F_ONLINK
	}
	if remove {
		out.Scope = unix.RT_SCOPE_NOWHERE // as ip(8) says: whichever it has
		return d.h.RouteDel(out)
	}
	if !r.Via.IsValid() {
		out.Scope = unix.RT_SCOPE_LINK
	}
	out.Protocol = protocol(r.Protocol)
	return d.h.RouteReplace(out)
}

// protocol reads what a dump calls a route's origin.
func protocol(name string) netlink.RouteProtocol {
	for p := range netlink.RouteProtocol(255) {
		if p.String() == name {
			return p
		}
	}
	return unix.RTPROT_BOOT
}

func (d *dumper) changeLink(c Change) error {
	l, err := d.h.LinkByName(c.Link)
	if err != nil {
		return err
	}
	switch {
	case c.Delete:
		return d.h.LinkDel(l)
	case c.Down:
		return d.h.LinkSetDown(l)
	case c.MTU != 0:
		return d.h.LinkSetMTU(l, c.MTU)
	}
	return d.h.LinkSetUp(l)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// ipNet is the standard library's older type; the default route is nil.
func ipNet(p netip.Prefix) *net.IPNet {
	if !p.IsValid() || p.Bits() == 0 {
		return nil
	}
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// checkGroup is the group of links that are deleted together.
const checkGroup = 0x6f766c

// DeleteBridge deletes a bridge and all links that are its ports, together; that
// there is none is no error.
func (s *Session) DeleteBridge(ctx context.Context, name string) error {
	return tell(ctx, s, kindDeleteBridge, name, func() error { return s.deleteBridge(ctx, name) })
}

func (s *Session) deleteBridge(ctx context.Context, name string) error {
	st, err := s.dump(ctx)
	if err != nil {
		return err
	}
	br := st.Link(name)
	if br == nil {
		return nil
	}
	doomed := []int{br.Index}
	for _, l := range st.Links {
		if l.Master == br.Index {
			doomed = append(doomed, l.Index)
		}
	}
	err = s.local.Do(func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close() // nothing is left in it
		var b rtnl.Batch
		b.DelLinks(checkGroup, doomed...)
		return conn.Do(&b)
	})
	if err != nil {
		return fmt.Errorf("%s: delete %s and its ports: %w", s.name, name, err)
	}
	return nil
}
