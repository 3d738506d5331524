package topology

import (
	"slices"
	"strings"
)

// What a lab may hold. A bridge of the kernel has at most 1023 ports
// (BR_MAX_PORTS, net/bridge/br_private.h); the other limits keep a slip of
// the keyboard from filling one machine.
const (
	maxBridgePorts = 1023
	maxNodes       = 1024
	maxPods        = 10_000
	maxSegments    = 256
	maxRouters     = 256
	maxInterfaces  = 64 // of one node or router
)

// Plan fills in every default and decides every name, address and MAC. It is
// pure: the same spec gives the same plan on any machine. Its error is Errors.
func (s *Spec) Plan() (*Plan, error) {
	src := s.source
	if src == nil {
		src = &source{}
	}
	r := &report{source: src}
	plan := expand(s, r)
	if err := r.err(); err != nil {
		return nil, err
	}
	return plan, nil
}

// expansion is a spec on its way to a plan. Each phase reads what the earlier
// ones decided, and goes on past an error, so that one run finds them all.
type expansion struct {
	*report
	spec *LabSpec
	plan *Plan

	// v4 and v6 are the overlay's networks.
	v4, v6   subnets
	segments []*segmentEntry
	routers  []*machine
	nodes    []*machine
	// segmentNames holds the path of every segment by its name.
	segmentNames map[string]string
	// names holds the path of every node, router and pod by its name: they
	// share one namespace, since commands take any of them.
	names map[string]string
	// ifnames are the interface names of the underlay's own namespace.
	ifnames namer
}

// machine is a node or a router while it is planned.
type machine struct {
	name       string
	path       string
	interfaces []*nic
	routes     []Route
	// reaches holds the segments that the machine can send to.
	reaches map[*segmentEntry]bool
	// partial tells that something about the interfaces was wrong, so that
	// what does not match them is not worth a second error.
	partial bool
	// ifnames are the interface names inside the machine.
	ifnames namer
	// spec and plan are nil for a router.
	spec *NodeSpec
	plan *Node
}

// expand runs the phases. The plan is whole only if nothing was reported.
func expand(s *Spec, r *report) *Plan {
	x := &expansion{report: r, spec: &s.Spec, plan: &Plan{APIVersion: APIVersion},
		names: map[string]string{}, segmentNames: map[string]string{}, ifnames: namer{}}
	x.header(s)
	x.network()
	x.expandNodes()
	x.underlay()
	x.services()
	x.routing()
	x.agents()
	x.podCIDRs()
	x.pods()
	x.store()
	x.cni()
	x.assemble()
	x.checkMTUs()
	return x.plan
}

// header settles what the lab is, is called, and is built with.
func (x *expansion) header(s *Spec) {
	if s.APIVersion != APIVersion {
		x.add("apiVersion", "is %s; this build reads %s", show(s.APIVersion), APIVersion)
	}
	if s.Kind != Kind {
		x.add("kind", "is %s; this build reads %s", show(s.Kind), Kind)
	}
	x.plan.Name = s.Metadata.Name
	if x.plan.Name == "" {
		x.plan.Name = "lab"
	}
	// The name is part of the path of a unix socket, which ends at 107 bytes.
	x.checkLabel("metadata.name", x.plan.Name, 40)
	x.plan.Provider = x.choose("spec.provider", s.Spec.Provider, []string{"netns", "kind", "vagrant", "kubernetes"})
}

// choose returns the known word that was written, or the first for none.
func (x *expansion) choose(path, word string, known []string) string {
	if word == "" {
		return known[0]
	}
	if slices.Contains(known, word) {
		return word
	}
	x.add(path, "is %s; write %s%s", show(word), oneOf(known), didYouMean(word, known))
	return known[0]
}

// between checks a number that somebody wrote, and returns it or the default.
func (x *expansion) between(path string, n *int, least, most, otherwise int, why string) int {
	if n == nil {
		return otherwise
	}
	if *n < least || *n > most {
		x.add(path, "is %d; it must be %d to %d%s", *n, least, most, why)
		return otherwise
	}
	return *n
}

// expandNodes turns the node entries into nodes, and registers their names
// and those of the routers.
func (x *expansion) expandNodes() {
	entries := x.spec.Nodes
	two := 2
	if entries == nil {
		entries = []NodeSpec{{Name: "master", Role: string(ControlPlane)}, {Name: "node", Count: &two}}
	} else if len(entries) == 0 {
		x.add("spec.nodes", "is empty; a lab has one node at least: leave nodes out for a master and two workers")
	}
	for i := range entries {
		if len(x.nodes) <= maxNodes {
			x.expandNode(&entries[i], at("spec.nodes", i))
		}
	}
	if len(x.nodes) > maxNodes {
		x.add("spec.nodes", "makes more than %d nodes, the most that a lab has", maxNodes)
		x.nodes = x.nodes[:maxNodes]
	}
	if n := len(x.spec.Routers); n > maxRouters {
		x.add("spec.routers", "are %d routers; a lab has at most %d", n, maxRouters)
	}
	for i := range x.spec.Routers[:min(len(x.spec.Routers), maxRouters)] {
		path := at("spec.routers", i)
		name := x.spec.Routers[i].Name
		if x.checkLabel(path+".name", name, 63) {
			x.register(name, path+".name")
		}
		x.routers = append(x.routers, &machine{name: name, path: path, ifnames: namer{}})
	}
}

// expandNode makes the nodes of one entry.
func (x *expansion) expandNode(n *NodeSpec, path string) {
	role := Role(x.choose(path+".role", n.Role, []string{string(Worker), string(ControlPlane)}))
	names := []string{n.Name}
	if n.Count != nil {
		names = numbered(n.Name, x.between(path+".count", n.Count, 1, maxNodes, 1, " nodes"))
	}
	for _, name := range names {
		if !x.checkLabel(path+".name", name, 63) {
			break
		}
		x.register(name, path+".name")
	}
	if t := strings.ToLower(x.spec.Network.Backend.Type); !n.VtepMAC.IsZero() && t != "" && t != "vxlan" {
		x.add(path+".vtepMAC", "is the MAC address of a VXLAN device, and the backend is %s; leave it out", t)
	}
	if len(names) > 1 {
		x.checkAlike(n, path, len(names))
	}
	for _, name := range names {
		x.nodes = append(x.nodes, &machine{name: name, path: path, spec: n, ifnames: namer{},
			plan: &Node{Name: name, Role: role, VtepMAC: n.VtepMAC}})
	}
}

// checkAlike refuses what only one node can have in an entry that makes many.
func (x *expansion) checkAlike(n *NodeSpec, path string, count int) {
	for _, k := range []struct {
		key   string
		fixed bool
	}{
		{"podCIDR", n.PodCIDR.IsValid()},
		{"podCIDR6", n.PodCIDR6.IsValid()},
		{"vtepMAC", !n.VtepMAC.IsZero()},
	} {
		if k.fixed {
			x.add(path+"."+k.key, "is fixed, but the entry makes %d nodes, which cannot share it; give each node an entry of its own", count)
		}
	}
}

// register claims a name for a node, router or pod.
func (x *expansion) register(name, path string) {
	switch first, taken := x.names[name]; {
	case !taken:
		x.names[name] = path
	case first == path:
		x.add(path, "makes %s twice; choose another name", name)
	default:
		x.add(path, "is %s, as is %s; nodes, routers and pods need different names", name, first)
	}
}

// node returns the node of that name, after filing why there is none.
func (x *expansion) node(path, name string) *machine {
	if i := slices.IndexFunc(x.nodes, func(m *machine) bool { return m.name == name }); i >= 0 {
		return x.nodes[i]
	}
	if x.lost("spec.nodes", len(x.spec.Nodes), "name", "count") || len(x.nodes) == 0 {
		return nil
	}
	var names []string
	for _, m := range x.nodes {
		names = append(names, m.name)
	}
	x.add(path, "is %s, and no node is called that; %s", show(name), suggestOrList(name, names))
	return nil
}

// lost reports whether some entry of a list may have had any name: the list,
// the entry or one of the keys that make its name could not be decoded.
func (x *expansion) lost(list string, n int, keys ...string) bool {
	if !x.badUnder(list) {
		return false
	}
	if x.source.bad[list] {
		return true
	}
	for i := range n {
		entry := at(list, i)
		if x.source.bad[entry] || slices.ContainsFunc(keys, func(k string) bool { return x.source.bad[entry+"."+k] }) {
			return true
		}
	}
	return false
}

// suggestOrList names the nearest candidate, or the first few there are.
func suggestOrList(word string, names []string) string {
	if c := Nearest(word, names); c != "" {
		return "did you mean \"" + c + "\"?"
	}
	const few = 8
	if len(names) > few {
		return "there are " + strings.Join(names[:few], ", ") + " …"
	}
	return "there are " + strings.Join(names, ", ")
}

// store settles where the leases live.
func (x *expansion) store() {
	s := &x.spec.Store
	x.plan.Store = Store{
		Type:   x.choose("spec.store.type", s.Type, []string{"etcd"}),
		Port:   x.between("spec.store.port", s.Port, 1, 65535, 2379, ""),
		Prefix: s.Prefix,
		Node:   s.Node,
	}
	st := &x.plan.Store
	switch {
	case st.Prefix == "":
		st.Prefix = "/coreos.com/network"
	case !plainPrefix.MatchString(st.Prefix):
		x.add("spec.store.prefix", "is %s; write a key prefix such as /coreos.com/network, without a slash at its end", show(st.Prefix))
	}
	if len(x.nodes) == 0 {
		return
	}
	if st.Node == "" {
		i := max(0, slices.IndexFunc(x.nodes, func(n *machine) bool { return n.plan.Role == ControlPlane }))
		st.Node = x.nodes[i].name
	} else if x.node("spec.store.node", st.Node) == nil {
		return
	}
	x.checkHealthz(st)
}

// cni settles how pods are wired.
func (x *expansion) cni() {
	x.plan.CNI.LegacyRecords = or(x.spec.CNI.LegacyRecords, false)
	if x.plan.CNI.LegacyRecords && x.plan.Network.EnableIPv6 {
		x.add("spec.cni.legacyRecords", "is true, but the lab is dual stack, and the old form has room for one subnet; leave it out")
	}
	x.conflist()
}

// assemble copies what the phases decided into the plan.
func (x *expansion) assemble() {
	for _, e := range x.segments {
		for _, s := range e.copies {
			x.plan.Segments = append(x.plan.Segments, s.Segment)
		}
	}
	for _, m := range x.routers {
		x.plan.Routers = append(x.plan.Routers, Router{Name: m.name, Interfaces: m.planned(), Routes: m.routes})
	}
	for _, m := range x.nodes {
		m.plan.Interfaces, m.plan.Routes = m.planned(), m.routes
		x.plan.Nodes = append(x.plan.Nodes, *m.plan)
	}
}

func (m *machine) planned() []Interface {
	var out []Interface
	for _, i := range m.interfaces {
		out = append(out, i.Interface)
	}
	return out
}
