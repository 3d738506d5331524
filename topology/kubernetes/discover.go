package kubernetes

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/topology"
)

// Discovery is what the API tells of a cluster.
type Discovery struct {
	// Version is the API server's.
	Version string
	Network *Network
	// Nodes are those that probes can run on, the control plane's first, then by
	// name.
	Nodes []Node
	// LeftOut are the other nodes, each with why.
	LeftOut []string
}

// Node is a node of the cluster.
type Node struct {
	Name    string
	Role    topology.Role
	Address netip.Addr
	// PodCIDR is its IPv4 subnet of the pods, invalid where the network gives it
	// none.
	PodCIDR netip.Prefix
	// Leased says that it has flannel's annotations.
	Leased  bool
	Machine Machine
}

// Machine is what a node's kubelet says of its machine.
type Machine struct {
	// Kernel is the release, Platform Go's name for the system.
	Kernel, Platform string
	Processors       int
}

// discover asks the API.
func discover(ctx context.Context, a *api) (*Discovery, error) {
	var list corev1.NodeList
	if err := a.list(ctx, nodeResource(), "", "", &list); err != nil {
		return nil, fmt.Errorf("list the cluster's nodes: %w", err)
	}
	d := new(Discovery)
	var err error
	if d.Version, err = a.version(ctx); err != nil {
		d.Version = "of unknown version" // it is told, and nothing rests on it
	}
	if d.Network, err = network(ctx, a, list.Items); err != nil {
		return nil, err
	}
	for i := range list.Items {
		n := &list.Items[i]
		address, why := reachable(n)
		if why != "" {
			d.LeftOut = append(d.LeftOut, n.Name+": "+why)
			continue
		}
		d.Nodes = append(d.Nodes, Node{
			Name: n.Name, Role: role(n), Address: address, PodCIDR: podCIDR(n),
			Leased: n.Annotations["flannel.alpha.coreos.com/kube-subnet-manager"] == "true",
			Machine: Machine{
				Kernel:     n.Status.NodeInfo.KernelVersion,
				Platform:   n.Status.NodeInfo.OperatingSystem + "/" + n.Status.NodeInfo.Architecture,
				Processors: int(n.Status.Capacity.Cpu().Value()),
			},
		})
	}
	slices.SortFunc(d.Nodes, func(a, b Node) int {
		return cmp.Or(strings.Compare(string(a.Role), string(b.Role)), strings.Compare(a.Name, b.Name))
	})
	if len(d.Nodes) == 0 {
		return nil, fmt.Errorf("the cluster has no node that a probe can run on: %s", cmp.Or(strings.Join(d.LeftOut, "; "), "it has none at all"))
	}
	return d, nil
}

// reachable returns a node's internal IPv4 address, or why no probe can run
// there.
func reachable(n *corev1.Node) (address netip.Addr, why string) {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && a.Type == corev1.NodeInternalIP && !address.IsValid() {
			address = ip
		}
	}
	if system := n.Labels[corev1.LabelOSStable]; system != "" && system != "linux" {
		return address, "its system is " + system
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
			return address, cmp.Or("it is not ready: "+c.Message, "it is not ready")
		}
	}
	if !address.IsValid() {
		return address, "it has no internal IPv4 address"
	}
	return address, ""
}

func role(n *corev1.Node) topology.Role {
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		if _, ok := n.Labels[label]; ok {
			return topology.ControlPlane
		}
	}
	return topology.Worker
}

// podCIDR is a node's IPv4 subnet.
func podCIDR(n *corev1.Node) netip.Prefix {
	for _, text := range append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...) {
		if p, err := netip.ParsePrefix(text); err == nil && p.Addr().Is4() {
			return p.Masked()
		}
	}
	return netip.Prefix{}
}

// podsANode is how many pods of ours each node has: two that share a bridge.
const podsANode = 2

// plan is the lab as far as the API knows it, with the pods that are to be
// made. What only kernels know is not in it: an interface of a node has its
// address alone.
func (d *Discovery) plan(context string) *topology.Plan {
	n := d.Network
	p := &topology.Plan{
		APIVersion: topology.APIVersion, Name: labName(context), Provider: Name, Existing: true, IPv6: topology.IPv6Off,
		Network: topology.NetConf{EnableIPv4: true, Network: n.Pods},
		Runtime: topology.RuntimeNetns,
	}
	for _, node := range d.Nodes {
		if node.Leased {
			p.Store = topology.Store{Type: "kubernetes", Node: d.Nodes[0].Name}
		}
		p.Nodes = append(p.Nodes, topology.Node{
			Name: node.Name, Role: node.Role, PodCIDR: node.PodCIDR,
			Interfaces: []topology.Interface{{Address: netip.PrefixFrom(node.Address, node.Address.BitLen())}},
			Agent:      topology.Agent{ByHand: !n.flannels(), IPMasq: n.Masquerades, Restart: topology.RestartAlways},
		})
		for range podsANode {
			p.Pods = append(p.Pods, topology.Pod{Name: fmt.Sprintf("pod-%d", len(p.Pods)+1), Node: node.Name})
		}
	}
	return p
}
