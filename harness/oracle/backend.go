package oracle

import (
	"net/netip"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// backends says what each backend makes on a node for one address family. A
// backend that is not in the table makes nothing that is known here.
func (c *cluster) backends() map[string]func(overlay, *topology.Node) []Fact {
	none := func(overlay, *topology.Node) []Fact { return nil }
	return map[string]func(overlay, *topology.Node) []Fact{
		"vxlan":     c.vxlan,
		"host-gw":   c.hostGW,
		"ipip":      c.ipip,
		"udp":       c.udp,
		"wireguard": c.wireguard,
		"alloc":     none,
		"ipsec":     c.ipsec,
		"extension": none,
	}
}

// backend is what the plan's backend makes on a node.
func (c *cluster) backend(n *topology.Node) []Fact {
	of := c.backends()[c.plan.Network.Backend.Type]
	if of == nil {
		return nil
	}
	var facts []Fact
	for _, o := range c.families() {
		facts = append(facts, of(o, n)...)
	}
	return facts
}

// peers are the other nodes.
func (c *cluster) peers(n *topology.Node) []*topology.Node {
	var out []*topology.Node
	for i := range c.plan.Nodes {
		if p := &c.plan.Nodes[i]; p.Name != n.Name {
			out = append(out, p)
		}
	}
	return out
}

// vxlan is flannel.VNI with its address, and for each peer the three entries
// that take the place of ARP and of learning (RFC 7348 section 4 leaves to
// management how a VTEP knows them): whose MAC the peer's VTEP has, to which
// node a frame for this MAC goes, and what is behind it.
func (c *cluster) vxlan(o overlay, n *topology.Node) []Fact {
	b, dev := c.plan.Network.Backend, o.vtep
	device := link{
		name: dev, typ: "vxlan", mtu: c.plan.OverlayMTU(n), mac: o.macs[n.Name],
		vxlan: &vxlan{vni: b.VNI, port: b.Port, local: o.public(n), dev: n.Agent.Underlay, learning: b.Learning, gbp: b.GBP},
	}
	facts := []Fact{
		device.fact().forPeer("", "the VTEP"),
		address(dev, o.host(n)).forPeer("", "the VTEP's address"),
	}
	for _, p := range c.peers(n) {
		if nic := adjacent(n, o.public(p)); b.DirectRouting && nic != "" {
			facts = append(facts, bareRoute(o, p, nic).without("onlink"))
			continue
		}
		facts = append(facts, o.meshEntries(dev, p)...)
	}
	return facts
}

// meshEntries are a node's three entries for one peer.
func (o overlay) meshEntries(dev string, p *topology.Node) []Fact {
	via, mac := o.subnet(p).Addr(), o.macs[p.Name]
	near := neighbour(probe.Neighbour{IP: via, Dev: dev, MAC: mac, State: "PERMANENT"})
	to := fdb(probe.FDBEntry{MAC: mac, Dev: dev, Dst: o.public(p), Self: true, State: "permanent"})
	if mac.IsZero() {
		near, to = near.unknown("lladdr"), to.unknown("mac")
		to.ID = ""
	}
	vtep := p.Name + "'s VTEP"
	return []Fact{
		near.forPeer(p.Name, vtep),
		to.forPeer(p.Name, vtep),
		route(probe.Route{Dst: o.subnet(p), Via: via, Dev: dev, Onlink: true}).forPeer(p.Name, p.Name+"'s pods"),
	}
}

// hostGW is a route for each peer, by the peer's own address.
func (c *cluster) hostGW(o overlay, n *topology.Node) []Fact {
	var facts []Fact
	for _, p := range c.peers(n) {
		facts = append(facts, bareRoute(o, p, n.Agent.Underlay))
	}
	return facts
}

// bareRoute leads to a peer's pods by the peer's own address, which is on the
// link.
func bareRoute(o overlay, p *topology.Node, dev string) Fact {
	return route(probe.Route{Dst: o.subnet(p), Via: o.public(p), Dev: dev}).forPeer(p.Name, p.Name+"'s pods")
}

// adjacent returns the interface whose segment an address is on, empty where a
// router is between: what flannel's DirectRouting asks the kernel.
func adjacent(n *topology.Node, ip netip.Addr) string {
	for _, nic := range n.Interfaces {
		for _, a := range []netip.Prefix{nic.Address, nic.Address6} {
			if a.IsValid() && a.Masked().Contains(ip) {
				return nic.Name
			}
		}
	}
	return ""
}

// ipip is flannel.ipip and a route through it for each peer. Only the routes'
// device tells a peer of the segment from others; a userspace device, which
// takes the kernel's place where it has none, looks the same but for its type.
func (c *cluster) ipip(o overlay, n *topology.Node) []Fact {
	const dev = "flannel.ipip"
	facts := []Fact{
		link{name: dev, mtu: c.plan.OverlayMTU(n)}.fact().forPeer("", "the tunnel"),
		address(dev, o.host(n)).forPeer("", "the tunnel's address"),
	}
	for _, p := range c.peers(n) {
		if nic := adjacent(n, o.public(p)); c.plan.Network.Backend.DirectRouting && nic != "" {
			facts = append(facts, bareRoute(o, p, nic).without("onlink"))
			continue
		}
		r := probe.Route{Dst: o.subnet(p), Via: o.public(p), Dev: dev, Onlink: true}
		facts = append(facts, route(r).forPeer(p.Name, p.Name+"'s pods"))
	}
	return facts
}

// udp is the proxy's TUN device, which takes the whole network.
func (c *cluster) udp(o overlay, n *topology.Node) []Fact {
	return c.oneDevice(o, n, "flannel0", "the proxy")
}

// wireguard is the device of the family, which takes the whole network; which
// peer a packet is for, it knows by the peers' allowed addresses.
func (c *cluster) wireguard(o overlay, n *topology.Node) []Fact {
	return append(c.oneDevice(o, n, o.wireguard, "the tunnel"), c.wireguardPeers(o, n)...)
}

// oneDevice is a device that one route sends the whole network to.
func (c *cluster) oneDevice(o overlay, n *topology.Node, dev, purpose string) []Fact {
	return []Fact{
		link{name: dev, mtu: c.plan.OverlayMTU(n)}.fact().forPeer("", purpose),
		address(dev, o.host(n)).forPeer("", purpose+"'s address"),
		route(probe.Route{Dst: o.network, Dev: dev}).forPeer("", "all peers' pods"),
	}
}
