package faults

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// bridge is the node's bridge of pods.
const bridge = "cni0"

// Scene is where a fault happens: the lab as it is, and who plays which part.
// A Break function reads it and adds steps; the first error ends the injection
// before anything is done.
type Scene struct {
	ctx context.Context
	lab topology.Lab
	// plan is the lab's as the fault's address family sees it.
	plan *topology.Plan
	// node is broken; peer is whom it does not reach then.
	node, peer *topology.Node
	// pod is node's first pod, sibling its second, nil if it has one.
	pod, sibling *topology.Pod
	states       map[string]*probe.State
	steps        []Step
	errs         []error
}

// Where says on which nodes a fault happens. The zero Where is the first
// worker with pods and the next node with pods after it.
type Where struct{ Node, Peer string }

// newScene casts the parts.
func newScene(ctx context.Context, lab topology.Lab, plan *topology.Plan, w Where) (*Scene, error) {
	s := &Scene{ctx: ctx, lab: lab, plan: plan, states: map[string]*probe.State{}}
	var crowd []*topology.Node
	for i := range s.plan.Nodes {
		if n := &s.plan.Nodes[i]; len(s.plan.PodsOn(n.Name)) > 0 {
			crowd = append(crowd, n)
		}
	}
	if len(crowd) == 0 {
		return nil, fmt.Errorf("lab %s has no pods: a fault would harm nobody", s.plan.Name)
	}
	at := max(0, slices.IndexFunc(crowd, func(n *topology.Node) bool { return n.Name != s.plan.Store.Node }))
	s.node = crowd[at]
	var err error
	if w.Node != "" {
		if s.node, err = among(crowd, w.Node); err != nil {
			return nil, err
		}
		at = slices.Index(crowd, s.node)
	}
	s.peer = crowd[(at+1)%len(crowd)]
	if w.Peer != "" {
		if s.peer, err = among(crowd, w.Peer); err != nil {
			return nil, err
		}
	}
	if w.Peer == s.node.Name {
		return nil, fmt.Errorf("%s cannot be its own peer: name two nodes", w.Peer)
	}
	pods := s.plan.PodsOn(s.node.Name)
	s.pod = &pods[0]
	if len(pods) > 1 {
		s.sibling = &pods[1]
	}
	return s, nil
}

func among(nodes []*topology.Node, name string) (*topology.Node, error) {
	var names []string
	for _, n := range nodes {
		if n.Name == name {
			return n, nil
		}
		names = append(names, n.Name)
	}
	return nil, fmt.Errorf("no node with pods is called %q: there are %s", name, strings.Join(names, ", "))
}

// cast puts the parts' names into a text.
func (s *Scene) cast(text string) string {
	return strings.NewReplacer("{node}", s.node.Name, "{peer}", s.peer.Name, "{pod}", s.pod.Name).Replace(text)
}

// fail records why the fault cannot be.
func (s *Scene) fail(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}

func (s *Scene) err() error { return errors.Join(s.errs...) }

// on adds a step: two command lines without quotes, to be run in a namespace.
func (s *Scene) on(space, do, undo string) {
	s.step(space, strings.Fields(do), strings.Fields(undo))
}

// step adds a step whose commands are words. No undo is the empty list.
func (s *Scene) step(space string, do, undo []string) {
	st := Step{Do: Op{Space: space, Argv: do}}
	if len(undo) > 0 {
		st.Undo = Op{Space: space, Argv: undo}
	}
	s.steps = append(s.steps, st)
}

// script adds a step of several commands each.
func (s *Scene) script(space string, do, undo []string) {
	s.step(space, shell(do), shell(undo))
}

func shell(lines []string) []string { return []string{"sh", "-c", strings.Join(lines, " && ")} }

// pause stops a node's agent, which would repair at once what comes next. It
// is the last that is undone.
func (s *Scene) pause(n *topology.Node) {
	if n.Agent.ByHand {
		return
	}
	status, err := s.lab.Status(s.ctx)
	if err != nil {
		s.fail("find the agent of %s: %w", n.Name, err)
		return
	}
	for _, a := range status.Agents {
		if a.Node == n.Name && a.PID != 0 {
			// A busy thread goes on for a moment after the signal.
			s.script(n.Name, []string{fmt.Sprintf("kill -STOP %d", a.PID), fmt.Sprintf("until grep -q 'State:.T' /proc/%d/status; do :; done", a.PID)},
				// One that was restarted meanwhile is not stopped.
				[]string{fmt.Sprintf("kill -CONT %d 2>/dev/null || test ! -e /proc/%[1]d", a.PID)})
		}
	}
}

// state is a namespace's state as it is before the fault.
func (s *Scene) state(name string) *probe.State {
	if st := s.states[name]; st != nil {
		return st
	}
	st, err := s.dump(name)
	if err != nil {
		s.fail("look at %s: %w", name, err)
		st = new(probe.State)
	}
	s.states[name] = st
	return st
}

func (s *Scene) dump(name string) (*probe.State, error) {
	ns, err := s.lab.Namespace(name)
	if err != nil {
		return nil, err
	}
	session, err := probe.Open(s.ctx, ns)
	if err != nil {
		return nil, err
	}
	defer session.Close() // it only reads
	return session.State(s.ctx)
}

// link is a link of a namespace; an empty one, and a failure, if there is none.
func (s *Scene) link(space, name string) probe.Link {
	if l := s.state(space).Link(name); l != nil {
		return *l
	}
	s.fail("%s has no %s", space, name)
	return probe.Link{}
}

// vtep is the name of the overlay's device.
func (s *Scene) vtep() string {
	if s.plan.Is6() {
		return fmt.Sprintf("flannel-v6.%d", s.plan.Network.Backend.VNI)
	}
	return fmt.Sprintf("flannel.%d", s.plan.Network.Backend.VNI)
}

// ip is ip(8) where it must be told the family, layer the family's word in
// nft(8), and iptables its program.
func (s *Scene) ip() string {
	if s.plan.Is6() {
		return "ip -6"
	}
	return "ip"
}

func (s *Scene) layer() string {
	if s.plan.Is6() {
		return "ip6"
	}
	return "ip"
}

func (s *Scene) iptables() string { return s.layer() + "tables" }

// anywhere is where the default route leads.
func (s *Scene) anywhere() netip.Prefix { return netip.PrefixFrom(s.node.PodCIDR.Addr(), 0).Masked() }

// uplink is the name of the node's interface on the underlay.
func (s *Scene) uplink() string { return s.node.Underlay().Name }

// peerFDB is the entry that leads to the peer's VTEP.
func (s *Scene) peerFDB() probe.FDBEntry {
	for _, f := range s.state(s.node.Name).FDBOf(s.vtep()) {
		if f.Dst == s.peer.PublicIP() {
			return f
		}
	}
	s.fail("%s has no FDB entry for %s", s.node.Name, s.peer.Name)
	return probe.FDBEntry{}
}

// peerNeighbour is the entry that names the peer's VTEP.
func (s *Scene) peerNeighbour() probe.Neighbour {
	for _, n := range s.state(s.node.Name).NeighboursOn(s.vtep()) {
		if n.IP == s.peer.PodCIDR.Masked().Addr() {
			return n
		}
	}
	s.fail("%s has no neighbour entry for %s", s.node.Name, s.peer.Name)
	return probe.Neighbour{}
}

// peerRoute is the route to the peer's pods.
func (s *Scene) peerRoute() probe.Route { return s.route(s.node.Name, s.peer.PodCIDR.Masked()) }

// route is a namespace's route to a prefix.
func (s *Scene) route(space string, dst netip.Prefix) probe.Route {
	for _, r := range s.state(space).Routes {
		if r.Dst == dst {
			return r
		}
	}
	s.fail("%s has no route to %s", space, dst)
	return probe.Route{}
}

// restored is what `ip route` is told to have a route again, its origin too.
func restored(r probe.Route) string {
	text := r.String()
	if r.Protocol != "" && r.Protocol != "unspec" && r.Protocol != "boot" {
		text += " proto " + r.Protocol
	}
	if !r.Via.IsValid() && r.Kind == "" {
		text += " scope link"
	}
	return text
}

// routesVia are the commands that give a namespace back the routes through a
// device, which go when the device goes down or its address does.
func (s *Scene) routesVia(space, dev string) []string {
	var out []string
	for _, r := range s.state(space).RoutesVia(dev) {
		if a := r.Dst.Addr(); a.Is6() == s.plan.Is6() && !a.IsLinkLocalUnicast() && !a.IsMulticast() {
			out = append(out, "ip route replace "+restored(r))
		}
	}
	// Those with a gateway need the others first.
	slices.SortStableFunc(out, func(a, b string) int {
		return cmp.Compare(strings.Count(a, " via "), strings.Count(b, " via "))
	})
	return out
}

// port is the node's end of a pod's veth.
func (s *Scene) port(p *topology.Pod) string {
	eth0 := s.link(p.Name, "eth0")
	if l := s.state(p.Node).LinkByIndex(eth0.Peer); l != nil {
		return l.Name
	}
	s.fail("%s has no end of the veth of %s", p.Node, p.Name)
	return ""
}

// nobody is an address of the node's segment that nobody has.
func (s *Scene) nobody() netip.Addr {
	cidr := s.node.Underlay().Address.Masked()
	taken := map[netip.Addr]bool{}
	for i := range s.plan.Nodes {
		for _, x := range s.plan.Nodes[i].Interfaces {
			taken[x.Address.Addr()] = true
		}
	}
	for i := range s.plan.Routers {
		for _, x := range s.plan.Routers[i].Interfaces {
			taken[x.Address.Addr()] = true
		}
	}
	// From the middle: gateways and broadcast addresses are at the ends.
	a := cidr.Addr()
	for range 99 {
		a = a.Next()
	}
	for ; cidr.Contains(a); a = a.Next() {
		if !taken[a] && a.Next().IsValid() && cidr.Contains(a.Next()) {
			return a
		}
	}
	s.fail("%s has no address that nobody has", cidr)
	return a
}

// nobodyMAC is a VTEP MAC that nobody has.
func nobodyMAC() topology.MAC { return topology.DeriveMAC("nobody", "vtep") }

// spare is a subnet of the overlay that no node has.
func (s *Scene) spare() netip.Prefix {
	n := s.plan.Network
	p := netip.PrefixFrom(n.SubnetMax, n.SubnetLen)
	if slices.ContainsFunc(s.plan.Nodes, func(n topology.Node) bool { return n.PodCIDR.Overlaps(p) }) {
		s.fail("every subnet of %s belongs to a node", n.Network)
	}
	return p
}

// sysctl sets a sysctl of a namespace; its key is a path below /proc/sys.
func (s *Scene) sysctl(space, key, value string) {
	before, err := output(s.ctx, s.lab, space, []string{"cat", "/proc/sys/" + key})
	if err != nil {
		s.fail("read sysctl %s of %s: %w", key, space, err)
		return
	}
	s.on(space, "sysctl -qw "+key+"="+value, "sysctl -qw "+key+"="+strings.TrimSpace(before))
}

// table is the nftables table of faults that need rules.
const table = "site"

// nft adds rules in a table and chain of their own; chain is as "filter hook
// forward priority -10".
func (s *Scene) nft(space, family, chain string, rules ...string) {
	// One argument each: nft would take a negative priority for an option.
	s.step(space, []string{"nft", "add table " + family + " " + table}, []string{"nft", "delete table " + family + " " + table})
	s.step(space, []string{"nft", "add chain " + family + " " + table + " rules { type " + chain + " ; }"}, nil)
	for _, r := range rules {
		s.step(space, []string{"nft", "add rule " + family + " " + table + " rules " + r}, nil)
	}
}

// lease is a node's key in the store.
func (s *Scene) lease(n *topology.Node) lease.Entry {
	all, err := lease.Entries(s.ctx, s.lab)
	if err != nil {
		s.fail("%w", err)
	}
	subnet := s.lab.Plan().Node(n.Name).PodCIDR.Masked()
	for _, e := range all {
		if v4, _, _ := strings.Cut(e.Key, "&"); v4 == lease.Key(subnet) {
			return e
		}
	}
	s.fail("%s has no lease", n.Name)
	return lease.Entry{Value: "{}"}
}

// alter changes a node's lease.
func (s *Scene) alter(n *topology.Node, change func(value map[string]any)) {
	before := s.lease(n)
	after := before
	after.Value = s.changed(before.Value, change)
	s.steps = append(s.steps, Step{Do: Op{Lease: &after}, Undo: Op{Lease: &before}})
}

// put adds a key to the leases.
func (s *Scene) put(key, value string) {
	e := &lease.Entry{Key: key, Value: value}
	s.steps = append(s.steps, Step{Do: Op{Lease: e}, Undo: Op{Lease: e, Gone: true}})
}

func (s *Scene) changed(value string, change func(map[string]any)) string {
	var v map[string]any
	err := json.Unmarshal([]byte(value), &v)
	if err != nil {
		s.fail("lease %q: %w", value, err)
		return value
	}
	change(v)
	b, err := json.Marshal(v)
	if err != nil {
		s.fail("lease %v: %w", v, err)
	}
	return string(b)
}

// backendData is the part of a lease that belongs to the backend's device of
// the family.
func (s *Scene) backendData(value map[string]any) map[string]any {
	key := "BackendData"
	if s.plan.Is6() {
		key = "BackendV6Data"
	}
	if d, ok := value[key].(map[string]any); ok {
		return d
	}
	d := map[string]any{}
	value[key] = d
	return d
}

// publicIP is the lease's key of the address that peers send to.
func (s *Scene) publicIP() string {
	if s.plan.Is6() {
		return "PublicIPv6"
	}
	return "PublicIP"
}

// end keeps a node's agent, or with an empty name the store, ended.
func (s *Scene) end(node string) {
	s.steps = append(s.steps, Step{Do: Op{Space: node, Keep: "end"}, Undo: Op{Space: node, Keep: "start"}})
}

// third is a node that is neither part.
func (s *Scene) third() *topology.Node {
	for i := range s.plan.Nodes {
		if n := &s.plan.Nodes[i]; n.Name != s.node.Name && n.Name != s.peer.Name {
			return n
		}
	}
	s.fail("lab %s has no third node", s.plan.Name)
	return s.peer
}

// tunnelPort is the overlay's UDP port.
func (s *Scene) tunnelPort() string { return fmt.Sprint(s.plan.Network.Backend.Port) }
