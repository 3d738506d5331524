package cni

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// ensureBridge creates the node's bridge, or brings an existing one to what
// the network asks for: MTU, MAC, up, the gateway's addresses.
func (k *kernel) ensureBridge(n *network, mac net.HardwareAddr, u *undo) (*netlink.LinkAttrs, error) {
	name, gws := n.bridge.Bridge, n.gateways()
	l, err := k.link(name)
	if err != nil {
		return nil, err
	}
	if l == nil {
		if l, err = k.createBridge(n, mac, u); err != nil {
			return nil, err
		}
	}
	if l.Type() != "bridge" {
		return nil, fmt.Errorf("link %s exists and is no bridge but of type %s", name, l.Type())
	}
	br := l.Attrs()
	var b rtnl.Batch
	if err := k.bridgeAddresses(&b, l, gws, n.bridge.ForceAddress, u); err != nil {
		return nil, err
	}
	if b.Len() > 0 && mac == nil {
		// Setting a MAC address, be it the one that is there, pins it.
		mac = br.HardwareAddr
	}
	if set, changed := repair(br, n, mac, b.Len() > 0); changed {
		b.SetLink(set)
	}
	if err := k.write.Do(&b); err != nil {
		return nil, err
	}
	return br, forward(gws)
}

// createBridge makes the bridge with a MAC address of its own: without one it
// would take the lowest of its ports', and change it as pods come and go.
func (k *kernel) createBridge(n *network, mac net.HardwareAddr, u *undo) (netlink.Link, error) {
	name := n.bridge.Bridge
	if mac == nil {
		mac = derivedMAC(n)
	}
	var b rtnl.Batch
	b.AddBridge(rtnl.Link{Name: name, MTU: n.bridge.MTU, MAC: mac, Up: true})
	if err := k.write.Do(&b); err != nil {
		return nil, err
	}
	u.push(func() error {
		l, err := k.link(name)
		if err != nil || l == nil {
			return err
		}
		return k.delete(l.Attrs().Index)
	})
	// The node's routes are not a router's advertisement's to set.
	if err := setIPv6(name, "accept_ra", "0"); err != nil {
		return nil, err
	}
	l, err := k.link(name)
	if err == nil && l == nil {
		err = fmt.Errorf("link %s vanished as soon as it was made", name)
	}
	return l, err
}

// derivedMAC makes a MAC address of the gateway's IPv4 address, in the manner
// of Kubernetes' kubenet: 0a:58 and the four bytes.
func derivedMAC(n *network) net.HardwareAddr {
	gw := addr(n.ipam.Ranges[0][0].Gateway).AsSlice()
	return append(net.HardwareAddr{0x0a, 0x58}, gw[len(gw)-4:]...)
}

// repair is the message that brings an existing bridge to the network's MTU,
// MAC and state; there is none when nothing differs and nothing is to be
// pinned.
func repair(br *netlink.LinkAttrs, n *network, mac net.HardwareAddr, pin bool) (rtnl.Link, bool) {
	set := rtnl.Link{Name: br.Name, Index: br.Index, Up: true}
	changed := br.Flags&net.FlagUp == 0
	if br.MTU != n.bridge.MTU {
		set.MTU, changed = n.bridge.MTU, true
	}
	if len(mac) > 0 && (pin || mac.String() != br.HardwareAddr.String()) {
		set.MAC, changed = mac, true
	}
	return set, changed
}

// bridgeAddresses adds the gateway's addresses that the bridge lacks. An
// address of another subnet is an error, as it is to the bridge plugin: it
// tells that the node's subnet has changed under its pods.
func (k *kernel) bridgeAddresses(b *rtnl.Batch, br netlink.Link, gws []netip.Prefix, force bool, u *undo) error {
	if len(gws) == 0 {
		return nil
	}
	have, err := netlinksafe.AddrList(br, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("read the addresses of %s: %w", br.Attrs().Name, err)
	}
	index := br.Attrs().Index
next:
	for _, gw := range gws {
		for _, h := range have {
			p := prefix(*h.IPNet)
			switch {
			case p == gw:
				continue next
			case p.Addr().Is4() != gw.Addr().Is4() || p.Addr().Is6() && !p.Overlaps(gw):
			case force:
				b.DelAddr(index, p)
				u.push(func() error { return k.addr((*rtnl.Batch).AddAddr, index, p, unix.EEXIST) })
			default:
				return fmt.Errorf("%q already has an IP address different from %s: %s; "+
					"delete it, or set forceAddress in the delegate", br.Attrs().Name, gw, p)
			}
		}
		if gw.Addr().Is6() {
			if err := enableIPv6(br.Attrs().Name); err != nil {
				return err
			}
		}
		b.AddAddr(index, gw)
		u.push(func() error { return k.addr((*rtnl.Batch).DelAddr, index, gw, unix.EADDRNOTAVAIL, unix.ENODEV) })
	}
	return nil
}

// addr changes one address.
func (k *kernel) addr(change func(*rtnl.Batch, int, netip.Prefix), index int, p netip.Prefix, tolerate ...unix.Errno) error {
	var b rtnl.Batch
	change(&b, index, p)
	b.Tolerate(tolerate...)
	return k.write.Do(&b)
}

// enableIPv6 lets a link of the calling thread's namespace have IPv6
// addresses, at once.
func enableIPv6(link string) error {
	if err := setIPv6(link, "disable_ipv6", "0"); err != nil {
		return err
	}
	return setIPv6(link, "accept_dad", "0")
}

// forward makes the node a router for the families of its gateways.
func forward(gws []netip.Prefix) error {
	for _, gw := range gws {
		enable := ip.EnableIP6Forward
		if gw.Addr().Is4() {
			enable = ip.EnableIP4Forward
		}
		if err := enable(); err != nil {
			return fmt.Errorf("enable forwarding: %w", err)
		}
	}
	return nil
}
