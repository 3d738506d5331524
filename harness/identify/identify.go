// Package identify finds out what carries the pods' packets of a lab that was
// there before: from the state of its nodes' kernels, and from what a packet of
// a pod looks like on the wire between two nodes. What the configuration says is
// told beside it, and is not taken for granted.
package identify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Told is what is said of the pod network, by configuration.
type Told struct {
	// Plugin is its name, empty where nobody knows it.
	Plugin string
	// NetConf is flannel's net-conf.json where there is one, and NetConfIn where.
	NetConf   []byte
	NetConfIn string
	// Folders of the nodes hold configuration lists of CNI, where they can be
	// read.
	Folders []string
}

// Result is what was found.
type Result struct {
	// Plan is the lab's, with what the kernels have: interfaces, segments,
	// addresses and MACs. Its backend is flannel's that was recognised; otherwise
	// its type is the plugin's name, or Unknown.
	Plan *topology.Plan
	// Recognised says that the backend is one of flannel's.
	Recognised bool
	// Kernel is what the routes of the nodes lead to, and Wire what was seen
	// between them.
	Kernel Kernel
	Wire   Wire
	// Notes say all that in words, a line each.
	Notes []string
}

// Unknown is the backend of a plugin without a name.
const Unknown = "unknown"

// atOnce is in how many namespaces something is done at a time.
const atOnce = 16

// Run looks at a lab whose plan has its nodes with their addresses, and its pods
// with theirs. The plan itself is left as it is.
func Run(ctx context.Context, lab topology.Lab, told Told) (*Result, error) {
	plan, err := clone(lab.Plan())
	if err != nil {
		return nil, err
	}
	l := &look{lab: lab, plan: plan, sessions: map[string]*probe.Session{}, states: map[string]*probe.State{}}
	defer l.close()
	if err := l.open(ctx); err != nil {
		return nil, err
	}
	for i := range plan.Nodes {
		if err := l.node(&plan.Nodes[i]); err != nil {
			return nil, err
		}
	}
	l.segments()
	for i := range plan.Pods {
		if err := l.pod(&plan.Pods[i]); err != nil {
			return nil, err
		}
	}
	r := &Result{Plan: plan, Kernel: l.kernel()}
	if r.Wire, err = l.wire(ctx); err != nil {
		return nil, err
	}
	r.decide(l, told)
	r.Notes = append(r.Notes, l.lists(ctx, told.Folders)...)
	return r, nil
}

func clone(p *topology.Plan) (*topology.Plan, error) {
	b, err := json.Marshal(p)
	c := new(topology.Plan)
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	if err != nil {
		return nil, fmt.Errorf("copy the plan: %w", err)
	}
	return c, nil
}

// look is one look at a lab.
type look struct {
	lab  topology.Lab
	plan *topology.Plan

	mu       sync.Mutex
	sessions map[string]*probe.Session
	states   map[string]*probe.State
	// bridged says that every pod is behind cni0, as flannel's plugin wires them.
	bridged bool
}

// open opens a session on each node and in each pod, and dumps their state.
func (l *look) open(ctx context.Context) error {
	var names []string
	for i := range l.plan.Nodes {
		names = append(names, l.plan.Nodes[i].Name)
	}
	for i := range l.plan.Pods {
		names = append(names, l.plan.Pods[i].Name)
	}
	var wg sync.WaitGroup
	errs := make([]error, len(names))
	slots := make(chan struct{}, atOnce)
	for i, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = l.enter(ctx, name)
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *look) enter(ctx context.Context, name string) error {
	ns, err := l.lab.Namespace(name)
	if err != nil {
		return err
	}
	s, err := probe.Enter(ctx, ns)
	if err != nil {
		return err
	}
	st, err := s.State(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions[name], l.states[name] = s, st
	return err
}

func (l *look) close() {
	var wg sync.WaitGroup
	for s := range maps.Values(l.sessions) {
		wg.Go(func() { _ = s.Close() }) // it has measured
	}
	wg.Wait()
}

// node fills in the interface that has the node's address.
func (l *look) node(n *topology.Node) error {
	st := l.states[n.Name]
	if len(n.Interfaces) != 1 {
		return fmt.Errorf("node %s: its address is not known", n.Name)
	}
	i := &n.Interfaces[0]
	link, address := withAddress(st, i.Address.Addr())
	if link == nil {
		return fmt.Errorf("node %s: no interface has its address %s", n.Name, i.Address.Addr())
	}
	i.Name, i.Address, i.MAC, i.MTU = link.Name, address, link.MAC, link.MTU
	n.Agent.Underlay = i.Name
	n.Routes = nil
	for _, r := range st.Routes {
		if r.Dst.Bits() == 0 && r.Via.Is4() && r.Dev == i.Name {
			n.Routes = append(n.Routes, topology.Route{Via: r.Via, Dev: r.Dev})
		}
	}
	if br := st.Link(bridge); br != nil {
		n.BridgeMAC = br.MAC
	}
	return nil
}

func withAddress(st *probe.State, a netip.Addr) (*probe.Link, netip.Prefix) {
	for i := range st.Links {
		for _, p := range st.Links[i].Addresses {
			if p.Addr() == a {
				return &st.Links[i], p
			}
		}
	}
	return nil, netip.Prefix{}
}

// segments makes a segment of each prefix that nodes have their addresses in.
func (l *look) segments() {
	l.plan.Segments = nil
	for i := range l.plan.Nodes {
		nic := &l.plan.Nodes[i].Interfaces[0]
		cidr := nic.Address.Masked()
		at := slices.IndexFunc(l.plan.Segments, func(s topology.Segment) bool { return s.CIDR == cidr })
		if at < 0 {
			at = len(l.plan.Segments)
			l.plan.Segments = append(l.plan.Segments, topology.Segment{Name: fmt.Sprintf("segment-%d", at+1), CIDR: cidr, MTU: nic.MTU})
		}
		nic.Segment = l.plan.Segments[at].Name
	}
}

// The names that flannel's CNI plugin and every runtime give.
const (
	bridge  = "cni0"
	podLink = "eth0"
)

// pod fills in what the pod's kernel has, and the end of its veth on the node.
func (l *look) pod(p *topology.Pod) error {
	eth0 := l.states[p.Name].Link(podLink)
	if eth0 == nil || len(eth0.IPv4()) == 0 {
		return fmt.Errorf("pod %s of node %s: it has no %s with an IPv4 address", p.Name, p.Node, podLink)
	}
	p.MAC, p.Address = eth0.MAC, eth0.IPv4()[0]
	node := l.states[p.Node]
	first := p == &l.plan.Pods[0]
	onBridge := false
	if outer := node.LinkByIndex(eth0.Peer); outer != nil && outer.Kind == "veth" && outer.Peer == eth0.Index {
		p.HostInterface = outer.Name
		br := node.Link(bridge)
		onBridge = br != nil && outer.Master == br.Index
	}
	l.bridged = onBridge && (l.bridged || first)
	return nil
}
