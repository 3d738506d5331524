package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/plugins/pkg/netlinksafe"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Check compares a pod's network with what its ADD left: the files, the node's
// bridge, the veth's two ends and the port mappings. Damage is one error of code
// ErrDamaged whose text names each thing that is wrong and where. Without the
// configuration's PrevResult the reserved addresses are what ought to be.
func Check(_ context.Context, r Request) error {
	if err := r.validate(); err != nil {
		return err
	}
	c := &checking{Request: r}
	if err := c.run(); err != nil {
		return coded(types.ErrInternal, "check container "+r.ContainerID, err)
	}
	if len(c.damage) == 0 {
		return nil
	}
	return types.NewError(ErrDamaged,
		fmt.Sprintf("container %s, interface %s: %s", r.ContainerID, r.IfName, strings.Join(c.damage, "; ")), "")
}

// checking is one Check at work.
type checking struct {
	Request
	network *network
	prev    *types100.Result
	ips     []podIP
	damage  []string
}

func (c *checking) found(format string, args ...any) {
	c.damage = append(c.damage, fmt.Sprintf(format, args...))
}

func (c *checking) run() error {
	if err := c.readPrevResult(); err != nil {
		return err
	}
	if err := c.files(); err != nil {
		return err
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	bridge, err := c.bridge(k)
	if err != nil {
		return err
	}
	ns, err := openPod(c.Netns)
	if err != nil {
		return coded(types.ErrInvalidNetNS, "container "+c.ContainerID, err)
	}
	var inside *netlink.LinkAttrs
	err = ns.Do(func() (err error) {
		inside, err = c.inside()
		return err
	})
	if err := errors.Join(err, ns.Close()); err != nil {
		return fmt.Errorf("in namespace %s: %w", c.Netns, err)
	}
	if inside != nil {
		if err := c.host(k, bridge, inside); err != nil {
			return err
		}
	}
	return c.ports()
}

func (c *checking) readPrevResult() error {
	if raw := bytes.TrimSpace(c.Config.PrevResult); len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return nil
	}
	// A result that carries no version of its own has its configuration's.
	var v struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(c.Config.PrevResult, &v); err != nil {
		return coded(types.ErrDecodingFailure, "prevResult", err)
	}
	res, err := create.Create(or(v.CNIVersion, c.Config.CNIVersion), c.Config.PrevResult)
	if err == nil {
		c.prev, err = types100.NewResultFromResult(res)
	}
	if err != nil {
		return coded(types.ErrDecodingFailure, "prevResult", err)
	}
	return nil
}

// files checks the record and the reservation, and learns from them and from
// the previous result what ought to be.
func (c *checking) files() (err error) {
	path := filepath.Join(c.Config.dataDir(), c.ContainerID)
	record, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		c.found("the record %s is missing", path)
	case err != nil:
		return err
	default:
		if c.network, err = parseDelegate(record); err != nil {
			c.found("the record %s cannot be read: %v", path, err)
		}
	}
	if c.network == nil || err != nil {
		if c.network, err = c.Config.resolve(); err != nil {
			return err
		}
	}
	dir := ipamDir(c.network.ipam)
	taken, err := reservations(dir)
	if err != nil {
		return err
	}
	var reserved []netip.Addr
	for _, t := range taken {
		if t.of(c.ContainerID, c.IfName) {
			reserved = append(reserved, t.ip)
		}
	}
	c.ips = c.expected(reserved)
	if len(reserved) == 0 {
		c.found("no address is reserved in %s", dir)
	}
	for _, ip := range c.ips {
		if a := ip.address.Addr(); len(reserved) > 0 && !slices.Contains(reserved, a) {
			c.found("%s is not reserved in %s", a, dir)
		}
	}
	return nil
}

// expected are the addresses that the pod ought to have.
func (c *checking) expected(reserved []netip.Addr) (ips []podIP) {
	if c.prev != nil {
		for _, ip := range c.prev.IPs {
			ips = append(ips, podIP{prefix(ip.Address), addr(ip.Gateway)})
		}
		return ips
	}
	for _, a := range reserved {
		for _, set := range c.network.ipam.Ranges {
			if r, err := set.RangeFor(a.AsSlice()); err == nil {
				bits := prefix(net.IPNet(r.Subnet)).Bits()
				ips = append(ips, podIP{netip.PrefixFrom(a, bits), addr(r.Gateway)})
			}
		}
	}
	return ips
}

// bridge checks the node's bridge, and returns its ifindex, 0 without one.
func (c *checking) bridge(k *kernel) (int, error) {
	name := c.network.bridge.Bridge
	l, err := k.link(name)
	switch {
	case err != nil:
		return 0, err
	case l == nil:
		c.found("bridge %s is missing on the node", name)
		return 0, nil
	case l.Type() != "bridge":
		c.found("link %s on the node is of type %s, not bridge", name, l.Type())
		return 0, nil
	}
	c.link(onNode, l.Attrs())
	have, err := addresses(l)
	if err != nil {
		return 0, err
	}
	for _, gw := range c.network.gateways() {
		if !slices.Contains(have, gw) {
			c.found("%s on the node lacks the address %s (it has %v)", name, gw, have)
		}
	}
	return l.Attrs().Index, nil
}

// link checks what all three links have in common.
func (c *checking) link(where string, l *netlink.LinkAttrs) {
	if want := c.network.bridge.MTU; l.MTU != want {
		c.found("%s %s has MTU %d, not %d", l.Name, where, l.MTU, want)
	}
	if l.Flags&net.FlagUp == 0 {
		c.found("%s %s is down", l.Name, where)
	}
	if c.prev == nil {
		return
	}
	for _, i := range c.prev.Interfaces {
		mac := l.HardwareAddr.String()
		if i.Name == l.Name && (i.Sandbox != "") == (where == inPod) && i.Mac != "" && !strings.EqualFold(i.Mac, mac) {
			c.found("%s %s has the MAC address %s, not %s", l.Name, where, mac, i.Mac)
		}
	}
}

const (
	inPod  = "in the pod"
	onNode = "on the node"
)

// inside checks the pod's own end, on a thread in the pod's namespace. It
// returns nil where there is no such link.
func (c *checking) inside() (*netlink.LinkAttrs, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	l, err := k.link(c.IfName)
	if err != nil {
		return nil, err
	}
	if l == nil {
		c.found("%s is missing in the pod's namespace %s", c.IfName, c.Netns)
		return nil, nil
	}
	if l.Type() != "veth" {
		c.found("%s in the pod is of type %s, not veth", c.IfName, l.Type())
		return nil, nil
	}
	c.link(inPod, l.Attrs())
	have, err := addresses(l)
	if err != nil {
		return nil, err
	}
	for _, ip := range c.ips {
		if !slices.Contains(have, ip.address) {
			c.found("%s in the pod lacks the address %s (it has %v)", c.IfName, ip.address, have)
		}
	}
	if err := c.routes(k, l); err != nil {
		return nil, err
	}
	return l.Attrs(), nil
}

// routes checks the pod's routes.
func (c *checking) routes(k *kernel, l netlink.Link) error {
	var have []route
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rs, err := k.read.RouteList(l, family)
		if err != nil {
			return fmt.Errorf("read routes: %w", err)
		}
		for _, r := range rs {
			if r.Dst != nil {
				have = append(have, route{prefix(*r.Dst), addr(r.Gw)})
			}
		}
	}
	want := c.network.routes(c.ips)
	if c.prev != nil && len(c.prev.Routes) > 0 {
		want = want[:0:0]
		for _, r := range c.prev.Routes {
			want = append(want, route{prefix(r.Dst), c.via(r)})
		}
	}
	for _, r := range want {
		if !slices.Contains(have, r) {
			c.found("the route %s is missing in the pod", r)
		}
	}
	return nil
}

// via is the gateway of a route of the previous result; one without has its
// address's.
func (c *checking) via(r *types.Route) netip.Addr {
	if r.GW != nil {
		return addr(r.GW)
	}
	for _, ip := range c.ips {
		if ip.gateway.Is4() == prefix(r.Dst).Addr().Is4() {
			return ip.gateway
		}
	}
	return netip.Addr{}
}

// host checks the veth's end on the node, the peer of the pod's.
func (c *checking) host(k *kernel, bridge int, inside *netlink.LinkAttrs) error {
	l, err := k.read.LinkByIndex(inside.ParentIndex)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none || err == nil && l.Attrs().ParentIndex != inside.Index {
		c.found("the peer of %s is not on the node", c.IfName)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the peer of %s: %w", c.IfName, err)
	}
	a := l.Attrs()
	c.link(onNode, a)
	if bridge == 0 {
		return nil // already told
	}
	if a.MasterIndex != bridge {
		c.found("%s on the node is not a port of %s", a.Name, c.network.bridge.Bridge)
		return nil
	}
	port, err := k.read.LinkGetProtinfo(l)
	if err != nil {
		return fmt.Errorf("read the bridge port %s: %w", a.Name, err)
	}
	if port.Hairpin != c.network.bridge.HairpinMode {
		c.found("%s on the node has hairpin mode %v, not %v", a.Name, port.Hairpin, c.network.bridge.HairpinMode)
	}
	return nil
}

// addresses lists a link's, in the calling thread's namespace.
func addresses(l netlink.Link) ([]netip.Prefix, error) {
	list, err := netlinksafe.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("read the addresses of %s: %w", l.Attrs().Name, err)
	}
	var ps []netip.Prefix
	for _, a := range list {
		ps = append(ps, prefix(*a.IPNet))
	}
	return ps, nil
}
