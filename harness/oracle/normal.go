package oracle

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/overlab/overlab/topology"
)

// State is what a lab has of all that the oracle judges, in words that depend on
// the spec alone: what a provider or an agent chose, such as addresses, MACs and
// the names of links, is called by whose it is. Two labs of one spec that work
// have the same state, whatever built them.
type State struct {
	// APIVersion names the schema of the JSON form.
	APIVersion string `json:"apiVersion"`
	// Lab is the lab's name.
	Lab string `json:"lab"`
	// Spaces are the nodes and pods, in the plan's order.
	Spaces []SpaceState `json:"spaces"`
	// Unread says what could not be read, and so is missing.
	Unread []string `json:"unread,omitempty"`
}

// SpaceState is the state of one node or pod.
type SpaceState struct {
	Name string `json:"name"`
	// Entries are lines such as "ip route: {node-1 pods}/24 via {node-1 pods} dev
	// flannel.1 onlink", in order.
	Entries []string `json:"entries"`
}

// Normal returns the state of a reading.
func Normal(p *topology.Plan, r *Reading, names []string) *State {
	c := newCluster(p, r.Leases, r.States)
	wanted, called, keys := c.want(), c.callings(), c.keyNames()
	s := &State{APIVersion: topology.APIVersion, Lab: p.Name, Unread: r.Unread}
	for _, name := range c.inOrder(names) {
		out := SpaceState{Name: name, Entries: []string{}}
		links := c.linkNames(name)
		for _, h := range append(c.found(name, r.States), c.foundBeside(name, r)...) {
			i := slices.IndexFunc(wanted[name], func(w Fact) bool { return sameID(w, h) })
			switch {
			case i >= 0 && wanted[name][i].Optional:
				continue // whether it is there is chance
			case i >= 0:
				h = h.only(wanted[name][i])
			case !c.owned(name, h):
				continue
			}
			if h.Kind == KindXFRMState { // of which agents choose these, each time anew
				h = h.without("spi").without("key")
			}
			out.Entries = append(out.Entries, h.Kind.Tool()+": "+rename(keys.Replace(h.String()), links, called))
		}
		slices.Sort(out.Entries)
		s.Spaces = append(s.Spaces, out)
	}
	return s
}

// States reads the named nodes and pods of a lab, or all of them, and returns
// their state.
func States(ctx context.Context, lab topology.Lab, open Sessions, names ...string) (*State, error) {
	p := lab.Plan()
	if len(names) == 0 {
		names = All(p)
	}
	r, err := Read(ctx, lab, open, names)
	if err != nil {
		return nil, fmt.Errorf("read lab %s: %w", p.Name, err)
	}
	return Normal(p, r, names), nil
}

// callings maps what a provider or an agent chose to what it is called.
func (c *cluster) callings() map[string]string {
	out := map[string]string{}
	is := func(a netip.Addr, name string) {
		if a.IsValid() {
			out[a.String()] = "{" + name + "}"
		}
	}
	mac := func(m topology.MAC, name string) {
		if !m.IsZero() {
			out[m.String()] = "{" + name + " mac}"
		}
	}
	for _, o := range c.families() {
		network := o.network.String() // the spec's, and perhaps one of its subnets begins there
		out[network] = network
	}
	for i := range c.plan.Segments {
		s := &c.plan.Segments[i]
		is(s.CIDR.Addr(), s.Name)
		is(s.CIDR6.Addr(), s.Name)
	}
	for i := range c.plan.Nodes {
		n := &c.plan.Nodes[i]
		for _, nic := range n.Interfaces {
			is(nic.Address.Addr(), n.Name+" "+nic.Segment)
			is(nic.Address6.Addr(), n.Name+" "+nic.Segment)
			mac(nic.MAC, n.Name+" "+nic.Segment)
		}
		for _, o := range c.families() {
			is(o.subnet(n).Addr(), n.Name+" pods")
			is(o.gateway(n).Addr(), n.Name+" "+bridge)
			mac(o.macs[n.Name], n.Name+" "+o.vtep)
		}
		mac(n.BridgeMAC, n.Name+" "+bridge)
	}
	for i := range c.plan.Pods {
		p := &c.plan.Pods[i]
		for _, o := range c.families() {
			is(o.address(p).Addr(), p.Name)
		}
		mac(p.MAC, p.Name)
		out[p.HostInterface] = "{" + p.Name + " port}"
	}
	return out
}

// keyNames calls the nodes' WireGuard keys by whose they are.
func (c *cluster) keyNames() *strings.Replacer {
	var out []string
	for i := range c.plan.Nodes {
		n := &c.plan.Nodes[i]
		for _, o := range c.families() {
			if key := c.leaseOf(o, n).PublicKey; key != "" {
				out = append(out, key, "{"+n.Name+" key}")
			}
		}
	}
	return strings.NewReplacer(out...)
}

// linkNames maps the names of a node's underlay interfaces to what they are
// called. A pod's are the same everywhere.
func (c *cluster) linkNames(space string) map[string]string {
	out := map[string]string{}
	if n := c.plan.Node(space); n != nil {
		for _, nic := range n.Interfaces {
			out[nic.Name] = "{" + nic.Segment + "}"
		}
	}
	return out
}

// words are what a line of a tool consists of: names, addresses, MACs, each
// perhaps with a prefix length.
var words = regexp.MustCompile(`([0-9A-Za-z.:_-]+)(/[0-9]+)?`)

// rename calls what is in a line by other names, those of this space's links
// among them. A veth's other end is written with whose it is before it.
func rename(line string, links, called map[string]string) string {
	return words.ReplaceAllStringFunc(line, func(w string) string {
		if name, ok := called[w]; ok {
			return name
		}
		word, length, isPrefix := strings.Cut(w, "/")
		if isPrefix {
			length = "/" + length
		}
		for _, names := range []map[string]string{links, called} {
			if name, ok := names[word]; ok {
				return name + length
			}
		}
		if at, err := netip.ParseAddrPort(word); err == nil && called[at.Addr().String()] != "" {
			return fmt.Sprintf("%s:%d", called[at.Addr().String()], at.Port())
		}
		if whose, link, ok := strings.Cut(word, ":"); ok && called[link] != "" {
			return whose + ":" + called[link]
		}
		return w
	})
}
