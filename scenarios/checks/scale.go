package checks

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func scaleCheck() suite.Check {
	return suite.Check{
		ID: "SC-01", Level: suite.Extended, Title: "of 50 and 200 nodes, each has 3 entries for each peer",
		Source: fromBoth, Profiles: []string{vxlan, scale},
		// Not in a cluster, whose controllers would see to 200 nodes without a
		// machine: conditions, taints, pods of DaemonSets.
		Needs:    []suite.Feature{suite.IPv4, suite.FullMesh, suite.EtcdStore},
		Disturbs: true, // it fills the machine
		Run:      manyPeers,
	}
}

// sizes are of how many nodes SC-01 makes the overlay.
var sizes = []int{50, 200}

// farAway is where nodes that are in the store only say that they are: a
// network for benchmarks (RFC 2544), which has room for all.
var farAway = netip.MustParseAddr("198.18.0.1")

// manyPeers adds nodes to the store until there are so many.
func manyPeers(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	nodes := withAgents(plan)
	if len(nodes) == 0 {
		return suite.NotApplicablef("no agent runs that would follow the store")
	}
	s, err := newSwarm(ctx, env, nodes)
	if err != nil {
		return err
	}
	defer s.close()
	var told []string
	for _, size := range sizes {
		if room := len(plan.Nodes) + len(s.free); size <= len(plan.Nodes) || size > room {
			told = append(told, fmt.Sprintf("N=%d not tried, of %d to %d", size, len(plan.Nodes)+1, room))
			continue
		}
		what, err := s.grow(ctx, size)
		if err != nil {
			return err
		}
		told = append(told, what)
	}
	if len(s.there) == 0 {
		return suite.NotApplicablef("%s", strings.Join(told, "; "))
	}
	env.Evidence("%s", strings.Join(told, "; "))
	return nil
}

// swarm is nodes that are in the store only.
type swarm struct {
	env     *suite.Env
	nodes   []*topology.Node
	records map[string]*suite.Recording
	// before is what each node had without them.
	before map[string][]string
	free   []netip.Prefix
	there  []lease.Lease
	// began is when the lease of a subnet was written.
	began map[netip.Prefix]time.Time
}

// newSwarm prepares to record what comes to the nodes. At the end of the check
// the store and the nodes are as before.
func newSwarm(ctx context.Context, env *suite.Env, nodes []*topology.Node) (*swarm, error) {
	s := &swarm{
		env: env, nodes: nodes, free: freeSubnets(env.Plan(), slices.Max(sizes)),
		records: map[string]*suite.Recording{}, before: map[string][]string{}, began: map[netip.Prefix]time.Time{},
	}
	for _, n := range nodes {
		session, err := env.Session(ctx, n.Name)
		if err != nil {
			s.close()
			return nil, err
		}
		st, err := session.State(ctx)
		if err == nil {
			s.before[n.Name] = entries(env.Plan(), st)
			s.records[n.Name], err = env.Record(ctx, n.Name)
		}
		if err != nil {
			s.close()
			return nil, err
		}
	}
	env.Restore("the set of peers", s.leave)
	return s, nil
}

func (s *swarm) close() {
	for _, r := range s.records {
		r.Close()
	}
}

// grow adds nodes until there are so many, judges what every node has of them,
// and returns in words how long each took to be served.
func (s *swarm) grow(ctx context.Context, size int) (string, error) {
	plan := s.env.Plan()
	var more []lease.Lease
	at := farAway
	for range len(s.there) {
		at = at.Next()
	}
	for _, subnet := range s.free[len(s.there) : size-len(plan.Nodes)] {
		more = append(more, lease.Lease{
			Subnet: subnet, Key: lease.Key(subnet), PublicIP: at, BackendType: "vxlan",
			VNI: plan.Network.Backend.VNI, VtepMAC: topology.DeriveMAC("swarm", subnet.String()),
		})
		at = at.Next()
	}
	s.there = append(s.there, more...) // what was begun is taken away again
	began, err := suite.Observe(ctx, s.env, fmt.Sprintf("leases for %d nodes are written", size), func() ([]time.Time, error) {
		writing, cancel := context.WithTimeout(ctx, s.env.Timeouts().Store)
		defer cancel()
		times := make([]time.Time, len(more))
		err := lease.PutAll(writing, s.env.Lab(), more, func(i int) { times[i] = time.Now().Round(0) })
		return times, err
	})
	if err != nil {
		return "", err
	}
	for i, at := range began {
		s.began[more[i].Subnet] = at
	}
	wanted := 3 * (size - 1)
	_, err = follow(ctx, s.env, fmt.Sprintf("%d entries, 3 for each of %s", wanted, count(size-1, "peer")), func(_ *topology.Node, st *probe.State) string {
		return s.wrong(st, wanted)
	})
	if err != nil {
		return "", err
	}
	times, err := s.times(ctx, more)
	if err != nil || len(times) == 0 {
		return fmt.Sprintf("N=%d: %d entries a node, in a time that is not known", size, wanted), err
	}
	return fmt.Sprintf("N=%d: %d entries a node, a peer served after p50 %v, p99 %v", size, wanted, percentile(times, 50), percentile(times, 99)), nil
}

// wrong says what a node's entries lack; empty where they are those wanted.
func (s *swarm) wrong(st *probe.State, wanted int) string {
	var n [3]int
	dev := vtep(s.env.Plan())
	for _, x := range st.NeighboursOn(dev) {
		if x.State == "PERMANENT" && x.IP.Is4() {
			n[0]++
		}
	}
	for _, x := range st.FDBOf(dev) {
		if x.Dst.IsValid() {
			n[1]++
		}
	}
	for _, x := range st.RoutesVia(dev) {
		if toPods(s.env.Plan(), x) {
			n[2]++
		}
	}
	if n[0] == wanted/3 && n[1] == wanted/3 && n[2] == wanted/3 {
		return ""
	}
	return fmt.Sprintf("%d neighbours, %d FDB entries, %d routes", n[0], n[1], n[2])
}

// times are how long each of the peers took to be served by each node: from the
// writing of its lease to its route, which comes last.
func (s *swarm) times(ctx context.Context, peers []lease.Lease) ([]time.Duration, error) {
	var out []time.Duration
	for _, n := range s.nodes {
		notices, err := s.records[n.Name].Notices(ctx)
		if err != nil {
			return nil, err
		}
		came := map[netip.Prefix]time.Time{}
		for _, x := range notices {
			if x.Route == nil {
				continue
			}
			if _, known := came[x.Route.Dst]; !known {
				came[x.Route.Dst] = x.At
			}
		}
		for _, l := range peers {
			if at, ok := came[l.Subnet]; ok {
				out = append(out, at.Sub(s.began[l.Subnet]))
			}
		}
	}
	slices.Sort(out)
	return out, nil
}

// leave takes the nodes from the store, and waits until every node has what it
// had before them.
func (s *swarm) leave(ctx context.Context) error {
	var keys []string
	for _, l := range s.there {
		keys = append(keys, l.Key)
	}
	if err := lease.Delete(ctx, s.env.Lab(), keys...); err != nil {
		return err
	}
	behind, err := await(ctx, s.env, func(n *topology.Node, st *probe.State) string {
		return changed(s.env.Plan(), s.before[n.Name], st)
	})
	for node, left := range behind {
		return fmt.Errorf("%s: %s", node, left)
	}
	return err
}

// percentile is the value of sorted ones below which so many per cent are.
func percentile(sorted []time.Duration, p int) time.Duration {
	return rounded(sorted[(len(sorted)*p+99)/100-1])
}
