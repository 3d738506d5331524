package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// patient is the rate of the flows of checks that look at repairs of a few
// milliseconds, in datagrams a second.
const patient = 500

// unread is how long before its end a process may have been sent what it never
// read from its device.
const unread = settle * time.Second / patient

// tampering deletes and alters each kind of entry that leads from one node to
// the next (RS-05).
func tampering(ctx context.Context, env *suite.Env) error {
	node, peer, err := ends(env.Plan())
	if err != nil {
		return err
	}
	v, err := newVictim(ctx, env, node)
	if err != nil {
		return err
	}
	defer v.close()
	faults, err := v.faults(peer)
	if err != nil {
		return err
	}
	flows, err := startTraffic(ctx, env, patient)
	if err != nil {
		return err
	}
	var wrong []window
	for _, f := range faults {
		w, err := v.suffer(ctx, f)
		if err != nil {
			return err
		}
		wrong = append(wrong, w)
		if err := flows.more(ctx, settle); err != nil {
			return err
		}
	}
	passed, err := flows.end(ctx, env, wrong...)
	env.Evidence("%s: %s, wrong for %s; %s", v.node.Name, count(len(faults), "alteration"), spanOf(wrong), passed)
	return err
}

// deviceDeleted deletes the overlay's device (RS-06).
func deviceDeleted(ctx context.Context, env *suite.Env) error {
	node, _, err := ends(env.Plan())
	if err != nil {
		return err
	}
	v, err := newVictim(ctx, env, node)
	if err != nil {
		return err
	}
	defer v.close()
	plan := env.Plan()
	i := slices.IndexFunc(v.state.Links, func(l probe.Link) bool {
		if plan.Network.Backend.Type == "vxlan" { // each family has its own
			return l.Name == vtep(plan)
		}
		return overlayDevice(l.Name)
	})
	if i < 0 {
		return suite.NotApplicablef("the backend %s has no device", env.Plan().Network.Backend.Type)
	}
	name := v.state.Links[i].Name
	flows, err := startTraffic(ctx, env, patient)
	if err != nil {
		return err
	}
	w, err := v.suffer(ctx, fault{"the device is deleted", probe.Change{Delete: true, Link: name}})
	if err != nil {
		return err
	}
	back := spanOf([]window{w})
	if v.state.Links[i].VXLAN == nil {
		// The peers are in the device, or in its process: only an answer tells
		// that they are back. And what it had not read yet goes with it.
		if err := v.answered(ctx); err != nil {
			env.Fail(v.node.Name, "traffic to and from the other nodes again", err.Error())
		}
		w = window{w.from.Add(-unread), env.Now(ctx)}
		back += ", its traffic after " + rounded(w.until.Sub(w.from)-unread).String()
	}
	passed, err := flows.end(ctx, env, w)
	env.Evidence("%s: %s and %s are back after %s; %s", v.node.Name, name, count(len(v.before)-1, "line"), back, passed)
	return err
}

// answered waits until pings from and to the node's pods are answered, along
// the flows.
func (v *victim) answered(ctx context.Context) error {
	nodes := nodesWithPods(v.env.Plan())
	i := slices.IndexFunc(nodes, func(n *topology.Node) bool { return n.Name == v.node.Name })
	err := reaches(ctx, v.env, v.node, nodes[(i+1)%len(nodes)])
	return errors.Join(err, reaches(ctx, v.env, nodes[(i+len(nodes)-1)%len(nodes)], v.node))
}

// linkFlap takes the underlay's link away for a moment (RS-07).
func linkFlap(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	if plan.Existing {
		return suite.NotApplicablef("it would set down the link by which a node of an existing cluster is reached")
	}
	if plan.IPv6 == topology.IPv6Dual {
		return suite.NotApplicablef("with the link the kernel drops IPv6 addresses, which are not the agent's to restore")
	}
	nodes := nodesWithPods(plan)
	i := slices.IndexFunc(nodes, func(n *topology.Node) bool { return n.Name != plan.Store.Node && !n.Agent.ByHand })
	if i < 0 {
		return suite.NotApplicablef("the only node with pods and an agent holds the store")
	}
	v, err := newVictim(ctx, env, nodes[i])
	if err != nil {
		return err
	}
	defer v.close()
	dev := v.node.Underlay().Name
	var others []probe.Change
	for _, r := range v.state.RoutesVia(dev) {
		if !toPods(plan, r) && r.Protocol != "kernel" && r.Dst.Addr().Is4() && r.Kind == "" {
			others = append(others, probe.Change{Route: &r})
		}
	}
	up := append([]probe.Change{{Link: dev}}, others...)
	env.Restore("the link "+dev+" of "+v.node.Name, func(ctx context.Context) error { return v.session.Change(ctx, up...) })
	began := env.Now(ctx)
	if err := v.session.Change(ctx, append([]probe.Change{{Link: dev, Down: true}}, up...)...); err != nil {
		return err
	}
	w, err := v.restored(ctx, "the link is down for a moment", began)
	if err != nil {
		return err
	}
	next := nodes[(i+1)%len(nodes)]
	if err := reaches(ctx, env, v.node, next); err != nil {
		env.Fail(v.node.Name, "traffic to "+next.Name+" again", err.Error())
	}
	env.Evidence("%s: %s went down and up, and %s are back after %s", v.node.Name, dev, count(len(v.before), "line"), spanOf([]window{w}))
	return nil
}

// reaches pings from a pod of one node to one of another until it is answered.
func reaches(ctx context.Context, env *suite.Env, from, to *topology.Node) error {
	s, err := env.Session(ctx, env.Plan().PodsOn(from.Name)[0].Name)
	if err != nil {
		return err
	}
	limits := env.Timeouts()
	wait := 10 * time.Millisecond
	came, err := env.Poll(ctx, from.Name+" reaching "+to.Name, limits.Converge, 0, func(ctx context.Context) (bool, error) {
		pong, err := s.Ping(ctx, probe.Ping{Dst: env.Plan().PodsOn(to.Name)[0].Address.Addr(), Wait: wait, Tries: 1})
		wait = min(2*wait, limits.Reply)
		return pong.Answered(), err
	})
	if err == nil && !came {
		err = fmt.Errorf("no answer in %v", limits.Converge)
	}
	return err
}

// fault is one change that makes a node's state wrong.
type fault struct {
	name   string
	change probe.Change
}

// ends are a node that an agent looks after, and the next one, to which its
// traffic goes.
func ends(plan *topology.Plan) (node, peer *topology.Node, err error) {
	nodes := nodesWithPods(plan)
	i := slices.IndexFunc(nodes, func(n *topology.Node) bool { return !n.Agent.ByHand })
	if i < 0 {
		return nil, nil, suite.NotApplicablef("no node with pods has an agent")
	}
	return nodes[i], nodes[(i+1)%len(nodes)], nil
}

// victim is a node whose state is made wrong, and that ought to repair it.
type victim struct {
	env     *suite.Env
	node    *topology.Node
	session *probe.Session
	watch   *suite.Watch
	state   *probe.State
	before  []string
}

// newVictim notes a node's entries. At the end of the check those are put back
// that the agent did not restore.
func newVictim(ctx context.Context, env *suite.Env, n *topology.Node) (*victim, error) {
	v := &victim{env: env, node: n}
	var err error
	if v.session, err = env.Session(ctx, n.Name); err != nil {
		return nil, err
	}
	if v.state, err = v.session.State(ctx); err != nil {
		return nil, err
	}
	if v.before = entries(env.Plan(), v.state); len(v.before) == 0 {
		return nil, fmt.Errorf("%s: %w", n.Name, errNoPeers)
	}
	if v.watch, err = env.Watch(ctx, n.Name); err != nil {
		return nil, err
	}
	env.Restore("the state of "+n.Name, v.putBack)
	return v, nil
}

func (v *victim) close() { v.watch.Close() }

func (v *victim) wrong(st *probe.State) string { return changed(v.env.Plan(), v.before, st) }

// suffer makes one change, and waits until the agent has undone it. The window
// begins before the change and ends when all was seen to be right: what was
// lost outside of it was lost for another reason. A change that is not undone
// is a finding, and is undone then.
func (v *victim) suffer(ctx context.Context, f fault) (window, error) {
	began := v.env.Now(ctx)
	if err := v.session.Change(ctx, f.change); err != nil {
		return window{}, err
	}
	return v.restored(ctx, f.name+" ("+f.change.String()+")", began)
}

func (v *victim) restored(ctx context.Context, what string, began time.Time) (window, error) {
	limit := v.env.Timeouts().Converge
	ended, left, err := v.watch.Until(ctx, limit, v.wrong)
	if left != "" {
		v.env.Fail(v.node.Name, "repaired: "+what, fmt.Sprintf("after %v: %s", limit, left))
		err = suite.Act(ctx, v.env, v.node.Name+" is repaired", func() error { return v.putBack(ctx) })
		ended = v.env.Now(ctx)
	}
	return window{began, ended}, err
}

// putBack does what the agent ought to have done. Where the device is gone the
// agent is restarted first.
func (v *victim) putBack(ctx context.Context) error {
	st, err := v.session.State(ctx)
	if err != nil || v.wrong(st) == "" {
		return err
	}
	gone := slices.ContainsFunc(v.state.Links, func(l probe.Link) bool { return overlayDevice(l.Name) && st.Link(l.Name) == nil })
	if r, can := v.env.Lab().(suite.AgentRestarter); can && gone {
		if err := r.RestartAgent(ctx, v.node.Name); err != nil {
			return err
		}
	}
	var errs []error
	set := func(c probe.Change) { errs = append(errs, v.session.Change(ctx, c)) }
	for _, n := range v.state.Neighbours {
		if overlayDevice(n.Dev) && n.State == "PERMANENT" {
			set(probe.Change{Neighbour: &n})
		}
	}
	for _, f := range v.state.FDB {
		if overlayDevice(f.Dev) && f.Dst.IsValid() {
			set(probe.Change{FDB: &f})
		}
	}
	for _, r := range v.state.Routes {
		if toPods(v.env.Plan(), r) {
			set(probe.Change{Route: &r})
		}
	}
	return errors.Join(errs...)
}

// faults are the ways to make the entries wrong that lead to a peer: each kind
// deleted, and leading elsewhere.
func (v *victim) faults(peer *topology.Node) ([]fault, error) {
	plan := v.env.Plan()
	nobody, err := freeAddress(plan)
	if err != nil {
		return nil, err
	}
	var out []fault
	add := func(what string, remove, alter probe.Change) {
		remove.Delete = true
		out = append(out, fault{what + " is deleted", remove}, fault{what + " leads elsewhere", alter})
	}
	for _, n := range v.state.Neighbours {
		if overlayDevice(n.Dev) && n.IP == peer.PodCIDR.Masked().Addr() && n.State == "PERMANENT" {
			other := n
			other.MAC = topology.DeriveMAC("nobody", "vtep")
			add("the neighbour", probe.Change{Neighbour: &n}, probe.Change{Neighbour: &other})
		}
	}
	for _, f := range v.state.FDB {
		if overlayDevice(f.Dev) && f.Dst == peer.PublicIP() {
			other := f
			other.Dst = nobody
			add("the FDB entry", probe.Change{FDB: &f}, probe.Change{FDB: &other})
		}
	}
	for _, r := range v.state.Routes {
		if !toPods(plan, r) || !r.Dst.Contains(peer.PodCIDR.Addr()) {
			continue
		}
		other := r
		if other.Via = nobody; !r.Via.IsValid() {
			other.Dev, other.Via = v.node.Underlay().Name, nobody
		}
		if plan.Is6() && r.Onlink { // which the kernel takes for no address of another link
			spare, err := freeSubnet(plan)
			if err != nil {
				return nil, err
			}
			other.Via = spare.Addr()
		}
		add("the route", probe.Change{Route: &r}, probe.Change{Route: &other})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s, peer %s: %w", v.node.Name, peer.Name, errNoPeers)
	}
	return out, nil
}

// spanOf tells the shortest and the longest of the windows.
func spanOf(all []window) string {
	var took []time.Duration
	for _, w := range all {
		took = append(took, w.until.Sub(w.from))
	}
	shortest, longest := rounded(slices.Min(took)), rounded(slices.Max(took))
	if shortest == longest {
		return longest.String()
	}
	return fmt.Sprintf("%v to %v", shortest, longest)
}
