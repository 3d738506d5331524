package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// dumper reads the kernel's tables over one netlink socket.
type dumper struct {
	mu sync.Mutex
	h  *netlink.Handle
}

// newDumper opens the socket in the calling thread's namespace.
func newDumper() (*dumper, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink socket: %w", err)
	}
	return &dumper{h: h}, nil
}

func (d *dumper) close() { d.h.Close() }

// State dumps links, addresses, the main routing table, neighbours and FDB.
func (s *Session) State(ctx context.Context) (*State, error) {
	st, err := ask(ctx, s, kindState, struct{}{}, func() (*State, error) { return s.dump(ctx) })
	if st != nil {
		st.Namespace = s.name // a probe elsewhere does not know what its place is called
	}
	return st, err
}

func (s *Session) dump(ctx context.Context) (*State, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	st := &State{Namespace: s.name, Taken: time.Now()}
	for _, table := range []struct {
		name string
		dump func(*State) error
	}{
		{"links", s.state.links},
		{"addresses", s.state.addresses},
		{"routes", s.state.routes},
		{"neighbours", s.state.neighbours},
		{"FDB", s.state.fdb},
		{"rules", s.state.rules},
	} {
		if err := table.dump(st); err != nil {
			return nil, fmt.Errorf("dump %s of %s: %w", table.name, s.name, err)
		}
	}
	return st, nil
}

// whole repeats a dump that the kernel says a change has interrupted.
func whole[T any](dump func() ([]T, error)) ([]T, error) {
	var out []T
	var err error
	for range 10 {
		if out, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}

func (d *dumper) links(st *State) error {
	links, err := whole(d.h.LinkList)
	for _, l := range links {
		a := l.Attrs()
		st.Links = append(st.Links, Link{
			Index: a.Index, Name: a.Name, AltNames: a.AltNames, Kind: kind(l),
			MAC: mac(a.HardwareAddr), MTU: a.MTU,
			Up: a.RawFlags&unix.IFF_UP != 0, Oper: a.OperState.String(),
			Master: a.MasterIndex, Peer: a.ParentIndex, PeerNS: a.NetNsID,
			VXLAN: vxlan(l),
		})
	}
	return err
}

// kind is the driver's name; of one the library has a word of its own.
func kind(l netlink.Link) string {
	if k := l.Type(); k != "tuntap" {
		return k
	}
	return "tun"
}

func vxlan(l netlink.Link) *VXLAN {
	v, ok := l.(*netlink.Vxlan)
	if !ok {
		return nil
	}
	return &VXLAN{
		VNI: v.VxlanId, Port: v.Port, Local: addr(v.SrcAddr), Group: addr(v.Group),
		Dev: v.VtepDevIndex, Learning: v.Learning, GBP: v.GBP,
	}
}

func (d *dumper) addresses(st *State) error {
	addrs, err := whole(func() ([]netlink.Addr, error) { return d.h.AddrList(nil, unix.AF_UNSPEC) })
	for _, a := range addrs {
		if l := st.LinkByIndex(a.LinkIndex); l != nil {
			l.Addresses = append(l.Addresses, prefix(a.IPNet))
		}
	}
	return err
}

func (d *dumper) routes(st *State) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := whole(func() ([]netlink.Route, error) {
			return d.h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		errs = append(errs, err)
		for _, r := range routes {
			st.Routes = append(st.Routes, route(st, r)...)
		}
	}
	return errors.Join(errs...)
}

// route returns the kernel's route, one for each next hop.
func route(st *State, r netlink.Route) []Route {
	out := Route{
		Dst: prefix(r.Dst), Src: addr(r.Src), Kind: routeKind(r.Type),
		Protocol: r.Protocol.String(), Metric: r.Priority, MTU: r.MTU,
	}
	if !out.Dst.IsValid() {
		zero := netip.IPv4Unspecified()
		if r.Family == unix.AF_INET6 {
			zero = netip.IPv6Unspecified()
		}
		out.Dst = netip.PrefixFrom(zero, 0)
	}
	hop := func(gw net.IP, index, flags int) Route {
		o := out
		o.Via, o.Dev, o.Onlink = addr(gw), st.nameOf(index), flags&unix.RTNH_F_ONLINK != 0
		return o
	}
	if len(r.MultiPath) == 0 {
		return []Route{hop(r.Gw, r.LinkIndex, r.Flags)}
	}
	var hops []Route
	for _, h := range r.MultiPath {
		hops = append(hops, hop(h.Gw, h.LinkIndex, h.Flags))
	}
	return hops
}

func routeKind(t int) string {
	switch t {
	case unix.RTN_UNSPEC, unix.RTN_UNICAST:
		return ""
	case unix.RTN_BLACKHOLE:
		return "blackhole"
	case unix.RTN_UNREACHABLE:
		return "unreachable"
	case unix.RTN_PROHIBIT:
		return "prohibit"
	}
	return fmt.Sprintf("type-%d", t)
}

func (d *dumper) neighbours(st *State) error {
	neighs, err := whole(func() ([]netlink.Neigh, error) { return d.h.NeighList(0, unix.AF_UNSPEC) })
	for _, n := range neighs {
		ip := addr(n.IP)
		if n.Family == unix.AF_BRIDGE || !ip.IsValid() || ip.IsMulticast() {
			continue
		}
		st.Neighbours = append(st.Neighbours, Neighbour{
			IP: ip, Dev: st.nameOf(n.LinkIndex), MAC: mac(n.HardwareAddr), State: neighbourState(n.State),
		})
	}
	return err
}

func neighbourState(state int) string {
	for _, s := range []struct {
		bit  int
		name string
	}{
		{unix.NUD_PERMANENT, "PERMANENT"},
		{unix.NUD_NOARP, "NOARP"},
		{unix.NUD_REACHABLE, "REACHABLE"},
		{unix.NUD_STALE, "STALE"},
		{unix.NUD_DELAY, "DELAY"},
		{unix.NUD_PROBE, "PROBE"},
		{unix.NUD_INCOMPLETE, "INCOMPLETE"},
		{unix.NUD_FAILED, "FAILED"},
	} {
		if state&s.bit != 0 {
			return s.name
		}
	}
	return "NONE"
}

func (d *dumper) fdb(st *State) error {
	entries, err := whole(func() ([]netlink.Neigh, error) { return d.h.NeighList(0, unix.AF_BRIDGE) })
	for _, n := range entries {
		st.FDB = append(st.FDB, FDBEntry{
			MAC: mac(n.HardwareAddr), Dev: st.nameOf(n.LinkIndex), Dst: addr(n.IP),
			Self: n.Flags&unix.NTF_SELF != 0, State: fdbState(n.State), VLAN: n.Vlan,
		})
	}
	return err
}

// fdbState names the state as bridge(8) does.
func fdbState(state int) string {
	switch {
	case state&unix.NUD_PERMANENT != 0:
		return "permanent"
	case state&unix.NUD_NOARP != 0:
		return "static"
	case state&unix.NUD_STALE != 0:
		return "stale"
	}
	return ""
}

func (d *dumper) rules(st *State) error {
	for _, family := range []struct {
		number int
		name   string
	}{{unix.AF_INET, "inet"}, {unix.AF_INET6, "inet6"}} {
		rules, err := whole(func() ([]netlink.Rule, error) { return d.h.RuleList(family.number) })
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // this kernel has no policy routing, or no such family
		}
		if err != nil {
			return err
		}
		for _, r := range rules {
			rule := Rule{
				Family: family.name, Priority: max(r.Priority, 0), From: prefix(r.Src), To: prefix(r.Dst),
				IIF: r.IifName, OIF: r.OifName, Action: ruleAction(r),
			}
			if r.Mark != 0 {
				rule.Mark = fmt.Sprintf("%#x", r.Mark)
				if r.Mask != nil {
					rule.Mark += fmt.Sprintf("/%#x", *r.Mask)
				}
			}
			st.Rules = append(st.Rules, rule)
		}
	}
	return nil
}

// ruleAction says what a rule does, in the words of ip(8) but for those that
// send packets nowhere, which the library does not tell apart.
func ruleAction(r netlink.Rule) string {
	if r.Goto > 0 {
		return fmt.Sprintf("goto %d", r.Goto)
	}
	switch r.Table {
	case unix.RT_TABLE_UNSPEC:
		return "discard"
	case unix.RT_TABLE_LOCAL:
		return "lookup local"
	case unix.RT_TABLE_MAIN:
		return "lookup main"
	case unix.RT_TABLE_DEFAULT:
		return "lookup default"
	}
	return fmt.Sprintf("lookup %d", r.Table)
}

func (s *State) nameOf(index int) string {
	if l := s.LinkByIndex(index); l != nil {
		return l.Name
	}
	if index == 0 {
		return ""
	}
	return fmt.Sprintf("if%d", index)
}

func mac(hw net.HardwareAddr) topology.MAC {
	if len(hw) != 6 {
		return topology.MAC{}
	}
	return topology.MAC(hw)
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr(n.IP), ones)
}
