package checks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// resilienceChecks take away or alter what an overlay stands on, while traffic
// runs through it. They run alone, and put back what they changed.
func resilienceChecks() []suite.Check {
	traffic := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	store := []suite.Feature{suite.IPv4, suite.Peers, suite.Connects, suite.WritableLeases}
	check := func(id, title string, level suite.Level, needs []suite.Feature, run func(context.Context, *suite.Env) error) suite.Check {
		return suite.Check{
			ID: id, Level: level, Title: title, Source: fromFlannel, Profiles: []string{resilience},
			Needs: needs, Disturbs: true, Part: partOverlay, Run: run,
		}
	}
	return []suite.Check{
		check("RS-01", "killed and restarted agents lose no packet, no lease", suite.Core, traffic, agentsRestarted),
		alone(check("RS-02", "a node that joins is served by every peer", suite.Core, store, peerJoins)),
		check("RS-03", "a node that leaves is forgotten by every peer", suite.Core, store, peerLeaves),
		check("RS-04", "what became stale while an agent was away goes", suite.Extended, append(traffic, suite.WritableLeases), peerLeavesUnseen),
		check("RS-05", "altered entries are repaired, and cost nothing after", suite.Extended, traffic, tampering),
		check("RS-06", "a deleted overlay device returns, with its peers", suite.Extended, traffic, deviceDeleted),
		check("RS-07", "what the kernel drops with a link comes back with it", suite.Extended, traffic, linkFlap),
		check("RS-08", "a peer's new VTEP MAC and address replace the old ones", suite.Core, store, peerChanges),
		check("RS-09", "without the store traffic goes on, then all resumes", suite.Extended, append(traffic, suite.EtcdStore), storeOutage),
	}
}

// alone has a check run beside no other, since it may restart a machine.
func alone(c suite.Check) suite.Check {
	c.Part = ""
	return c
}

// traffic is a flow from a pod of each node to one of the next node.
type traffic struct {
	pairs   []suite.Pair
	streams []*suite.Flow
}

// settle is how many datagrams of each flow go by undisturbed before the first
// change and after the last.
const settle = 10

// startTraffic starts the flows of all nodes, with that many datagrams a second
// each.
func startTraffic(ctx context.Context, env *suite.Env, rate int) (*traffic, error) {
	return startTrafficOf(ctx, env, nodesWithPods(env.Plan()), rate)
}

// startTrafficOf starts those of some nodes with pods.
func startTrafficOf(ctx context.Context, env *suite.Env, nodes []*topology.Node, rate int) (*traffic, error) {
	t := new(traffic)
	for i, n := range nodes {
		next := nodes[(i+1)%len(nodes)]
		pair := suite.Pair{From: env.Plan().PodsOn(n.Name)[0], To: env.Plan().PodsOn(next.Name)[0]}
		st, err := env.StartFlow(ctx, pair.From.Name, pair.To.Name, probe.Flow{To: pair.To.Address.Addr(), Rate: rate})
		if err != nil {
			return nil, err
		}
		t.pairs, t.streams = append(t.pairs, pair), append(t.streams, st)
	}
	return t, t.more(ctx, settle)
}

// more returns when every flow has sent n more datagrams.
func (t *traffic) more(ctx context.Context, n int) error {
	totals := make([]int, len(t.streams))
	for i, st := range t.streams {
		totals[i] = st.Sent() + n
	}
	for i, st := range t.streams {
		if err := st.Reach(ctx, totals[i]); err != nil {
			return err
		}
	}
	return nil
}

// window is a time in which something was wrong.
type window struct{ from, until time.Time }

// end lets a few more datagrams by, stops the flows, and judges that what was
// lost was sent within one of the windows. It returns in words what went by.
func (t *traffic) end(ctx context.Context, env *suite.Env, wrong ...window) (string, error) {
	if err := t.more(ctx, settle); err != nil {
		return "", err
	}
	sent, lost := 0, 0
	var errs []error
	for i, st := range t.streams {
		r, err := st.Stop(ctx)
		if err != nil {
			return "", err
		}
		if r.Overflowed > 0 {
			errs = append(errs, suite.Inconclusivef("%s: %s: this machine was too busy to receive", t.pairs[i], r))
		}
		sent, lost = sent+r.Sent, lost+len(r.Lost)
		outside := slices.DeleteFunc(slices.Clone(r.Lost), func(l probe.LostDatagram) bool {
			return slices.ContainsFunc(wrong, func(w window) bool { return !l.Until.Before(w.from) && !l.From.After(w.until) })
		})
		if len(outside) == 0 || r.Overflowed > 0 {
			continue
		}
		expected := "no datagram lost"
		if len(wrong) > 0 {
			expected = "no datagram lost but while something was wrong"
		}
		env.Fail(t.pairs[i].String(), expected, fmt.Sprintf("%s; %d at the wrong time, the first number %d", r, len(outside), outside[0].Number))
	}
	return fmt.Sprintf("%d of %d datagrams lost", lost, sent), errors.Join(errs...)
}

// entries are what a node has of the overlay, in the tools' words: devices,
// the routes to other nodes' pods, permanent neighbours and forwarding
// entries. They say the same before a fault and after its repair.
func entries(plan *topology.Plan, st *probe.State) []string {
	var out []string
	for _, l := range st.Links {
		if overlayDevice(l.Name) {
			vx := ""
			if v := l.VXLAN; v != nil {
				vx = fmt.Sprintf(" id %d port %d local %s learning %t", v.VNI, v.Port, v.Local, v.Learning)
			}
			carrier := l.Oper != "down" && l.Oper != "lower-layer-down"
			out = append(out, fmt.Sprintf("link %s %s mtu %d up %t carrier %t %v%s", l.Name, l.MAC, l.MTU, l.Up, carrier, l.AddressesLike(plan.Network.Network.Addr()), vx))
		}
	}
	for _, r := range st.Routes {
		if toPods(plan, r) {
			out = append(out, "route "+r.String())
		}
	}
	for _, n := range st.Neighbours {
		if overlayDevice(n.Dev) && n.State == "PERMANENT" {
			out = append(out, "neigh "+n.String())
		}
	}
	for _, f := range st.FDB {
		if overlayDevice(f.Dev) && f.Dst.IsValid() {
			out = append(out, "fdb "+f.String())
		}
	}
	slices.Sort(out)
	return out
}

// overlayDevice tells flannel's devices by their names.
func overlayDevice(name string) bool { return strings.HasPrefix(name, "flannel") }

// toPods tells the routes to other nodes' pods.
func toPods(plan *topology.Plan, r probe.Route) bool {
	network := plan.Network.Network
	return r.Dst.Bits() >= network.Bits() && network.Contains(r.Dst.Addr()) && r.Dev != bridge && !r.Dst.IsSingleIP()
}

// changed returns what differs from the entries before, empty where nothing
// does.
func changed(plan *topology.Plan, before []string, st *probe.State) string {
	now := entries(plan, st)
	var diff []string
	for _, e := range before {
		if !slices.Contains(now, e) {
			diff = append(diff, "lacks "+e)
		}
	}
	for _, e := range now {
		if !slices.Contains(before, e) {
			diff = append(diff, "has "+e)
		}
	}
	const most = 3
	if more := len(diff) - most; more > 0 {
		diff = append(diff[:most], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(diff, "; ")
}

// stateOf dumps a node's state anew.
func stateOf(ctx context.Context, env *suite.Env, node string) (*probe.State, error) {
	s, err := env.Session(ctx, node)
	if err != nil {
		return nil, err
	}
	return s.State(ctx)
}

// follow waits until no node has anything wrong, and returns how long that
// took. A node that does not come so far is a finding.
func follow(ctx context.Context, env *suite.Env, expected string, wrong func(n *topology.Node, st *probe.State) string) (time.Duration, error) {
	began := env.Now(ctx)
	behind, err := await(ctx, env, wrong)
	for node, seen := range behind {
		env.Fail(node, expected, fmt.Sprintf("after %v: %s", env.Timeouts().Converge, seen))
	}
	return env.Now(ctx).Sub(began), err
}

// await waits until no node has anything wrong, and returns what is wrong with
// those that do not come so far.
func await(ctx context.Context, env *suite.Env, wrong func(n *topology.Node, st *probe.State) string) (behind map[string]string, err error) {
	plan := env.Plan()
	var mu sync.Mutex
	behind = map[string]string{}
	err = suite.Each(withAgents(plan), func(node *topology.Node) error {
		w, err := env.Watch(ctx, node.Name)
		if err != nil {
			return err
		}
		defer w.Close()
		_, last, err := w.Until(ctx, env.Timeouts().Converge, func(st *probe.State) string { return wrong(node, st) })
		if last != "" {
			mu.Lock()
			defer mu.Unlock()
			behind[node.Name] = last
		}
		return err
	})
	return behind, err
}
