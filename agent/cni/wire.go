package cni

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/rtnl"
)

// pod is one attachment in the making.
type pod struct {
	Request
	wishes wishes
	ns     *netns.Set
	ips    []podIP
	// host and inside are the veth's two ends, as the kernel tells them.
	host, inside *netlink.LinkAttrs
}

// hostInterface is the veth's name on the node: what was asked for, or one
// that is always the same for a container's interface.
func hostInterface(w wishes, r Request) string {
	if w.hostInterface != "" {
		return w.hostInterface
	}
	h := fnv.New32a()
	fmt.Fprint(h, r.ContainerID, " ", r.IfName)
	return fmt.Sprintf("veth%08x", h.Sum32())
}

// addVeths creates the pods' veth pairs, both ends where they belong and the
// node's on the bridge, in one batch.
func (k *kernel) addVeths(n *network, bridge int, pods []*pod, u *undo) error {
	var b rtnl.Batch
	for _, p := range pods {
		name := hostInterface(p.wishes, p.Request)
		l, err := k.link(name)
		if err != nil {
			return err
		}
		if l != nil {
			return fmt.Errorf("link %s, for container %s, is on the node already", name, p.ContainerID)
		}
		b.AddVeth(
			rtnl.Link{Name: name, MTU: n.bridge.MTU, Master: bridge, Up: true},
			rtnl.Link{Name: p.IfName, MTU: n.bridge.MTU, MAC: p.wishes.mac, NetNS: p.ns.Net})
		u.push(func() error {
			l, err := k.link(name)
			if err != nil || l == nil {
				return err
			}
			return k.delete(l.Attrs().Index)
		})
	}
	if err := k.write.Do(&b); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%w: the node had no link of that name, so a pod has one that is called as its own", err)
		}
		return err
	}
	for _, p := range pods {
		if err := k.readHost(p); err != nil {
			return err
		}
		if n.bridge.HairpinMode {
			b.SetHairpin(p.host.Index, true)
		}
	}
	return k.write.Do(&b)
}

// readHost reads the veth's end on the node.
func (k *kernel) readHost(p *pod) error {
	name := hostInterface(p.wishes, p.Request)
	l, err := k.link(name)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("link %s, of container %s, vanished", name, p.ContainerID)
	}
	p.host = l.Attrs()
	return nil
}

// wireInside configures the pods' own ends, one pod after the other, on one
// thread that enters their namespaces and is thrown away.
func wireInside(n *network, pods []*pod) error {
	return netns.Thread(func() error {
		for _, p := range pods {
			if err := p.ns.Enter(); err != nil {
				return err
			}
			if err := p.wireInside(n); err != nil {
				return fmt.Errorf("container %s: %w", p.ContainerID, err)
			}
		}
		return nil
	})
}

// wireInside works in the pod's namespace, which the thread has entered.
func (p *pod) wireInside(n *network) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	l, err := k.link(p.IfName)
	if err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("link %s vanished", p.IfName)
	}
	if err := p.sysctls(); err != nil {
		return err
	}
	index := l.Attrs().Index
	var b rtnl.Batch
	b.SetLink(rtnl.Link{Name: "lo", Index: 1, Up: true})
	for _, ip := range p.ips {
		b.AddAddr(index, ip.address)
	}
	b.SetLink(rtnl.Link{Name: p.IfName, Index: index, Up: true})
	for _, r := range n.routes(p.ips) {
		b.NewRoute(rtnl.Route{Dst: r.dst, Via: r.via, Dev: index})
	}
	if err := k.write.Do(&b); err != nil {
		return err
	}
	if l, err = k.link(p.IfName); err != nil {
		return err
	}
	if l == nil {
		return fmt.Errorf("link %s vanished", p.IfName)
	}
	p.inside = l.Attrs()
	return nil
}

// sysctls prepares the pod's interface before it comes up: IPv6 only for a
// pod that has an IPv6 address, and an announcement of its MAC, so that no
// neighbour goes on sending to the one that had the address before.
func (p *pod) sysctls() error {
	err := os.WriteFile("/proc/sys/net/ipv4/conf/"+p.IfName+"/arp_notify", []byte("1"), 0)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(p.ips, func(ip podIP) bool { return ip.address.Addr().Is6() }) {
		return setIPv6(p.IfName, "disable_ipv6", "1")
	}
	return errors.Join(
		setIPv6("lo", "disable_ipv6", "0"),
		enableIPv6(p.IfName),
		setIPv6(p.IfName, "keep_addr_on_down", "1"))
}

// await returns when every pod's port of the bridge forwards: the kernel
// takes note of a carrier a moment after both ends are up.
func (k *kernel) await(ctx context.Context, pods []*pod) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*time.Second, errors.New("timed out after 2s"))
	defer cancel()
	for _, p := range pods {
		for {
			if err := k.readHost(p); err != nil {
				return err
			}
			if p.host.OperState == netlink.OperUp {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for link %s to come up: %w", p.host.Name, context.Cause(ctx))
			case <-time.After(200 * time.Microsecond):
			}
		}
	}
	return nil
}
