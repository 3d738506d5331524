package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Sessions opens the probe session of a node or pod, or returns the one that is
// open.
type Sessions interface {
	Session(ctx context.Context, name string) (*probe.Session, error)
}

// Reading is what a lab has.
type Reading struct {
	// States are the dumps by namespace.
	States map[string]*probe.State
	// Leases are the store's; Malformed are its entries that are no leases.
	Leases    []lease.Lease
	Malformed []string
	// LeasesRead says that the store answered.
	LeasesRead bool
	// Files is the text of subnet.env by node, Sysctls the values by node and
	// key.
	Files   map[string]string
	Sysctls map[string]map[string]string
	// Printed is what commands print on a node, by the kind of what they show:
	// of rules, iptables-save, ip6tables-save and nft. A node where one does not
	// run has none of its kind.
	Printed map[string]map[Kind]string
	// WireGuard are the nodes' WireGuard devices, where they have any.
	WireGuard map[string][]*probe.WireGuard
	// Unread says what could not be read, and why.
	Unread []string
}

// atOnce is how many namespaces are read at a time.
const atOnce = 16

// Read dumps nodes and pods, all at once within bounds, and all that has a
// part in them: the other end of a veth is in another namespace. What cannot be
// read on this machine is noted in the reading; an error says that a namespace
// itself cannot be looked at.
func Read(ctx context.Context, lab topology.Lab, open Sessions, names []string) (*Reading, error) {
	p := lab.Plan()
	r := &reader{lab: lab, open: open, c: newCluster(p, nil, nil), out: &Reading{
		States: map[string]*probe.State{}, Files: map[string]string{}, Sysctls: map[string]map[string]string{},
		Printed: map[string]map[Kind]string{}, WireGuard: map[string][]*probe.WireGuard{},
	}}
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	wg.Go(func() { r.leases(ctx) })
	var errs []error
	for _, name := range concerned(p, names) {
		slots <- struct{}{}
		wg.Go(func() {
			err := r.space(ctx, name, slices.Contains(names, name))
			<-slots
			r.mu.Lock()
			defer r.mu.Unlock()
			errs = append(errs, err)
		})
	}
	wg.Wait()
	slices.Sort(r.out.Unread)
	r.out.Unread = slices.Compact(r.out.Unread)
	return r.out, errors.Join(errs...)
}

// concerned are the names and those of what their veths lead to, in the plan's
// order. The MAC of a VTEP without a lease is in the other nodes' dumps.
func concerned(p *topology.Plan, names []string) []string {
	var out []string
	for _, n := range p.Nodes {
		out = append(out, n.Name)
	}
	for _, x := range p.Pods {
		if slices.Contains(names, x.Name) || slices.Contains(names, x.Node) {
			out = append(out, x.Name)
		}
	}
	return out
}

type reader struct {
	lab  topology.Lab
	open Sessions
	c    *cluster

	mu  sync.Mutex
	out *Reading
}

// storePatience is how long a store may take to answer; one that is away must
// not keep the rest from being compared.
const storePatience = 2 * time.Second

func (r *reader) leases(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storePatience)
	defer cancel()
	leases, err := lease.List(ctx, r.lab)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Leases = leases
	for _, e := range split(err) {
		var bad *lease.Malformed
		if errors.As(e, &bad) {
			r.out.Malformed = append(r.out.Malformed, bad.Key+": "+bad.Err.Error())
			continue
		}
		r.out.Unread = append(r.out.Unread, "leases: "+e.Error())
		return
	}
	r.out.LeasesRead = true
}

// split returns the errors that one joins.
func split(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	if err == nil {
		return nil
	}
	return []error{err}
}

// space reads one namespace, and of a node that is asked for all else too.
func (r *reader) space(ctx context.Context, name string, asked bool) error {
	s, err := r.open.Session(ctx, name)
	if err != nil {
		return err
	}
	st, err := s.State(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.out.States[name] = st
	r.mu.Unlock()
	if n := r.c.plan.Node(name); n == nil || !asked {
		return nil
	}
	return r.node(ctx, s)
}

func (r *reader) node(ctx context.Context, s *probe.Session) error {
	name := s.Name()
	file, err := s.ReadFile(ctx, subnetFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	values := map[string]string{}
	for _, key := range r.c.sysctlKeys() {
		v, err := s.ReadFile(ctx, sysctlPath(key))
		if err != nil {
			return err
		}
		values[key] = strings.TrimSpace(string(v))
	}
	printed := map[Kind]string{}
	var unread []string
	for _, x := range r.c.printers() {
		text, err := r.run(ctx, name, strings.Fields(x.command)...)
		if err != nil {
			if !x.optional {
				unread = append(unread, x.what+": "+why(err))
			}
			continue
		}
		printed[x.kind] = text
	}
	devices, err := r.wireguard(ctx, s)
	if err != nil {
		unread = append(unread, "WireGuard: "+err.Error())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Files[name], r.out.Sysctls[name], r.out.Printed[name] = string(file), values, printed
	if err == nil {
		r.out.WireGuard[name] = devices
	}
	r.out.Unread = append(r.out.Unread, unread...)
	return ctx.Err()
}

// why says what went wrong; that there is no such program is no more than that,
// of whichever node.
func why(err error) string {
	if unstarted := new(topology.StartError); errors.As(err, &unstarted) {
		return unstarted.Reason
	}
	return err.Error()
}

// printer is a command that shows a kind of fact on a node.
type printer struct {
	kind          Kind
	what, command string
	// optional says that a machine may do without it.
	optional bool
}

// printers are those that a plan's nodes are asked.
func (c *cluster) printers() []printer {
	const rules = "firewall rules"
	all := []printer{{kind: KindIPTables, what: rules, command: "iptables-save"}, {kind: KindNFTables, what: rules, command: "nft list ruleset"}}
	if c.plan.Network.EnableIPv6 {
		all = append(all, printer{kind: KindIP6Tables, what: rules, command: "ip6tables-save"})
	}
	// Of any backend: what a VPN's policy takes never reaches the tunnel.
	ipsec := c.plan.Network.Backend.Type == "ipsec"
	all = append(all, printer{KindXFRMPolicy, "IPsec", "ip xfrm policy", !ipsec})
	if ipsec {
		all = append(all, printer{kind: KindXFRMState, what: "IPsec", command: "ip xfrm state"})
	}
	return all
}

// wireguard reads a node's WireGuard devices.
func (r *reader) wireguard(ctx context.Context, s *probe.Session) ([]*probe.WireGuard, error) {
	var out []*probe.WireGuard
	if r.c.plan.Network.Backend.Type != "wireguard" {
		return nil, nil
	}
	for _, o := range r.c.families() {
		w, err := s.WireGuard(ctx, o.wireguard)
		if err != nil {
			return nil, err
		}
		if w != nil {
			out = append(out, w)
		}
	}
	return out, nil
}

// run returns what a command prints on a node.
func (r *reader) run(ctx context.Context, name string, argv ...string) (string, error) {
	ns, err := r.lab.Namespace(name)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	code, err := ns.Run(ctx, topology.Process{Argv: argv, Dir: "/", Stdout: &stdout, Stderr: &stderr})
	if err == nil && code != 0 {
		err = fmt.Errorf("exit %d: %s", code, strings.TrimSpace(stderr.String()))
	}
	if err != nil {
		return "", fmt.Errorf("%s on %s: %w", argv[0], name, err)
	}
	return stdout.String(), nil
}

// Judge compares a reading with what the plan wants of the named nodes and
// pods.
func Judge(p *topology.Plan, r *Reading, names []string) *Diff {
	c := newCluster(p, r.Leases, r.States)
	d := &Diff{APIVersion: topology.APIVersion, Lab: p.Name, Entries: []Entry{}, Unread: r.Unread}
	wanted := c.want()
	for _, name := range c.inOrder(names) {
		want := c.readable(name, wanted[name], r)
		have := append(c.found(name, r.States), c.foundBeside(name, r)...)
		entries := Compare(want, have, func(f Fact) bool { return c.owned(name, f) })
		for i := range entries {
			entries[i].Node = name
			if pod := p.Pod(name); pod != nil {
				entries[i].Node, entries[i].Pod = pod.Node, name
			}
		}
		d.Compared, d.Facts = append(d.Compared, name), d.Facts+len(want)
		d.Entries = append(d.Entries, entries...)
	}
	return d
}

// inOrder returns the names in the plan's order, each once; none is all.
func (c *cluster) inOrder(names []string) []string {
	var out []string
	for _, n := range All(c.plan) {
		if len(names) == 0 || slices.Contains(names, n) {
			out = append(out, n)
		}
	}
	return out
}

// All are the nodes and pods of a plan.
func All(p *topology.Plan) []string {
	var out []string
	for _, n := range p.Nodes {
		out = append(out, n.Name)
	}
	for _, x := range p.Pods {
		out = append(out, x.Name)
	}
	return out
}

// readable returns the facts that the reading can tell something of.
func (c *cluster) readable(name string, want []Fact, r *Reading) []Fact {
	policies := len(r.States[name].Rules) > 0
	return slices.DeleteFunc(slices.Clone(want), func(f Fact) bool {
		switch f.Kind {
		case KindLease:
			return !r.LeasesRead
		case KindWireGuard:
			_, read := r.WireGuard[name]
			return !read
		case KindIPTables, KindIP6Tables, KindNFTables, KindXFRMState, KindXFRMPolicy:
			_, read := r.Printed[name][f.Kind]
			return !read
		case KindPolicy:
			return !policies
		}
		return false
	})
}

// foundBeside makes the facts that a node has beside its dump.
func (c *cluster) foundBeside(name string, r *Reading) []Fact {
	if c.plan.Node(name) == nil {
		return nil
	}
	facts := settings(r.Files[name])
	for key, value := range r.Sysctls[name] {
		facts = append(facts, sysctl(key, value))
	}
	facts = append(facts, iptablesRules(KindIPTables, r.Printed[name][KindIPTables])...)
	facts = append(facts, iptablesRules(KindIP6Tables, r.Printed[name][KindIP6Tables])...)
	facts = append(facts, nftRules(r.Printed[name][KindNFTables])...)
	for _, w := range r.WireGuard[name] {
		facts = append(facts, foundWireGuard(w)...)
	}
	if r.LeasesRead { // without which nobody knows what the associations ought to be
		facts = append(facts, xfrmStates(r.Printed[name][KindXFRMState])...)
	}
	facts = append(facts, xfrmPoliciesOf(r.Printed[name][KindXFRMPolicy])...)
	return append(facts, c.foundLeases(name, r)...)
}

// foundLeases are the leases of a node's subnet; those of nobody, and what is
// no lease, are the store's node's.
func (c *cluster) foundLeases(name string, r *Reading) []Fact {
	var facts []Fact
	holder := c.plan.Store.Node
	for _, l := range r.Leases {
		owner := holder
		for _, n := range c.plan.Nodes {
			if n.PodCIDR.Masked() == l.Subnet {
				owner = n.Name
			}
		}
		if owner == name {
			facts = append(facts, leased(l))
		}
	}
	if name == holder {
		for _, bad := range r.Malformed {
			facts = append(facts, Fact{Kind: KindLease, ID: bad, Fields: []Field{bare("entry", bad)}})
		}
	}
	return facts
}

// Differ reads the named nodes and pods of a lab, or all of them, and compares
// them with the plan.
func Differ(ctx context.Context, lab topology.Lab, open Sessions, names ...string) (*Diff, error) {
	p := lab.Plan()
	if len(names) == 0 {
		names = All(p)
	}
	r, err := Read(ctx, lab, open, names)
	if err != nil {
		return nil, fmt.Errorf("read lab %s: %w", p.Name, err)
	}
	return Judge(p, r, names), nil
}
