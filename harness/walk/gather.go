package walk

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk/predict"
	"github.com/overlab/overlab/topology"
)

// underlaySpace is the name of the namespace that holds the segments' bridges,
// where a provider has one.
const underlaySpace = "underlay"

// manyNodes is how many nodes are looked at besides those of the packet's
// ends: a packet that goes astray is followed to any of them.
const manyNodes = 32

// lookedAt are the namespaces whose state the prediction is made from, and the
// nodes that are left out.
func lookedAt(p *topology.Plan, ends ...Endpoint) (names, leftOut []string) {
	add := func(name string) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, e := range ends {
		add(e.Name)
		add(e.Node)
	}
	for i, n := range p.Nodes {
		if i < manyNodes {
			add(n.Name)
		}
	}
	for _, n := range p.Nodes {
		if !slices.Contains(names, n.Name) {
			leftOut = append(leftOut, n.Name)
		}
	}
	for _, r := range p.Routers {
		add(r.Name)
	}
	add(underlaySpace)
	return names, leftOut
}

// limits says what the walk does not look at.
func limits(leftOut []string) []string {
	if len(leftOut) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d nodes are not looked at (%s to %s): a packet that goes astray is not followed there", len(leftOut), leftOut[0], leftOut[len(leftOut)-1])}
}

// sessions are the open probe sessions by name.
type sessions map[string]*probe.Session

func (s sessions) close() error {
	var mu sync.Mutex
	var errs []error
	_ = each(s.names(), func(name string) error {
		err := s[name].Close()
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
		return nil
	})
	return errors.Join(errs...)
}

func (s sessions) names() []string { return slices.Sorted(maps.Keys(s)) }

// open opens a session in each namespace. A lab need not have one for the
// underlay.
func open(ctx context.Context, lab topology.Lab, names []string) (sessions, error) {
	var mu sync.Mutex
	all := sessions{}
	err := each(names, func(name string) error {
		ns, err := lab.Namespace(name)
		if err != nil {
			if name == underlaySpace {
				return nil
			}
			return err
		}
		s, err := probe.Enter(ctx, ns)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		all[name] = s
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, all.close())
	}
	return all, nil
}

// parameters are the kernel parameters that decide on a packet's way.
var parameters = []string{
	"net/ipv4/ip_forward", "net/ipv4/icmp_echo_ignore_all", "net/ipv4/ip_default_ttl",
	"net/ipv4/conf/*/rp_filter", "net/ipv4/conf/*/forwarding",
	"net/ipv6/conf/all/forwarding", "net/ipv6/conf/*/hop_limit", "net/ipv6/icmp/echo_ignore_all",
}

// gather dumps every namespace's state.
func gather(ctx context.Context, p *topology.Plan, all sessions) (*predict.Network, error) {
	n := &predict.Network{Spaces: map[string]*predict.Space{}, Overlay: p.Network.Network, Tunnels: tunnels(p)}
	var mu sync.Mutex
	var others []*probe.Session
	for _, name := range all.names() {
		others = append(others, all[name])
	}
	err := each(all.names(), func(name string) error {
		s := all[name]
		st, err := s.State(ctx)
		if err != nil {
			return err
		}
		space := &predict.Space{State: st}
		if s.Peer() == nil {
			if space.Namespaces, err = s.NamespaceIDs(ctx, others); err != nil {
				return err
			}
		}
		if name != underlaySpace { // which routes nothing
			if space.Sysctls, err = s.Sysctls(ctx, parameters...); err != nil {
				return err
			}
		}
		if node := p.Node(name); node != nil {
			space.Masquerade = node.Agent.IPMasq && !node.Agent.ByHand
		}
		mu.Lock()
		defer mu.Unlock()
		n.Spaces[name] = space
		return nil
	})
	if err != nil {
		return nil, err
	}
	for i := range p.Pods {
		nameNamespaces(n.Spaces[p.Pods[i].Node], n.Spaces[p.Pods[i].Name], &p.Pods[i])
	}
	return n, nil
}

// nameNamespaces tells a node's and a pod's ids of each other's namespace from
// the veth that is between them, where the kernel could not be asked.
func nameNamespaces(node, pod *predict.Space, p *topology.Pod) {
	if node == nil || pod == nil || node.Namespaces != nil && pod.Namespaces != nil {
		return
	}
	for i := range pod.State.Links {
		inner := &pod.State.Links[i]
		outer := node.State.LinkByIndex(inner.Peer)
		if inner.Kind != "veth" || outer == nil || outer.Kind != "veth" || outer.Peer != inner.Index {
			continue
		}
		name(node, outer.PeerNS, p.Name)
		name(pod, inner.PeerNS, p.Node)
	}
}

// name gives the namespace behind an id its name.
func name(s *predict.Space, id int, other string) {
	if s.Namespaces == nil {
		s.Namespaces = map[int]string{}
	}
	s.Namespaces[id] = other
}

// tunnels are the leases, for backends whose way no state shows.
func tunnels(p *topology.Plan) *predict.Tunnels {
	b := p.Network.Backend
	t := &predict.Tunnels{Kind: b.Type, Port: b.Port}
	switch b.Type {
	case "wireguard":
		t.Port = b.ListenPort
	case "udp", "ipip":
	default:
		return nil
	}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		t.Ends = append(t.Ends, predict.TunnelEnd{Space: n.Name, Subnet: n.PodCIDR, Address: n.PublicIP()})
	}
	return t
}

// each calls do for all names at once and returns their errors.
func each(names []string, do func(string) error) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = do(name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// endpoint finds a node or pod by its name or its address.
func endpoint(p *topology.Plan, name string) (Endpoint, error) {
	if pod := p.Pod(name); pod != nil {
		return Endpoint{Name: name, Node: pod.Node, Address: pod.Address.Addr()}, nil
	}
	if node := p.Node(name); node != nil {
		return Endpoint{Name: name, Node: name, Address: node.PublicIP()}, nil
	}
	if a, err := netip.ParseAddr(name); err == nil {
		for i := range p.Pods {
			if pod := &p.Pods[i]; pod.Address.Addr() == a {
				return Endpoint{Name: pod.Name, Node: pod.Node, Address: a}, nil
			}
		}
		for i := range p.Nodes {
			if n := &p.Nodes[i]; n.PublicIP() == a {
				return Endpoint{Name: n.Name, Node: n.Name, Address: a}, nil
			}
		}
	}
	var known []string
	for _, n := range p.Nodes {
		known = append(known, n.Name)
	}
	for _, x := range p.Pods {
		known = append(known, x.Name)
	}
	if len(known) > 12 {
		known = append(known[:12], "…")
	}
	return Endpoint{}, fmt.Errorf("the lab has no node or pod %q; it has %v", name, known)
}
