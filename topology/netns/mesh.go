package netns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/wholefile"
	"github.com/overlab/overlab/topology"
)

// meshTimeout is how long agents may take to form the mesh.
const meshTimeout = 60 * time.Second

// meshWatch tells when a node's kernel has a route to every other node's
// subnet. Agents program a peer's route last (flannel's order is neighbour,
// FDB, route), so the routes' presence means that the mesh is complete. It
// asks the kernel and not the agent, so it is the same for any agent and for
// any backend. One route to the whole overlay serves for all peers, as that of
// flannel's udp does; of a backend that connects no nodes nothing is awaited.
type meshWatch struct {
	node string
	// networks are the overlay's, one for each of its families.
	networks []netip.Prefix
	// peers are the other nodes' subnets, missing those without a route.
	peers, missing map[netip.Prefix]bool
	// down: a route came while its device had no carrier.
	down    bool
	set     *netns.Set
	updates chan netlink.RouteUpdate
	stop    chan struct{}
}

// watchMesh begins to watch a node before its agent starts.
func watchMesh(p *topology.Plan, n *topology.Node, s *space) (*meshWatch, error) {
	w := &meshWatch{
		node: n.Name, set: s.set, networks: []netip.Prefix{p.Network.Network, p.Network.IPv6Network}, peers: map[netip.Prefix]bool{},
		updates: make(chan netlink.RouteUpdate, 2*len(p.Nodes)), stop: make(chan struct{}),
	}
	for i := range p.Nodes {
		peer := &p.Nodes[i]
		if peer.Name == n.Name || peer.Agent.ByHand || !p.Network.Backend.Connects() {
			continue
		}
		w.peers[peer.PodCIDR] = true
		if peer.PodCIDR6.IsValid() {
			w.peers[peer.PodCIDR6] = true
		}
	}
	w.missing = maps.Clone(w.peers)
	err := s.set.Do(func() error {
		return netlink.RouteSubscribeWithOptions(w.updates, w.stop, netlink.RouteSubscribeOptions{ListExisting: true})
	})
	if err != nil {
		return nil, fmt.Errorf("watch the routes of node %s: %w", n.Name, err)
	}
	return w, nil
}

// wait returns when no peer is missing, and every route carries packets.
func (w *meshWatch) wait(ctx context.Context) error {
	defer close(w.stop)
	for len(w.missing) > 0 {
		select {
		case u, open := <-w.updates:
			if !open {
				return fmt.Errorf("watch the routes of node %s: the kernel closed the subscription", w.node)
			}
			w.note(u)
		case <-ctx.Done():
			return fmt.Errorf("node %s has no route to %s: %w", w.node, w.first(), context.Cause(ctx))
		}
	}
	if w.down {
		return w.waitCarrier(ctx)
	}
	return nil
}

// waitCarrier returns when no route leads to a device without a carrier, which
// drops what it is to send. A TUN device has one when its process has opened it,
// and the kernel takes note a moment later, of which it tells no listener for
// routes.
func (w *meshWatch) waitCarrier(ctx context.Context) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		down, err := w.linkdown()
		if err != nil || down == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("node %s: the device of the route to %s has no carrier: %w", w.node, down, context.Cause(ctx))
		}
	}
}

// linkdown returns the destination of a route whose device has no carrier, nil
// if there is none.
func (w *meshWatch) linkdown() (dst *net.IPNet, err error) {
	err = w.set.Do(func() error {
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		if errors.Is(err, netlink.ErrDumpInterrupted) {
			err = nil // what is wrong in the list is looked at again
		}
		for _, r := range routes {
			if to, ok := prefixOf(r.Dst); ok && w.awaited(to) && r.Flags&unix.RTNH_F_LINKDOWN != 0 {
				dst = r.Dst
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the routes of node %s: %w", w.node, err)
	}
	return dst, nil
}

// awaited reports whether routes to a destination are for peers.
func (w *meshWatch) awaited(dst netip.Prefix) bool {
	return w.peers[dst] || slices.Contains(w.networks, dst)
}

func (w *meshWatch) note(u netlink.RouteUpdate) {
	if dst, ok := prefixOf(u.Dst); ok && u.Type == unix.RTM_NEWROUTE {
		w.noteRoute(dst)
		w.down = w.down || u.Flags&unix.RTNH_F_LINKDOWN != 0 && w.awaited(dst)
	}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

func (w *meshWatch) noteRoute(dst netip.Prefix) {
	if slices.Contains(w.networks, dst) {
		maps.DeleteFunc(w.missing, func(p netip.Prefix, _ bool) bool { return dst.Contains(p.Addr()) })
	}
	delete(w.missing, dst)
}

func (w *meshWatch) first() netip.Prefix {
	all := make([]netip.Prefix, 0, len(w.missing))
	for p := range w.missing {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return all[0]
}

// writeSubnetFiles writes subnet.env, by flannel's keys, on nodes where no agent
// does.
func writeSubnetFiles(p *topology.Plan) error {
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if !n.Agent.ByHand {
			continue
		}
		env := fmt.Sprintf("FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", p.Network.Network, n.Gateway())
		if n.PodCIDR6.IsValid() {
			env += fmt.Sprintf("FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", p.Network.IPv6Network,
				netip.PrefixFrom(n.PodCIDR6.Addr().Next(), n.PodCIDR6.Bits()))
		}
		env += fmt.Sprintf("FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", p.OverlayMTU(n), n.Agent.IPMasq)
		// In one step, as an agent does.
		if err := wholefile.WriteBytes(nodeFolder(n.Name, "run/flannel/subnet.env"), 0o644, []byte(env)); err != nil {
			return fmt.Errorf("write subnet.env of node %s: %w", n.Name, err)
		}
	}
	return nil
}

// subnetFilePoll is how often eachSubnetFile looks. It looks instead of being
// told: inotify's instances are few (fs.inotify.max_user_instances, 128 as a
// rule), shared with all else on the machine, and two kind clusters use them up.
const subnetFilePoll = 2 * time.Millisecond

// eachSubnetFile calls found once for each node whose agent has written its
// subnet.env, from which on pods can be wired, until all have.
func eachSubnetFile(ctx context.Context, p *topology.Plan, found func(node string) error) error {
	waiting := map[string]bool{}
	for i := range p.Nodes {
		waiting[p.Nodes[i].Name] = true
	}
	tick := time.NewTicker(subnetFilePoll)
	defer tick.Stop()
	for {
		for node := range waiting {
			if _, err := os.Stat(nodeFolder(node, "run/flannel/subnet.env")); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return fmt.Errorf("look for subnet.env of node %s: %w", node, err)
			}
			delete(waiting, node)
			if err := found(node); err != nil {
				return err
			}
		}
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			nodes := slices.Sorted(maps.Keys(waiting))
			return &noSubnetFile{node: nodes[0], others: len(nodes) - 1, err: context.Cause(ctx)}
		}
	}
}

// noSubnetFile says that a node's agent wrote no subnet.env.
type noSubnetFile struct {
	node   string
	others int
	err    error
}

func (e *noSubnetFile) Error() string {
	more := ""
	if e.others > 0 {
		more = fmt.Sprintf(" (nor did those of %d other nodes)", e.others)
	}
	return fmt.Sprintf("node %s's agent did not write /run/flannel/subnet.env%s: %v", e.node, more, e.err)
}

func (e *noSubnetFile) Unwrap() error { return e.err }
