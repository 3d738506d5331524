package oracle

import (
	"net/netip"
	"strings"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// found makes the facts of a node's or pod's dump. Two labs of one plan have
// the same facts, whichever provider and kernel made them: indices, order,
// counters, timers and the kernel's own entries are left out.
func (c *cluster) found(name string, states map[string]*probe.State) []Fact {
	st := states[name]
	s := space{c: c, name: name, st: st, states: states, names: c.portNames(name, states)}
	var facts []Fact
	for _, l := range st.Links {
		facts = append(facts, s.link(l))
		for _, a := range l.Addresses {
			if !kernels(a.Addr()) {
				facts = append(facts, address(s.called(l.Name), a))
			}
		}
	}
	for _, r := range st.Routes {
		if !kernels(r.Dst.Addr()) && !ofAddress(r) {
			r.Dev = s.called(r.Dev)
			facts = append(facts, route(r))
		}
	}
	for _, n := range st.Neighbours {
		if kernels(n.IP) || n.State == "NOARP" || n.MAC.IsZero() {
			continue // those without a MAC say that nobody answered
		}
		n.Dev = s.called(n.Dev)
		facts = append(facts, neighbour(n))
	}
	for _, e := range st.FDB {
		if s.mesh(e) {
			e.Dev = s.called(e.Dev)
			facts = append(facts, fdb(e))
		}
	}
	for _, r := range st.Rules {
		facts = append(facts, policy(r))
	}
	return facts
}

// kernels reports whether the kernel alone gives out an address, or a route to
// it: the loopback's, multicast, and IPv6's on each link.
func kernels(a netip.Addr) bool {
	return a.IsLoopback() || a.IsMulticast() || a.Is6() && a.IsLinkLocalUnicast()
}

// ofAddress reports whether a route is the one that the kernel adds with an
// IPv6 address that is alone in its prefix; of IPv4 it adds none.
func ofAddress(r probe.Route) bool {
	return r.Dst.Addr().Is6() && r.Dst.IsSingleIP() && r.Protocol == "kernel"
}

// space is one namespace's dump, with the names that its links have in the plan.
type space struct {
	c      *cluster
	name   string
	st     *probe.State
	states map[string]*probe.State
	names  map[string]string
}

// portNames are the plan's names for a node's ends of pods' veths, where a
// foreign CNI plugin chose others.
func (c *cluster) portNames(node string, states map[string]*probe.State) map[string]string {
	names := map[string]string{}
	if c.planned {
		return names
	}
	for _, p := range c.plan.PodsOn(node) {
		if pod := states[p.Name]; pod != nil {
			if eth0 := pod.Link(podLink); eth0 != nil {
				if l := states[node].LinkByIndex(eth0.Peer); l != nil && l.Kind == "veth" {
					names[l.Name] = p.HostInterface
				}
			}
		}
	}
	return names
}

// called returns the plan's name for a link.
func (s space) called(dev string) string {
	if planned, ok := s.names[dev]; ok {
		return planned
	}
	return dev
}

// link makes the fact of a link with every field that a plan may judge.
func (s space) link(l probe.Link) Fact {
	j := link{name: s.called(l.Name), typ: l.Kind, mtu: l.MTU, mac: l.MAC, carrier: true}
	if m := s.st.LinkByIndex(l.Master); m != nil {
		j.master = m.Name
	}
	if l.Kind == "veth" {
		j.peer = s.peer(l)
	}
	if v := l.VXLAN; v != nil {
		j.vxlan = &vxlan{vni: v.VNI, port: v.Port, local: v.Local, group: v.Group, learning: v.Learning, gbp: v.GBP}
		if d := s.st.LinkByIndex(v.Dev); d != nil {
			j.vxlan.dev = d.Name
		}
	}
	f := j.fact()
	for i := range f.Fields {
		switch x := &f.Fields[i]; {
		case x.Name == "state" && !l.Up:
			x.Value = "down"
		case x.Name == "carrier" && (l.Oper == "down" || l.Oper == "lower-layer-down" || !l.Up):
			x.Value = "no-carrier"
		}
	}
	return f
}

// peer returns the namespace and name of a veth's other end, empty where that
// is in no namespace of the plan that has been dumped.
func (s space) peer(l probe.Link) string {
	there := func(name string) string {
		st := s.states[name]
		if st == nil {
			return ""
		}
		p := st.LinkByIndex(l.Peer)
		if p == nil || p.Kind != "veth" || p.Peer != l.Index {
			return ""
		}
		renamed := p.Name
		if planned, ok := s.c.portNames(name, s.states)[p.Name]; ok {
			renamed = planned
		}
		return name + ":" + renamed
	}
	if p := s.c.plan.Pod(s.name); p != nil {
		return there(p.Node)
	}
	// Every pod's eth0 has the same index as a rule, so that of several that
	// would fit only the one whose own peer is this link does.
	for _, p := range s.c.plan.PodsOn(s.name) {
		if at := there(p.Name); strings.HasSuffix(at, ":"+podLink) {
			return at
		}
	}
	return ""
}

// mesh reports whether somebody made a forwarding entry that leads frames: on a
// VXLAN device any but those for multicast, on a bridge's port one that is not
// the port's own and was not learnt.
func (s space) mesh(e probe.FDBEntry) bool {
	l := s.st.Link(e.Dev)
	if l == nil || e.MAC[0]&1 == 1 {
		return false
	}
	if l.VXLAN != nil {
		return e.Self && (e.State == "permanent" || e.State == "static" || !s.c.plan.Network.Backend.Learning)
	}
	if e.Self || e.State != "permanent" && e.State != "static" {
		return false
	}
	for _, own := range s.st.Links {
		if own.MAC == e.MAC {
			return false
		}
	}
	return true
}

// owned reports whether a fact that nobody wants is a difference: the oracle
// answers for the overlay's devices, for what leads to the overlay's and the
// underlay's networks, and for everything in a pod.
func (c *cluster) owned(space string, f Fact) bool {
	if n := c.plan.Node(space); n != nil {
		return c.ownedOnNode(n, f)
	}
	return c.ownedInPod(f)
}

func (c *cluster) ownedInPod(f Fact) bool {
	switch f.Kind {
	case KindLink:
		up, _ := f.field("state")
		return up == "up" // the kernel gives each namespace some that are down
	case KindNeighbour:
		return isPermanent(f)
	case KindPolicy:
		return foreignPolicy(f)
	}
	return true
}

func (c *cluster) ownedOnNode(n *topology.Node, f Fact) bool {
	switch f.Kind {
	case KindLink:
		master, _ := f.field("master")
		return c.overlayDevice(f.ID) || master == bridge && !c.plan.Existing
	case KindAddress:
		a, _ := f.field("address")
		p, err := netip.ParsePrefix(a)
		return c.overlayDevice(f.Dev) || n.Interface(f.Dev) != nil && !c.plan.Existing || err == nil && c.inOverlay(p)
	case KindRoute:
		return c.ownedRoute(f)
	case KindNeighbour:
		return isPermanent(f) && (c.overlayDevice(f.Dev) || n.Interface(f.Dev) != nil && !c.plan.Existing)
	case KindFDB:
		return c.overlayDevice(f.Dev) || f.Alt == ""
	case KindPolicy:
		return foreignPolicy(f)
	case KindXFRMState, KindXFRMPolicy:
		return c.ownedXFRM(f)
	case KindFile:
		return strings.HasPrefix(f.ID, "FLANNEL_") && !n.Agent.ByHand
	case KindIPTables, KindIP6Tables, KindNFTables:
		return !n.Agent.ByHand || !strings.Contains(strings.ToUpper(f.ID), "FLANNEL-")
	}
	return true
}

// ownedRoute reports whether a route that nobody wants can lead the overlay's
// packets, bare or encapsulated, astray.
func (c *cluster) ownedRoute(f Fact) bool {
	if c.overlayDevice(f.Dev) {
		return true
	}
	dst, _ := f.field("dst")
	p, err := netip.ParsePrefix(dst)
	if err != nil || p.Bits() == 0 {
		return !c.plan.Existing // a default route is an underlay's
	}
	if c.inOverlay(p) {
		return true
	}
	for _, s := range c.plan.Segments {
		if within(p, s.CIDR) || within(p, s.CIDR6) {
			return true
		}
	}
	return false
}

// inOverlay reports whether a prefix is of the overlay's networks; what an
// extension's commands make there is theirs.
func (c *cluster) inOverlay(p netip.Prefix) bool {
	if c.plan.Network.Backend.Type == "extension" {
		return false
	}
	for _, o := range c.families() {
		if within(p, o.network) {
			return true
		}
	}
	return false
}

func within(p, network netip.Prefix) bool {
	return network.IsValid() && p.Bits() >= network.Bits() && network.Contains(p.Addr())
}

// overlayDevice reports whether a link is one that only flannel makes.
func (c *cluster) overlayDevice(dev string) bool {
	return dev == bridge || dev == "flannel0" || strings.HasPrefix(dev, "flannel.") || strings.HasPrefix(dev, "flannel-")
}

func isPermanent(f Fact) bool {
	state, _ := f.field("nud")
	return state == "PERMANENT"
}

// foreignPolicy reports whether a rule of the routing policy is not one that
// the kernel makes.
func foreignPolicy(f Fact) bool {
	what, _ := f.field("rule")
	action, _ := f.field("action")
	return what != "from all" || action != "lookup local" && action != "lookup main" && action != "lookup default"
}
