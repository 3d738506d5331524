package suite

import (
	"context"
	"maps"
	"slices"

	"github.com/overlab/overlab/topology"
)

// A Feature is something that a lab must offer for a check to mean anything.
// Its text completes "the lab has no …".
type Feature string

// The features that a plan offers.
const (
	// Pods: at least one pod.
	Pods Feature = "pod"
	// SameNodePods: two pods on one node.
	SameNodePods Feature = "node with two pods"
	// PodPorts: a pod that answers at a port of its node, over TCP or UDP and
	// IPv4.
	PodPorts Feature = "port of a node that leads to a pod over TCP or UDP"
	// CrossNodePods: pods on two nodes.
	CrossNodePods Feature = "two nodes with pods"
	// Peers: at least two nodes.
	Peers Feature = "second node"
	// IPv4: the overlay carries IPv4.
	IPv4 Feature = "IPv4 overlay"
	// IPv6: the overlay carries IPv6.
	IPv6 Feature = "IPv6 overlay"
	// KernelDatapath: packets never pass through a userspace proxy, which
	// would count as a hop.
	KernelDatapath Feature = "backend in the kernel"
	// VXLAN: the backend is vxlan.
	VXLAN Feature = "vxlan backend"
	// FullMesh: every packet between nodes is encapsulated; with
	// DirectRouting those of one segment are not.
	FullMesh Feature = "vxlan backend without DirectRouting"
	// Connects: the backend carries packets between nodes, which alloc does
	// not.
	Connects Feature = "backend that connects nodes"
	// HostGW: the backend is host-gw.
	HostGW Feature = "host-gw backend"
	// IPIP: the backend is ipip, and takes every packet between nodes.
	IPIP Feature = "ipip backend without DirectRouting"
	// UDP: the backend is udp, whose proxies count as hops.
	UDP Feature = "udp backend"
	// WireGuard: the backend is wireguard.
	WireGuard Feature = "wireguard backend"
	// IPsec: the backend is ipsec.
	IPsec Feature = "ipsec backend"
	// DirectRouting: the backend is vxlan, and leaves it out on one segment.
	DirectRouting Feature = "vxlan backend with DirectRouting"
	// SegmentPeers: two nodes with pods have their agents' interfaces on one
	// segment.
	SegmentPeers Feature = "segment with two nodes that have pods"
	// OverlayAddress: nodes have an address on a device of the overlay, and
	// speak from it to remote pods.
	OverlayAddress Feature = "overlay device between all nodes"
	// InKernel: no process can be what carries the backend's packets.
	InKernel Feature = "backend that only the kernel carries"
	// Masquerade: an agent is asked to masquerade what leaves the overlay.
	Masquerade Feature = "agent that masquerades"
	// EtcdStore: the leases live in etcd.
	EtcdStore Feature = "etcd store"
	// NoKubeProxy: no kube-proxy filters what is forwarded (it drops what
	// connection tracking takes for invalid) and masquerades what bears 0x4000.
	NoKubeProxy Feature = "node without kube-proxy"
	// Bridge: pods are wired as flannel's plugin wires them.
	Bridge Feature = "pod network whose pods are on a bridge cni0"
	// Leases: the leases are where the harness can read them.
	Leases Feature = "store of leases"
	// WritableLeases: and write them. Nodes of an existing cluster are others'.
	WritableLeases Feature = "store of leases that the harness may write to"
)

// AgentRestarter is what a Lab also is when it can end and start again the
// agent of one node. RestartAgent returns when the new one is ready.
type AgentRestarter interface {
	RestartAgent(ctx context.Context, node string) error
}

// AgentHolder is what a Lab also is when it can keep the agent of one node
// ended for a while. HoldAgent kills it and returns when it is gone; release
// returns when the next one is ready. A harness that ends releases it too.
type AgentHolder interface {
	HoldAgent(ctx context.Context, node string) (release func(context.Context) error, err error)
}

// NodeRestarter is what a Lab also is when it can restart the machine of one
// node, which ends the pods on it. RestartNode returns when the node is back,
// with its agent and pods; Plan then tells what of them is new. See Env.Renew.
type NodeRestarter interface {
	RestartNode(ctx context.Context, node string) error
}

// NodeCordoner is what a Lab also is when it can keep new pods off a node, as
// before its maintenance. A harness that ends uncordons it too.
type NodeCordoner interface {
	CordonNode(ctx context.Context, node string) (uncordon func(context.Context) error, err error)
}

// StoreHolder is what a Lab also is when it can keep its store ended for a
// while, as AgentHolder keeps an agent. The store's data stay.
type StoreHolder interface {
	HoldStore(ctx context.Context) (release func(context.Context) error, err error)
}

// PluginHost is what a Lab also is when its nodes have CNI plugins that can be
// run. Plugins returns a node's network configuration list, and the folders of
// its executables.
type PluginHost interface {
	Plugins(node string) (list []byte, path []string, err error)
}

// Features returns what a plan offers.
func Features(p *topology.Plan) []Feature {
	perNode := map[string]int{}
	most := 0
	for _, pod := range p.Pods {
		perNode[pod.Node]++
		most = max(most, perNode[pod.Node])
	}
	perSegment := map[string]int{}
	for i := range p.Nodes {
		if n := &p.Nodes[i]; perNode[n.Name] > 0 {
			perSegment[n.Underlay().Segment]++
		}
	}
	crowded := slices.Max(append(slices.Collect(maps.Values(perSegment)), 0))
	b := p.Network.Backend
	var out []Feature
	for _, f := range []struct {
		Feature
		there bool
	}{
		{Pods, len(p.Pods) > 0},
		{SameNodePods, most > 1},
		{PodPorts, len(NodePorts(p)) > 0},
		{CrossNodePods, len(perNode) > 1},
		{Peers, len(p.Nodes) > 1},
		{IPv4, p.Network.EnableIPv4},
		{IPv6, p.Network.EnableIPv6},
		{KernelDatapath, b.Type != "udp"},
		{VXLAN, b.Type == "vxlan"},
		{FullMesh, b.Type == "vxlan" && !b.DirectRouting},
		{Connects, b.Connects()},
		{HostGW, b.Type == "host-gw"},
		{IPIP, b.Type == "ipip" && !b.DirectRouting},
		{UDP, b.Type == "udp"},
		{WireGuard, b.Type == "wireguard"},
		{IPsec, b.Type == "ipsec"},
		{DirectRouting, b.Type == "vxlan" && b.DirectRouting},
		{SegmentPeers, crowded > 1},
		{OverlayAddress, slices.Contains([]string{"vxlan", "ipip", "wireguard", "udp"}, b.Type) && !b.DirectRouting},
		{InKernel, b.Type == "vxlan" || b.Type == "host-gw"},
		{Masquerade, slices.ContainsFunc(p.Nodes, func(n topology.Node) bool { return n.Agent.IPMasq && !n.Agent.ByHand })},
		{EtcdStore, p.Store.Type == "etcd"},
		{NoKubeProxy, p.Store.Type != "kubernetes" && !p.Existing},
		{Bridge, p.CNI.Foreign == ""},
		{Leases, p.Store.Type == "etcd" || p.Store.Type == "kubernetes"},
		{WritableLeases, p.Store.Type == "etcd" || p.Store.Type == "kubernetes" && !p.Existing},
	} {
		if f.there {
			out = append(out, f.Feature)
		}
	}
	return out
}
