package datapath

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap"
)

// Kernel keeps a picture of what the kernel holds of a scope. The picture is
// dumped once and then kept true by the kernel's notifications, so that one
// new lease costs a few messages and no dump; where a notification does not
// tell enough, or was lost, the next Refresh dumps again.
//
// Only what Waits returns may run beside the other methods.
type Kernel struct {
	scope    Scope
	conn     *rtnl.Conn
	listener *rtnl.Listener
	// xfrm and changes are as conn and listener, for IPsec; nil without.
	xfrm    *rtnl.Conn
	changes *rtnl.Listener
	state   State
	index   map[string]int
	// stale says that only a dump can tell the state.
	stale bool
	// moves counts what may have changed who is on the underlay's segment.
	moves int
}

// Open opens a picture of the calling thread's network namespace.
func Open(scope Scope) (*Kernel, error) {
	groups := []int{unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE}
	if scope.IPv6 {
		groups = append(groups, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	}
	listener, err := rtnl.Listen(groups...)
	if err != nil {
		return nil, err
	}
	conn, err := rtnl.Dial()
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	k := &Kernel{scope: scope, conn: conn, listener: listener, stale: true}
	if scope.IPsec {
		if err := k.openIPsec(); err != nil {
			return nil, errors.Join(err, k.Close())
		}
	}
	if _, err := k.Refresh(); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

func (k *Kernel) openIPsec() (err error) {
	if k.xfrm, err = rtnl.DialXFRM(); err != nil {
		return err
	}
	k.changes, err = rtnl.ListenXFRM()
	return err
}

// Close closes the sockets and ends Wait. The kernel's state stays.
func (k *Kernel) Close() error {
	errs := []error{k.conn.Close(), k.listener.Close()}
	if k.xfrm != nil {
		errs = append(errs, k.xfrm.Close())
	}
	if k.changes != nil {
		errs = append(errs, k.changes.Close())
	}
	return errors.Join(errs...)
}

// State returns the picture as it is. The caller must not change it.
func (k *Kernel) State() State { return k.state }

// Moves counts the changes that Refresh has seen of what is not owned and
// decides which addresses are on the underlay's segment: its links, their
// addresses, and routes. Where it has grown, the answers may be others. In a
// scope without BareRoutes, which has no use for the answers, it stays 0.
func (k *Kernel) Moves() int { return k.moves }

func (k *Kernel) moved() {
	if k.scope.Bare.Dev != "" {
		k.moves++
	}
}

// Waits are functions that each block until there are notifications of one
// kind for Refresh to read. Their errors say that the Kernel is closed.
func (k *Kernel) Waits() []func() error {
	waits := []func() error{k.listener.Wait}
	if k.changes != nil {
		waits = append(waits, k.changes.Wait)
	}
	return waits
}

// Resync distrusts the picture: the next Refresh dumps.
func (k *Kernel) Resync() { k.stale = true }

// Refresh reads the notifications that have arrived, without waiting, and
// reports whether any of them, or a dump, may have changed the picture. What
// another process did before the call is in the picture after it.
func (k *Kernel) Refresh() (changed bool, err error) {
	err = k.listener.Drain(func(m rtnl.Message) error {
		c, err := k.take(m)
		changed = changed || c
		return err
	})
	if errors.Is(err, rtnl.ErrLost) {
		k.stale, err = true, nil
		k.moved()
	}
	if k.changes != nil {
		// One kind of message tells of a flush and another of one entry, and
		// some of no reqid: a dump tells whether it was one of ours.
		lost := k.changes.Drain(func(rtnl.Message) error { k.stale = true; return nil })
		if errors.Is(lost, rtnl.ErrLost) {
			k.stale, lost = true, nil
		}
		err = errors.Join(err, lost)
	}
	if err != nil {
		return changed, err
	}
	if !k.stale {
		return changed, nil
	}
	state, index, err := k.dump()
	if err != nil {
		return true, err
	}
	k.state, k.index, k.stale = state, index, false
	return true, nil
}

// dump reads the whole scope anew.
func (k *Kernel) dump() (State, map[string]int, error) {
	state, index, err := dump(k.conn, k.scope)
	if err == nil && k.xfrm != nil {
		err = state.dumpIPsec(k.xfrm)
	}
	return state, index, err
}

// Apply makes the changes and refreshes the picture. It must be called in the
// network namespace that the Kernel was opened in. A change that the kernel
// refuses does not stop the others; its error joins all refusals.
func (k *Kernel) Apply(changes []Change) error {
	// Links come first in a Diff; what hangs on a new one needs its ifindex.
	n := slices.IndexFunc(changes, func(c Change) bool { _, link := c.Entry.(Link); return !link })
	if n < 0 {
		n = len(changes)
	}
	errs := []error{k.applyLinks(changes[:n])}
	var b rtnl.Batch
	conn := k.conn // that the batch is for
	missing := Set[string]{}
	for _, c := range changes[n:] {
		if dev := c.Entry.device(); dev != "" && k.index[dev] == 0 {
			missing.Add(dev)
			continue
		}
		if next := k.connFor(c); next != conn { // the changes' order is kept
			errs = append(errs, conn.Do(&b))
			conn = next
		}
		c.emit(&b, k.index)
	}
	for dev := range missing {
		errs = append(errs, fmt.Errorf("there is no device %s to program", dev))
	}
	errs = append(errs, conn.Do(&b))
	_, err := k.Refresh()
	return errors.Join(append(errs, err)...)
}

func (k *Kernel) connFor(c Change) *rtnl.Conn {
	if c.ipsec() {
		return k.xfrm
	}
	return k.conn
}

func (k *Kernel) applyLinks(changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	var b rtnl.Batch
	var errs []error
	for _, c := range changes {
		link := c.Entry.(Link)
		if c.Verb == Add && link.Kind == kindTun {
			errs = append(errs, k.conn.Do(&b)) // one in its place goes first
			index, err := k.makeTun(link.Name)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			k.index[link.Name] = index
		}
		if c.Verb == Add && link.Underlay != "" {
			under, err := k.conn.LinkByName(link.Underlay)
			if err != nil {
				errs = append(errs, fmt.Errorf("find the underlay of %s: %w", link.Name, err))
				continue
			}
			k.index[link.Underlay] = under.Index
		}
		c.emit(&b, k.index)
	}
	if err := k.conn.Do(&b); err != nil {
		errs = append(errs, err, k.rivals(changes, err))
	}
	for _, c := range changes {
		name := c.Entry.device()
		delete(k.index, name)
		link, err := k.conn.LinkByName(name)
		if err != nil {
			continue // deleted, or refused above
		}
		k.index[name] = link.Index
		if c.Verb == Add {
			errs = append(errs, writeSettings(c.Entry.(Link)))
		}
	}
	return errors.Join(errs...)
}

// kindTun is the driver that makes no devices by netlink.
const kindTun = "tun"

// kindWireGuard is the driver whose devices have their keys and peers from
// elsewhere.
const kindWireGuard = "wireguard"

// makeTun makes a TUN device, which has no address of its own and needs no
// IPv6 one of the kernel's choice.
func (k *Kernel) makeTun(name string) (index int, err error) {
	if err := tuntap.Create(name); err != nil {
		return 0, err
	}
	link, err := k.conn.LinkByName(name)
	if err != nil {
		return 0, err
	}
	const none = "1" // IN6_ADDR_GEN_MODE_NONE
	return link.Index, write(Setting{Path: "/proc/sys/net/ipv6/conf/" + name + "/addr_gen_mode", Value: none})
}

// rivals names the devices that have the VNI of one which was refused for it,
// because it exists already.
func (k *Kernel) rivals(changes []Change, refusal error) error {
	if !errors.Is(refusal, unix.EEXIST) {
		return nil
	}
	links, err := k.conn.Links()
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range changes {
		want := c.Entry.(Link)
		for _, l := range links {
			if c.Verb == Add && l.Vxlan != nil && l.Vxlan.VNI == want.VNI && l.Vxlan.Port == want.Port {
				errs = append(errs, fmt.Errorf("device %s has VNI %d on port %d already; delete it (ip link del %s), or configure another VNI or Port",
					l.Name, want.VNI, want.Port, l.Name))
			}
		}
	}
	return errors.Join(errs...)
}

// Setting is a file under /proc/sys, and what Apply writes to it.
type Setting struct {
	Path, Value string
	// Needed says that the device does not work without it; otherwise a
	// /proc/sys that is read-only is left as it is, as flannel leaves it
	// (pkg/backend/vxlan/device.go ignores the error).
	Needed bool
}

// SettingsOf are the settings of a device that Apply makes besides the device.
// They keep router advertisements that come through the overlay from changing
// the node's IPv6 routes, as flannel does, and let a device that carries IPv6
// have it where new devices do not. In a kernel without IPv6 there are none.
func SettingsOf(l Link) []Setting {
	const folder = "/proc/sys/net/ipv6/conf/"
	if _, err := os.Stat(folder); err != nil {
		return nil
	}
	settings := []Setting{{Path: folder + l.Name + "/accept_ra", Value: "0"}}
	if l.Local.Is6() {
		settings = append(settings, Setting{Path: folder + l.Name + "/disable_ipv6", Value: "0", Needed: true})
	}
	return settings
}

func writeSettings(l Link) error {
	var errs []error
	for _, s := range SettingsOf(l) {
		errs = append(errs, write(s))
	}
	return errors.Join(errs...)
}

func write(s Setting) error {
	err := os.WriteFile(s.Path, []byte(s.Value), 0)
	switch {
	case errors.Is(err, os.ErrNotExist): // the device has gone, or a kernel without IPv6
		return nil
	case errors.Is(err, unix.EROFS): // as a container that is not privileged sees it
		if have, readErr := os.ReadFile(s.Path); !s.Needed || readErr == nil && strings.TrimSpace(string(have)) == s.Value {
			return nil
		}
	}
	return err
}

// take follows one notification and reports whether it was about the scope.
func (k *Kernel) take(m rtnl.Message) (bool, error) {
	switch m.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return k.takeLink(m)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return k.takeAddr(m)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return k.takeNeigh(m)
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return k.takeRoute(m)
	}
	return false, nil
}

// device returns the name of the owned device of that ifindex.
func (k *Kernel) device(index int) (string, bool) {
	for _, name := range k.scope.Devices {
		if i := k.index[name]; i == index && i != 0 {
			return name, true
		}
	}
	return "", false
}

// takeLink: a link that goes down or away takes routes and neighbours with it
// and the kernel does not tell of each.
func (k *Kernel) takeLink(m rtnl.Message) (bool, error) {
	if len(m.Body) > 0 && m.Body[0] == unix.AF_BRIDGE {
		return false, nil // about a bridge's port
	}
	l, err := m.Link()
	if err != nil {
		return false, err
	}
	_, known := k.device(l.Index)
	ours := known || slices.Contains(k.scope.Devices, l.Name)
	under := slices.Contains(k.scope.Underlays, l.Name)
	if under {
		k.moved()
	}
	bare := k.isBare(l.Index) || k.scope.Bare.Dev != "" && l.Name == k.scope.Bare.Dev
	k.stale = k.stale || ours || bare
	return ours || under || bare, nil
}

// isBare reports whether an ifindex is that of the device that is not owned
// and has owned routes.
func (k *Kernel) isBare(index int) bool {
	return index != 0 && k.scope.Bare.Dev != "" && k.index[k.scope.Bare.Dev] == index
}

// takeAddr: an address that goes takes routes with it.
func (k *Kernel) takeAddr(m rtnl.Message) (bool, error) {
	a, err := m.Addr()
	_, ours := k.device(a.Dev)
	bare := k.isBare(a.Dev)
	if bare {
		k.moved()
	}
	k.stale = k.stale || ours || bare
	return ours || bare, err
}

func (k *Kernel) takeNeigh(m rtnl.Message) (bool, error) {
	n, err := m.Neigh()
	dev, ours := k.device(n.Dev)
	if err != nil || !ours {
		return false, err
	}
	if n.Family != unix.AF_BRIDGE { // one that goes is told of without its MAC
		key := NeighKey{dev, n.IP}
		before, had := k.state.Neighs[key]
		delete(k.state.Neighs, key)
		if m.Type == unix.RTM_NEWNEIGH {
			k.state.addNeigh(dev, n)
		}
		after, has := k.state.Neighs[key]
		return had != has || before != after, nil
	}
	if n.Flags&unix.NTF_SELF == 0 || len(n.MAC) != len(MAC{}) {
		return false, nil
	}
	return k.takeFDB(m.Type, readFDB(dev, n)), nil
}

func (k *Kernel) takeFDB(typ uint16, entry FDB) bool {
	had := k.state.FDB.Has(entry)
	if typ == unix.RTM_DELNEIGH {
		delete(k.state.FDB, entry)
		return had
	}
	if had {
		return false
	}
	for other := range k.state.FDB {
		// Replaced, appended or altered? The notification does not say.
		k.stale = k.stale || other.vtep() == entry.vtep()
	}
	k.state.FDB.Add(entry)
	return true
}

// ownRoute reads a route; false if it is not owned.
func (k *Kernel) ownRoute(state rtnl.RouteState) (Route, bool) {
	if dev, ours := k.device(state.Dev); ours {
		return readRoute(dev, state)
	}
	if state.Blackhole { // which in IPv6 leaves by the loopback device
		r, ok := readRoute("", state)
		return r, ok && k.scope.ownHole(r)
	}
	if !k.isBare(state.Dev) {
		return Route{}, false
	}
	r, plain := readRoute(k.scope.Bare.Dev, state)
	return r, plain && k.scope.Bare.Owns(r)
}

func (k *Kernel) takeRoute(m rtnl.Message) (bool, error) {
	state, err := m.Route()
	if err != nil {
		return false, err
	}
	r, ours := k.ownRoute(state)
	if !ours && state.Table == unix.RT_TABLE_MAIN {
		k.moved()
	}
	if k.scope.contests(state) && !(ours && (m.Type == unix.RTM_NEWROUTE || k.state.Routes.Has(r))) {
		// A rival came or went, or a hop was added to a route of ours or taken
		// from it: the notification does not say what is left.
		k.stale = true
	}
	if m.Type == unix.RTM_DELROUTE {
		had := ours && k.state.Routes.Has(r)
		delete(k.state.Routes, r)
		return had, nil
	}
	if (m.Flags&unix.NLM_F_REPLACE != 0 || state.Dst.Addr().Is6()) && state.Table == unix.RT_TABLE_MAIN {
		key := routeKey{state.Dst, state.Metric, state.TOS}
		for other := range k.state.Routes {
			// It took the place of one of ours, or of another of that key, or
			// stands beside it.
			k.stale = k.stale || other.key() == key
		}
	}
	if ours {
		k.state.Routes.Add(r)
	}
	return ours || k.stale, nil
}
