// Package underlay chooses the interface and the address that a node's
// encapsulated packets use, by the rules of flanneld's flags --iface,
// --iface-regex, --iface-can-reach and --public-ip (flannel, pkg/ipmatch).
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
	"github.com/overlab/overlab/internal/rtnl"
)

// Options are the flags' values.
type Options struct {
	// Iface are names or addresses, IfaceRegex expressions for either; the
	// first that finds an interface decides.
	Iface, IfaceRegex []string
	// CanReach chooses the interface of the route to this address.
	CanReach netip.Addr
	// PublicIP is the address to publish; alone, it also chooses the
	// interface that has it.
	PublicIP netip.Addr
}

// Interface is what the choice depends on.
type Interface struct {
	Name string
	// Index is the ifindex, MTU in bytes.
	Index, MTU int
	// Addrs are the IPv4 addresses in the kernel's order.
	Addrs []rtnl.AddrState
}

// Facts are the node's interfaces and routes.
type Facts struct {
	// Interfaces are sorted by ifindex.
	Interfaces []Interface
	// DefaultDev is the ifindex of the first default route, 0 for none.
	DefaultDev int
	// RouteTo finds the interface and source address towards an address.
	RouteTo func(netip.Addr) (dev int, src netip.Addr, err error)
}

// Read takes the facts from the connection's network namespace.
func Read(c *rtnl.Conn) (Facts, error) {
	links, err := c.Links()
	if err != nil {
		return Facts{}, err
	}
	addrs, err := c.Addrs(unix.AF_INET, 0)
	if err != nil {
		return Facts{}, err
	}
	routes, err := c.Routes(unix.AF_INET, 0)
	if err != nil {
		return Facts{}, err
	}
	var f Facts
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
	for _, r := range routes {
		if r.Dst.Bits() == 0 && r.Type == unix.RTN_UNICAST && f.DefaultDev == 0 {
			f.DefaultDev = r.Dev
		}
	}
	f.RouteTo = func(dst netip.Addr) (int, netip.Addr, error) {
		r, err := c.RouteTo(dst)
		return r.Dev, r.Src, err
	}
	return f, nil
}

// Select chooses. Its error says, for each thing that was asked for, why it
// did not lead to an interface, and which interfaces there are.
func Select(f Facts, o Options) (backend.Underlay, error) {
	i, addr, err := f.choose(o)
	if err == nil && !addr.IsValid() {
		addr, err = i.address()
	}
	if err == nil && i.MTU == 0 {
		err = fmt.Errorf("interface %s has no MTU", i.Name)
	}
	if err != nil {
		return backend.Underlay{}, fmt.Errorf("choose the underlay interface: %w (there are: %s)", err, f.inventory())
	}
	public := addr
	if o.PublicIP.IsValid() {
		public = o.PublicIP
	}
	return backend.Underlay{Name: i.Name, MTU: i.MTU, Address: addr, PublicIP: public}, nil
}

// choose returns an interface, and the address if that is what was chosen by.
func (f Facts) choose(o Options) (Interface, netip.Addr, error) {
	if len(o.Iface) == 0 && len(o.IfaceRegex) == 0 && !o.CanReach.IsValid() {
		return f.unasked(o.PublicIP)
	}
	var errs []error
	try := func(i Interface, a netip.Addr, err error) (Interface, netip.Addr, bool) {
		if err == nil && !a.IsValid() {
			a, err = i.address()
		}
		errs = append(errs, err)
		return i, a, err == nil
	}
	for _, want := range o.Iface {
		if i, a, ok := try(f.byNameOrAddress(want)); ok {
			return i, a, nil
		}
	}
	for _, expression := range o.IfaceRegex {
		if i, a, ok := try(f.byExpression(expression)); ok {
			return i, a, nil
		}
	}
	if o.CanReach.IsValid() {
		if i, a, ok := try(f.byReach(o.CanReach)); ok {
			return i, a, nil
		}
	}
	return Interface{}, netip.Addr{}, errors.Join(errs...)
}

// unasked is the choice when no flag names an interface.
func (f Facts) unasked(public netip.Addr) (Interface, netip.Addr, error) {
	if public.IsValid() {
		i, a, err := f.byAddress(public)
		if err != nil {
			err = fmt.Errorf("--public-ip=%s: %w; name the interface with --iface", public, err)
		}
		return i, a, err
	}
	if f.DefaultDev == 0 {
		return Interface{}, netip.Addr{}, errors.New("there is no default route to choose by; name the interface with --iface")
	}
	i, err := f.byIndex(f.DefaultDev)
	return i, netip.Addr{}, err
}

func (f Facts) byNameOrAddress(want string) (Interface, netip.Addr, error) {
	if a, err := netip.ParseAddr(want); err == nil {
		i, a, err := f.byAddress(a)
		if err != nil {
			err = fmt.Errorf("--iface=%s: %w", want, err)
		}
		return i, a, err
	}
	for _, i := range f.Interfaces {
		if i.Name == want {
			return i, netip.Addr{}, nil
		}
	}
	return Interface{}, netip.Addr{}, fmt.Errorf("--iface=%s: no interface has that name", want)
}

func (f Facts) byAddress(a netip.Addr) (Interface, netip.Addr, error) {
	for _, i := range f.Interfaces {
		for _, have := range i.Addrs {
			if have.Address.Addr() == a {
				return i, a, nil
			}
		}
	}
	return Interface{}, netip.Addr{}, errors.New("no interface has that address")
}

// byExpression tries the addresses of all interfaces before any name.
func (f Facts) byExpression(expression string) (Interface, netip.Addr, error) {
	re, err := regexp.Compile(expression)
	if err != nil {
		return Interface{}, netip.Addr{}, fmt.Errorf("--iface-regex: %w", err)
	}
	for _, i := range f.Interfaces {
		for _, a := range i.ranked() {
			if re.MatchString(a.String()) {
				return i, a, nil
			}
		}
	}
	for _, i := range f.Interfaces {
		if re.MatchString(i.Name) {
			return i, netip.Addr{}, nil
		}
	}
	return Interface{}, netip.Addr{}, fmt.Errorf("--iface-regex=%s: it matches no interface's address or name", expression)
}

func (f Facts) byReach(dst netip.Addr) (Interface, netip.Addr, error) {
	dev, src, err := f.RouteTo(dst)
	if err != nil {
		return Interface{}, netip.Addr{}, fmt.Errorf("--iface-can-reach=%s: %w", dst, err)
	}
	i, err := f.byIndex(dev)
	return i, src, err
}

func (f Facts) byIndex(index int) (Interface, error) {
	for _, i := range f.Interfaces {
		if i.Index == index {
			return i, nil
		}
	}
	return Interface{}, fmt.Errorf("interface #%d is gone", index)
}

// address returns the interface's best address.
func (i Interface) address() (netip.Addr, error) {
	ranked := i.ranked()
	if len(ranked) == 0 {
		return netip.Addr{}, fmt.Errorf("interface %s has no usable IPv4 address", i.Name)
	}
	return ranked[0], nil
}

// ranked returns the addresses that are not deprecated, best first: global
// before link-local, permanent before dynamic, primary before secondary.
func (i Interface) ranked() []netip.Addr {
	usable := slices.DeleteFunc(slices.Clone(i.Addrs), func(a rtnl.AddrState) bool {
		return a.Flags&unix.IFA_F_DEPRECATED != 0
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
