package topology

import (
	"fmt"
	"net/netip"
)

// podCIDRs gives every node its subnet of the overlay.
func (x *expansion) podCIDRs() {
	v4 := x.assignSubnets(familyIPv4, &x.v4, "podCIDR", func(n *NodeSpec) netip.Prefix { return n.PodCIDR })
	for i, m := range x.nodes {
		m.plan.PodCIDR = v4[i]
	}
	c := &x.plan.Network
	c.Network, c.SubnetLen, c.SubnetMin, c.SubnetMax = x.v4.network, x.v4.len, x.v4.min, x.v4.last
	if !c.EnableIPv6 {
		for _, m := range x.nodes {
			if m.spec.PodCIDR6.IsValid() {
				x.notDual(m.path + ".podCIDR6")
			}
		}
		return
	}
	v6 := x.assignSubnets(familyIPv6, &x.v6, "podCIDR6", func(n *NodeSpec) netip.Prefix { return n.PodCIDR6 })
	for i, m := range x.nodes {
		m.plan.PodCIDR6 = v6[i]
	}
	c.IPv6Network, c.IPv6SubnetLen, c.IPv6SubnetMin, c.IPv6SubnetMax = x.v6.network, x.v6.len, x.v6.min, x.v6.last
}

// assignSubnets gives the nodes the subnets that the spec fixes, then each
// other node the one of its own position, or if that is taken the lowest that
// is free. Flannel's SubnetMin, unless the spec chose it, goes down to the
// network's first subnet when a node has that one: an agent refuses what is
// below it.
func (x *expansion) assignSubnets(f family, s *subnets, key string, fixed func(*NodeSpec) netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(x.nodes))
	if !s.network.IsValid() {
		return out
	}
	taken := map[netip.Prefix]*machine{}
	for i, m := range x.nodes {
		if p := fixed(m.spec); p.IsValid() && x.checkPodCIDR(f, s, i, m.path+"."+key, p, taken) {
			out[i], taken[p] = p, m
		}
	}
	for i, m := range x.nodes {
		if p, ok := s.nth(i); ok && !fixed(m.spec).IsValid() && taken[p] == nil {
			out[i], taken[p] = p, m
		}
	}
	for i, m := range x.nodes {
		if out[i].IsValid() || fixed(m.spec).IsValid() {
			continue
		}
		p, ok := s.free(taken)
		if !ok {
			x.add("spec.nodes", "are %d nodes, but %s has only %s for them (a /%d each, %s to %s); widen %sNetwork or raise %sSubnetLen",
				len(x.nodes), s.network, plural(len(taken), "subnet"), s.len, s.first, s.last, f.prefix, f.prefix)
			break
		}
		out[i], taken[p] = p, m
	}
	if !s.minFixed {
		for _, p := range out {
			if p.IsValid() && p.Addr().Less(s.min) || s.last.Less(s.min) {
				s.min = s.first
			}
		}
	}
	return out
}

// checkPodCIDR checks a subnet that the spec fixes for the i-th node.
func (x *expansion) checkPodCIDR(f family, s *subnets, i int, path string, p netip.Prefix, taken map[netip.Prefix]*machine) bool {
	offer := func() string { return s.offer(taken, i, len(x.nodes)) }
	if !x.checkFamily(path, p.Addr(), f.is4) {
		return false
	}
	switch q := p.Masked(); {
	case p != q:
		x.add(path, "is %s, an address within a subnet; write %s", p, q)
	case !s.network.Contains(p.Addr()):
		x.add(path, "is %s, outside the overlay's network %s; choose %s", p, s.network, offer())
	case p.Bits() != s.len:
		x.add(path, "is %s, a /%d; %sSubnetLen makes every node's subnet a /%d: write %s/%d", p, p.Bits(), f.prefix, s.len, netip.PrefixFrom(p.Addr(), s.len).Masked().Addr(), s.len)
	case p.Addr().Less(s.first) || s.last.Less(p.Addr()):
		x.add(path, "is %s, outside %sSubnetMin %s to %sSubnetMax %s; choose %s", p, f.prefix, s.first, f.prefix, s.last, offer())
	case taken[p] != nil && taken[p].path == x.nodes[i].path: // checkAlike's
	case taken[p] != nil:
		x.add(path, "overlaps %s's %s; choose %s", taken[p].name, p, offer())
	default:
		return true
	}
	return false
}

// offer proposes a subnet for the i-th of n nodes: its own by position, or
// one that no node has by position, or any that is free.
func (s *subnets) offer(taken map[netip.Prefix]*machine, i, n int) string {
	if p, ok := s.nth(i); ok && taken[p] == nil {
		return p.String()
	}
	for ; ; n++ {
		p, ok := s.nth(n)
		if !ok {
			break
		}
		if taken[p] == nil {
			return p.String()
		}
	}
	if p, ok := s.free(taken); ok {
		return p.String()
	}
	return "a wider network, since every subnet is taken"
}

// pod is a pod while it is planned.
type pod struct {
	Pod
	path string
	node *machine
	spec PodSpec
}

// pods settles the pods: those of the spec in its order, then the ones that
// podsPerNode asks for, node by node, called pod-1 and so on.
func (x *expansion) pods() {
	x.runtime()
	pods := x.namedPods()
	pods = append(pods, x.generatedPods(pods)...)
	if len(pods) > maxPods {
		x.add("spec.pods", "and podsPerNode make more than %d pods, the most that a lab has", maxPods)
		return
	}
	on := map[*machine][]*pod{}
	for _, p := range pods {
		on[p.node] = append(on[p.node], p)
	}
	x.checkVTEPs()
	for _, m := range x.nodes {
		x.wire(m, on[m])
	}
	for _, p := range pods {
		x.plan.Pods = append(x.plan.Pods, p.Pod)
	}
}

// namedPods returns the pods of spec.pods whose node there is.
func (x *expansion) namedPods() []*pod {
	var out []*pod
	for i, s := range x.spec.Pods[:min(len(x.spec.Pods), maxPods+1)] {
		path := at("spec.pods", i)
		if x.checkLabel(path+".name", s.Name, 63) {
			x.register(s.Name, path+".name")
		}
		if m := x.node(path+".node", s.Node); m != nil {
			out = append(out, &pod{Pod: Pod{Name: s.Name, Node: m.name}, path: path, node: m, spec: s})
		}
	}
	return out
}

// generatedPods fills every node up to podsPerNode.
func (x *expansion) generatedPods(named []*pod) []*pod {
	fill := 0
	if x.spec.Pods == nil {
		fill = 2
	}
	fill = x.between("spec.podsPerNode", x.spec.PodsPerNode, 0, maxBridgePorts, fill, ", the ports of a node's bridge")
	have := map[*machine]int{}
	for _, p := range named {
		have[p.node]++
	}
	var out []*pod
	total, next := len(named), 1
	for _, m := range x.nodes {
		for ; have[m] < fill && total <= maxPods; have[m]++ {
			for x.names[fmt.Sprintf("pod-%d", next)] != "" {
				next++
			}
			name := fmt.Sprintf("pod-%d", next)
			x.names[name] = "spec.podsPerNode"
			total++
			out = append(out, &pod{Pod: Pod{Name: name, Node: m.name}, path: "spec.podsPerNode", node: m})
		}
	}
	return out
}

// checkVTEPs checks the fixed MACs of the VTEPs, which are together on the
// overlay's own L2 network.
func (x *expansion) checkVTEPs() {
	vteps := map[MAC]holder{}
	for _, m := range x.nodes {
		if mine := m.path + ".vtepMAC"; !m.plan.VtepMAC.IsZero() && vteps[m.plan.VtepMAC].path != mine {
			x.claimMAC(vteps, m.plan.VtepMAC, mine, "overlay")
		}
	}
}

// wire settles the addresses of one node's pods.
func (x *expansion) wire(m *machine, pods []*pod) {
	if len(pods) > maxBridgePorts {
		x.add("spec.pods", "put %d pods on %s; a bridge of the kernel has at most %d ports", len(pods), m.name, maxBridgePorts)
		return
	}
	where := m.name + "'s cni0"
	macs := map[MAC]holder{}
	m.plan.BridgeMAC = x.claimMAC(macs, m.spec.BridgeMAC, m.path+".bridgeMAC", where, m.name, "cni0")
	for _, p := range pods {
		x.container(p)
		p.ContainerID = digest("container", x.plan.Name, p.Name)
		p.SandboxID = digest("sandbox", x.plan.Name, p.Name)
		p.MAC = x.claimMAC(macs, p.spec.MAC, p.path+".mac", where, p.Name, "eth0")
	}
	x.hostInterfaces(m, pods)
	x.ports(m, pods)
	x.podAddresses(m, pods, m.plan.PodCIDR, "address", func(p *pod) (netip.Addr, *netip.Prefix) { return p.spec.Address, &p.Address })
	if x.plan.Network.EnableIPv6 {
		x.podAddresses(m, pods, m.plan.PodCIDR6, "address6", func(p *pod) (netip.Addr, *netip.Prefix) { return p.spec.Address6, &p.Address6 })
		return
	}
	for _, p := range pods {
		if p.spec.Address6.IsValid() {
			x.notDual(p.path + ".address6")
		}
	}
}

// hostInterfaces names the node's ends of the veths: the fixed names first.
func (x *expansion) hostInterfaces(m *machine, pods []*pod) {
	for _, p := range pods {
		name, path := p.spec.HostInterface, p.path+".hostInterface"
		if name == "" || !x.checkIfname(path, name, ifnameMax) {
			continue
		}
		if first := m.ifnames[name]; first != "" {
			x.add(path, "is %s, as is %s on %s; choose another name", name, first, m.name)
			continue
		}
		p.HostInterface = m.ifnames.fit(name, path)
	}
	for _, p := range pods {
		for from := 0; p.HostInterface == ""; from++ {
			name := "veth" + digest("veth", p.ContainerID, fmt.Sprint(from))[:8]
			if from == 0 {
				name = "veth" + p.ContainerID[:8]
			}
			if m.ifnames[name] == "" {
				p.HostInterface = m.ifnames.fit(name, p.path)
			}
		}
	}
}

// podAddresses gives the pods of one node the addresses that the spec fixes,
// and the others the lowest that are free, in order. The subnet's first host
// is cni0's.
func (x *expansion) podAddresses(m *machine, pods []*pod, cidr netip.Prefix, key string, of func(*pod) (fixed netip.Addr, out *netip.Prefix)) {
	if !cidr.IsValid() {
		return
	}
	gateway := cidr.Addr().Next()
	taken := map[netip.Addr]string{}
	for _, p := range pods {
		if a, out := of(p); a.IsValid() && x.checkPodAddress(m, cidr, p.path+"."+key, a) && x.claim(taken, a, p.path+"."+key, "node "+m.name) {
			*out = netip.PrefixFrom(a, cidr.Bits())
		}
	}
	next := gateway.Next()
	for _, p := range pods {
		fixed, out := of(p)
		if fixed.IsValid() {
			continue
		}
		for isHost(cidr, next) && taken[next] != "" {
			next = next.Next()
		}
		if !isHost(cidr, next) {
			x.once(p.path, "puts %d pods on %s, but its %s has room for %d; lower the number, or make SubnetLen smaller", len(pods), m.name, cidr, hosts(cidr)-1)
			return
		}
		taken[next] = p.path
		*out = netip.PrefixFrom(next, cidr.Bits())
	}
}

// checkPodAddress checks an address that the spec fixes.
func (x *expansion) checkPodAddress(m *machine, cidr netip.Prefix, path string, a netip.Addr) bool {
	if !x.checkFamily(path, a, cidr.Addr().Is4()) {
		return false
	}
	switch {
	case !cidr.Contains(a):
		x.add(path, "is %s, outside the %s of its node %s; choose one from %s on, or another node", a, cidr, m.name, cidr.Addr().Next().Next())
	case a == cidr.Addr().Next():
		x.add(path, "is %s, the address of cni0 on %s; choose one from %s on", a, m.name, a.Next())
	case a == cidr.Addr():
		x.add(path, "is %s, the network address of %s's %s; choose one from %s on", a, m.name, cidr, a.Next().Next())
	case !isHost(cidr, a):
		x.add(path, "is %s, the broadcast address of %s's %s; choose one before it", a, m.name, cidr)
	default:
		return true
	}
	return false
}
