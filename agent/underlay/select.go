// Package underlay chooses the interface and the address that a node's
// encapsulated packets use, by the rules of flanneld's flags --iface,
// --iface-regex, --iface-can-reach, --public-ip and --public-ipv6 (flannel,
// pkg/ipmatch).
package underlay

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/rtnl"
)

// Options are the flags' values.
type Options struct {
	// Iface are names or addresses, IfaceRegex expressions for either; the
	// first that finds an interface decides.
	Iface, IfaceRegex []string
	// CanReach chooses the interface of the route to this address.
	CanReach netip.Addr
	// PublicIP and PublicIPv6 are the addresses to publish; alone, one also
	// chooses the interface that has it.
	PublicIP, PublicIPv6 netip.Addr
}

// public is the address of a family to publish.
func (o Options) public(f lease.Family) netip.Addr {
	if f == lease.IPv4 {
		return o.PublicIP
	}
	return o.PublicIPv6
}

// Interface is what the choice depends on.
type Interface struct {
	Name string
	// Index is the ifindex, MTU in bytes.
	Index, MTU int
	// Addrs are the addresses in the kernel's order.
	Addrs []rtnl.AddrState
}

// Facts are the node's interfaces and routes.
type Facts struct {
	// Interfaces are sorted by ifindex.
	Interfaces []Interface
	// DefaultDev is the ifindex of the first default route of a family, 0 for
	// none.
	DefaultDev map[lease.Family]int
	// RouteTo finds the interface and source address towards an address.
	RouteTo func(netip.Addr) (dev int, src netip.Addr, err error)
}

// Read takes the facts from the connection's network namespace.
func Read(c *rtnl.Conn) (Facts, error) {
	links, err := c.Links()
	if err != nil {
		return Facts{}, err
	}
	f := Facts{DefaultDev: map[lease.Family]int{}}
	var addrs []rtnl.AddrState
	for family, af := range map[lease.Family]byte{lease.IPv4: unix.AF_INET, lease.IPv6: unix.AF_INET6} {
		some, err := c.Addrs(af, 0)
		if err != nil {
			return Facts{}, err
		}
		addrs = append(addrs, some...)
		routes, err := c.Routes(af, 0)
		if err != nil {
			return Facts{}, err
		}
		for _, r := range routes {
			if r.Dst.Bits() == 0 && r.Type == unix.RTN_UNICAST && f.DefaultDev[family] == 0 {
				f.DefaultDev[family] = r.Dev
			}
		}
	}
	for _, l := range links {
		i := Interface{Name: l.Name, Index: l.Index, MTU: l.MTU}
		for _, a := range addrs {
			if a.Dev == l.Index {
				i.Addrs = append(i.Addrs, a)
			}
		}
		f.Interfaces = append(f.Interfaces, i)
	}
	slices.SortFunc(f.Interfaces, func(a, b Interface) int { return cmp.Compare(a.Index, b.Index) })
	f.RouteTo = func(dst netip.Addr) (int, netip.Addr, error) {
		r, err := c.RouteTo(dst)
		return r.Dev, r.Src, err
	}
	return f, nil
}

// Select chooses for a network of the given families, IPv4 first. Its error
// says, for each thing that was asked for, why it did not lead to an interface,
// and which interfaces there are.
//
// An IPv6 address must be a global one. Flannel publishes a link-local one
// where there is no other, to which no peer can send: it means something only
// together with an interface of the sender's.
func Select(f Facts, families []lease.Family, o Options) (backend.Underlay, error) {
	c := chooser{Facts: f, families: families}
	found, err := c.choose(o)
	if err == nil && found.MTU == 0 {
		err = fmt.Errorf("interface %s has no MTU", found.Name)
	}
	if err != nil {
		return backend.Underlay{}, fmt.Errorf("choose the underlay interface: %w (there are: %s)", err, f.inventory())
	}
	u := backend.Underlay{Name: found.Name, MTU: found.MTU, Address: found.addrs[lease.IPv4], Address6: found.addrs[lease.IPv6]}
	u.PublicIP, u.PublicIPv6 = u.Address, u.Address6
	for _, family := range families {
		switch public := o.public(family); {
		case !public.IsValid():
		case family == lease.IPv4:
			u.PublicIP = public
		default:
			u.PublicIPv6 = public
		}
	}
	return u, nil
}

// chooser is one run of Select.
type chooser struct {
	Facts
	families []lease.Family
}

// choice is an interface with its address of each family.
type choice struct {
	Interface
	addrs map[lease.Family]netip.Addr
}

// whole fills the addresses of the families by which the interface was not
// chosen; a is the one by which it was, if any.
func (c chooser) whole(i Interface, a netip.Addr) (choice, error) {
	out := choice{i, map[lease.Family]netip.Addr{}}
	var errs []error
	for _, f := range c.families {
		var err error
		if f.Has(a) {
			out.addrs[f] = a
		} else {
			out.addrs[f], err = i.address(f)
		}
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// choose returns the first interface that is found and has an address of each
// family.
func (c chooser) choose(o Options) (choice, error) {
	if len(o.Iface) == 0 && len(o.IfaceRegex) == 0 && !o.CanReach.IsValid() {
		return c.unasked(o)
	}
	var errs []error
	try := func(i Interface, a netip.Addr, err error) (found choice, ok bool) {
		if err == nil {
			found, err = c.whole(i, a)
		}
		errs = append(errs, err)
		return found, err == nil
	}
	for _, want := range o.Iface {
		if found, ok := try(c.byNameOrAddress(want)); ok {
			return found, nil
		}
	}
	for _, expression := range o.IfaceRegex {
		if found, ok := try(c.byExpression(expression)); ok {
			return found, nil
		}
	}
	if o.CanReach.IsValid() {
		if found, ok := try(c.byReach(o.CanReach)); ok {
			return found, nil
		}
	}
	return choice{}, errors.Join(errs...)
}

// unasked is the choice when no flag names an interface.
func (c chooser) unasked(o Options) (choice, error) {
	for _, f := range c.families {
		public := o.public(f)
		if !public.IsValid() {
			continue
		}
		flag := map[lease.Family]string{lease.IPv4: "public-ip", lease.IPv6: "public-ipv6"}[f]
		i, a, err := c.byAddress(public)
		if err != nil {
			return choice{}, fmt.Errorf("--%s=%s: %w; name the interface with --iface", flag, public, err)
		}
		return c.whole(i, a)
	}
	dev, first := 0, c.families[0]
	for _, f := range c.families {
		switch {
		case c.DefaultDev[f] == 0 && len(c.families) == 1:
			return choice{}, errors.New("there is no default route to choose by; name the interface with --iface")
		case c.DefaultDev[f] == 0:
			return choice{}, fmt.Errorf("there is no %s default route to choose by; name the interface with --iface", f)
		case f != first && c.DefaultDev[f] != dev:
			return choice{}, fmt.Errorf("the default routes of %s and %s leave by different interfaces; name the one with --iface", first, f)
		}
		dev = c.DefaultDev[f]
	}
	i, err := c.byIndex(dev)
	if err != nil {
		return choice{}, err
	}
	return c.whole(i, netip.Addr{})
}

func (c chooser) byNameOrAddress(want string) (Interface, netip.Addr, error) {
	if a, err := netip.ParseAddr(want); err == nil {
		i, a, err := c.byAddress(a)
		if err != nil {
			err = fmt.Errorf("--iface=%s: %w", want, err)
		}
		return i, a, err
	}
	for _, i := range c.Interfaces {
		if i.Name == want {
			return i, netip.Addr{}, nil
		}
	}
	return Interface{}, netip.Addr{}, fmt.Errorf("--iface=%s: no interface has that name", want)
}

func (c chooser) byAddress(a netip.Addr) (Interface, netip.Addr, error) {
	for _, i := range c.Interfaces {
		for _, have := range i.Addrs {
			if have.Address.Addr() == a {
				return i, a, checkScope(i, a)
			}
		}
	}
	return Interface{}, netip.Addr{}, errors.New("no interface has that address")
}

// byExpression tries the addresses of all interfaces before any name.
func (c chooser) byExpression(expression string) (Interface, netip.Addr, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return Interface{}, netip.Addr{}, fmt.Errorf("--iface-regex: %w", err)
	}
	for _, i := range c.Interfaces {
		for _, f := range c.families {
			for _, a := range i.ranked(f) {
				if re.MatchString(a.String()) {
					return i, a, nil
				}
			}
		}
	}
	for _, i := range c.Interfaces {
		if re.MatchString(i.Name) {
			return i, netip.Addr{}, nil
		}
	}
	return Interface{}, netip.Addr{}, fmt.Errorf("--iface-regex=%s: it matches no interface's address or name", expression)
}

func (c chooser) byReach(dst netip.Addr) (Interface, netip.Addr, error) {
	dev, src, err := c.RouteTo(dst)
	if err != nil {
		return Interface{}, netip.Addr{}, fmt.Errorf("--iface-can-reach=%s: %w", dst, err)
	}
	i, err := c.byIndex(dev)
	return i, src, err
}

func (c chooser) byIndex(index int) (Interface, error) {
	for _, i := range c.Interfaces {
		if i.Index == index {
			return i, nil
		}
	}
	return Interface{}, fmt.Errorf("interface #%d is gone", index)
}

// checkScope refuses an address that peers cannot send to.
func checkScope(i Interface, a netip.Addr) error {
	if a.Is6() && a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s of %s is link-local, and peers need a global address to send to", a, i.Name)
	}
	return nil
}

// address returns the interface's best address of a family.
func (i Interface) address(f lease.Family) (netip.Addr, error) {
	if ranked := i.ranked(f); len(ranked) > 0 {
		return ranked[0], nil
	}
	for _, a := range i.Addrs {
		if f == lease.IPv6 && f.Has(a.Address.Addr()) {
			return netip.Addr{}, fmt.Errorf("interface %s has no IPv6 address but the link-local %s, which peers cannot send to; give it a global one, as by `ip addr add fd00:172:16:1::1/64 dev %s`",
				i.Name, a.Address.Addr(), i.Name)
		}
	}
	return netip.Addr{}, fmt.Errorf("interface %s has no usable %s address", i.Name, f)
}

// ranked returns the addresses of a family that are not deprecated, best
// first: global before link-local (which of IPv6 are left out), permanent before
// dynamic, primary before secondary.
func (i Interface) ranked(f lease.Family) []netip.Addr {
	usable := slices.DeleteFunc(slices.Clone(i.Addrs), func(a rtnl.AddrState) bool {
		ip := a.Address.Addr()
		return !f.Has(ip) || ip.Is6() && ip.IsLinkLocalUnicast() || a.Flags&(unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0
	})
	rank := func(a rtnl.AddrState) int {
		r := 0
		if a.Address.Addr().IsLinkLocalUnicast() {
			r += 4
		}
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			r += 2
		}
		if a.Flags&unix.IFA_F_TEMPORARY != 0 {
			r++
		}
		return r
	}
	slices.SortStableFunc(usable, func(a, b rtnl.AddrState) int { return cmp.Compare(rank(a), rank(b)) })
	out := make([]netip.Addr, len(usable))
	for n, a := range usable {
		out[n] = a.Address.Addr()
	}
	return out
}

// inventory names the interfaces and their addresses.
func (f Facts) inventory() string {
	var out []string
	for _, i := range f.Interfaces {
		s := i.Name
		for _, a := range i.Addrs {
			s += " " + a.Address.Addr().String()
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}
