package cni

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/overlab/overlab/agent/cni/portmap"
)

// Del undoes an ADD. It succeeds where there is nothing left to undo, and
// without the pod's namespace. The container's record goes last, and only when
// all else is done: a DEL that failed can be repeated. (flannel's plugin
// removes it first, and what then fails is never undone.)
func Del(ctx context.Context, r Request) error {
	if err := r.validate(); err != nil {
		return err
	}
	dir := r.Config.dataDir()
	unlock, err := lockNode(ctx, dir)
	switch {
	case err == nil:
		defer unlock()
	case errors.Is(err, os.ErrNotExist): // no ADD has ever been here
	default:
		return coded(types.ErrTryAgainLater, "network "+r.Config.Name, err)
	}
	n, err := r.recorded()
	if err != nil {
		return err
	}
	if err := del(r, n); err != nil {
		return coded(ErrKernel, "undo container "+r.ContainerID, err)
	}
	left, err := reservations(ipamDir(n.ipam))
	if err != nil {
		return coded(types.ErrIOFailure, "read the reserved addresses", err)
	}
	for _, l := range left {
		if l.id == r.ContainerID {
			return nil // the record serves another interface too
		}
	}
	if err := removeFile(filepath.Join(dir, r.ContainerID)); err != nil {
		return coded(types.ErrIOFailure, "remove the record", err)
	}
	return nil
}

// recorded is the network as the container's ADD knew it. Where the record is
// missing or damaged, the configuration tells all that a DEL has to know, save
// whether there are masquerading rules.
func (r Request) recorded() (*network, error) {
	b, err := os.ReadFile(filepath.Join(r.Config.dataDir(), r.ContainerID))
	switch {
	case err == nil:
		if n, err := parseDelegate(b); err == nil {
			return n, nil
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, coded(types.ErrIOFailure, "read the record", err)
	}
	n, err := r.Config.unresolved()
	if err != nil {
		return nil, coded(types.ErrInvalidNetworkConfig, "network "+r.Config.Name, err)
	}
	return n, nil
}

// unresolved is the network without the node's subnet, which a subnet file
// that is no longer there would have told.
func (c *Config) unresolved() (*network, error) {
	anywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	record, err := c.delegate(&subnetEnv{subnet: anywhere, ipMasq: true, mtu: 1500})
	if err != nil {
		return nil, err
	}
	return parseDelegate(record)
}

// del deletes the port mappings, the link, the masquerading rules and the
// reservation, as many as there are, and stops at the first that fails: an
// address is not given away while a link or a rule has it.
func del(r Request, n *network) error {
	w, err := n.wishes(r.Args)
	if err != nil {
		w = wishes{} // no ADD can have succeeded with these
	}
	if err := unmapPorts(n, portmap.Owner{ContainerID: r.ContainerID, IfName: r.IfName}); err != nil {
		return err
	}
	if err := deleteVeth(r, n, w); err != nil {
		return err
	}
	taken, err := reservations(ipamDir(n.ipam))
	if err != nil {
		return err
	}
	var ips []podIP
	for _, t := range taken {
		if t.of(r.ContainerID, r.IfName) {
			ips = append(ips, podIP{address: netip.PrefixFrom(t.ip, t.ip.BitLen())})
		}
	}
	if n.bridge.IPMasq {
		if err := unmasquerade(n, r, ips); err != nil {
			return err
		}
	}
	if len(ips) == 0 {
		return nil
	}
	m, err := openIPAM(n.ipam, false)
	if err != nil {
		return err
	}
	return errors.Join(m.release(r.ContainerID, r.IfName), m.close())
}

// deleteVeth deletes the pair by its end in the pod, or, when that is out of
// reach, by the one on the node.
func deleteVeth(r Request, n *network, w wishes) error {
	if r.Netns != "" {
		ns, err := openPod(r.Netns)
		switch {
		case err == nil:
			err := ns.Do(func() error { return deleteIfVeth(r.IfName, 0) })
			if err := errors.Join(err, ns.Close()); err != nil {
				return fmt.Errorf("in namespace %s: %w", r.Netns, err)
			}
		case !gone(err):
			return coded(types.ErrInvalidNetNS, "container "+r.ContainerID, err)
		}
	}
	k, err := openKernel()
	if err != nil {
		return err
	}
	br, err := k.link(n.bridge.Bridge)
	k.close()
	if err != nil || br == nil {
		return err
	}
	return deleteIfVeth(hostInterface(w, r), br.Attrs().Index)
}

// deleteIfVeth deletes a link of the calling thread's namespace by name; a
// link that is no veth, or is not a port of the given bridge, is not ours.
func deleteIfVeth(name string, bridge int) error {
	k, err := openKernel()
	if err != nil {
		return err
	}
	defer k.close()
	l, err := k.link(name)
	if err != nil || l == nil || l.Type() != "veth" {
		return err
	}
	if bridge != 0 && l.Attrs().MasterIndex != bridge {
		return nil
	}
	return k.delete(l.Attrs().Index)
}
