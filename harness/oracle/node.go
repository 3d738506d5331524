package oracle

import (
	"net/netip"
	"strings"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// node returns what a node ought to have.
func (c *cluster) node(n *topology.Node) []Fact {
	facts := []Fact{lo()}
	facts = append(facts, c.lease(n))
	facts = append(facts, c.underlay(n)...)
	facts = append(facts, c.bridge(n)...)
	facts = append(facts, c.backend(n)...)
	facts = append(facts, c.sysctls()...)
	facts = append(facts, c.policy()...)
	if !n.Agent.ByHand {
		facts = append(facts, c.subnetEnv(n)...)
		facts = append(facts, c.rules(n)...)
		facts = append(facts, c.hardening(n)...)
	}
	return facts
}

func lo() Fact { return link{name: "lo"}.fact().forPeer("", "the loopback") }

// underlay is what leads to the other machines: the planned interfaces, their
// addresses and routes.
func (c *cluster) underlay(n *topology.Node) []Fact {
	var facts []Fact
	for _, nic := range n.Interfaces {
		facts = append(facts, link{name: nic.Name, mtu: nic.MTU, mac: nic.MAC, carrier: true}.fact().forPeer("", "the underlay "+nic.Segment))
		for _, a := range []netip.Prefix{nic.Address, nic.Address6} {
			if a.IsValid() {
				facts = append(facts, address(nic.Name, a).forPeer("", "the underlay "+nic.Segment),
					connected(nic.Name, a).forPeer("", "the underlay "+nic.Segment))
			}
		}
		facts = append(facts, c.segmentNeighbours(n, nic)...)
	}
	for _, r := range n.Routes {
		dst := r.Dst
		if !dst.IsValid() {
			dst = netip.PrefixFrom(r.Via, 0).Masked()
		}
		facts = append(facts, route(probe.Route{Dst: dst, Via: r.Via, Dev: r.Dev}).forPeer("", "the underlay"))
	}
	return facts
}

// segmentNeighbours are the entries that ARP may have made for other nodes. A
// missing one is no fault, and one of another MAC is.
func (c *cluster) segmentNeighbours(n *topology.Node, nic topology.Interface) []Fact {
	var facts []Fact
	for i := range c.plan.Nodes {
		peer := &c.plan.Nodes[i]
		for _, other := range peer.Interfaces {
			if peer.Name == n.Name || other.Segment != nic.Segment || other.MAC.IsZero() {
				continue
			}
			for _, a := range []netip.Prefix{other.Address, other.Address6} {
				if a.IsValid() {
					facts = append(facts, resolved(a.Addr(), nic.Name, other.MAC).forPeer(peer.Name, peer.Name+"'s "+other.Name))
				}
			}
		}
	}
	return facts
}

// resolved is a neighbour entry that the kernel makes when it needs it.
func resolved(ip netip.Addr, dev string, mac topology.MAC) Fact {
	return neighbour(probe.Neighbour{IP: ip, Dev: dev, MAC: mac}).without("nud").optional()
}

// connected is the route that the kernel makes for an address.
func connected(dev string, a netip.Prefix) Fact {
	r := probe.Route{Dst: a.Masked(), Dev: dev}
	if a.Addr().Is4() {
		r.Src = a.Addr()
	}
	return route(r)
}

// bridge is cni0 with its ports. It exists from a node's first pod on.
func (c *cluster) bridge(n *topology.Node) []Fact {
	pods := c.plan.PodsOn(n.Name)
	l := link{name: bridge, typ: "bridge", mtu: c.plan.OverlayMTU(n), carrier: len(pods) > 0}
	if c.planned {
		l.mac = n.BridgeMAC
	}
	facts := []Fact{l.fact().forPeer("", "the pods' bridge")}
	for _, o := range c.families() {
		gw := o.gateway(n)
		facts = append(facts, address(bridge, gw).forPeer("", "the pods' gateway"), connected(bridge, gw).forPeer("", "the node's own pods"))
	}
	if len(pods) == 0 || !c.planned {
		for i := range facts {
			facts[i].Optional = true
		}
	}
	for i := range pods {
		facts = append(facts, c.port(n, &pods[i])...)
	}
	return facts
}

// port is the node's end of a pod's veth.
func (c *cluster) port(n *topology.Node, p *topology.Pod) []Fact {
	f := link{
		name: p.HostInterface, typ: "veth", mtu: c.plan.OverlayMTU(n),
		master: bridge, peer: p.Name + ":" + podLink, carrier: true,
	}.fact().forPeer(p.Name, p.Name+"'s port")
	f.Optional = !c.planned
	facts := []Fact{f}
	if !c.planned || p.MAC.IsZero() {
		return facts
	}
	for _, o := range c.families() {
		if a := o.address(p); a.IsValid() {
			facts = append(facts, resolved(a.Addr(), bridge, p.MAC).forPeer(p.Name, p.Name))
		}
	}
	return facts
}

// pod returns what a pod ought to have.
func (c *cluster) pod(p *topology.Pod) []Fact {
	n := c.plan.Node(p.Node)
	l := link{name: podLink, typ: "veth", mtu: c.plan.OverlayMTU(n), peer: n.Name + ":" + p.HostInterface, carrier: true}
	if c.planned {
		l.mac = p.MAC
	}
	facts := append([]Fact{lo(), l.fact().forPeer(n.Name, "the way to "+n.Name)}, c.policy()...)
	for _, o := range c.families() {
		a, gw := o.address(p), o.gateway(n).Addr()
		if !a.IsValid() {
			continue
		}
		facts = append(facts, address(podLink, a).forPeer("", "the pod's address"), connected(podLink, a).forPeer(n.Name, "pods of "+n.Name))
		// What flannel's plugin delegates has isDefaultGateway, and a route to
		// the network whatever the default becomes.
		anywhere := netip.PrefixFrom(gw, 0).Masked()
		facts = append(facts,
			route(probe.Route{Dst: anywhere, Via: gw, Dev: podLink}).forPeer(n.Name, "everything else"),
			route(probe.Route{Dst: o.network, Via: gw, Dev: podLink}).forPeer(n.Name, "the overlay"))
		if c.planned && !n.BridgeMAC.IsZero() {
			facts = append(facts, resolved(gw, podLink, n.BridgeMAC).forPeer(n.Name, n.Name+"'s "+bridge))
		}
	}
	return facts
}

// policy is the kernel's own routing policy: every namespace begins with it,
// and the overlay needs no other.
func (c *cluster) policy() []Fact {
	families := []string{"inet"}
	if c.plan.IPv6 != topology.IPv6Off {
		families = append(families, "inet6")
	}
	var facts []Fact
	for _, f := range families {
		facts = append(facts, policy(probe.Rule{Family: f, Action: "lookup local"}), policy(probe.Rule{Family: f, Priority: 32766, Action: "lookup main"}))
	}
	return facts
}

// policy makes the fact of a rule of the routing policy.
func policy(r probe.Rule) Fact {
	fields := []Field{bare("rule", strings.TrimSuffix(r.String(), " "+r.Action)), bare("action", r.Action)}
	f := Fact{Kind: KindPolicy, ID: r.Family + " " + r.String(), Fields: fields}
	if r.Priority != 0 {
		f = f.with(word("priority", itoa(r.Priority)))
	}
	return f.forPeer("", "the routing policy")
}
