package checks

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

func performanceChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "PF-01", Level: suite.Extended, Title: "pods have a fifth of the underlay's throughput or more",
			Source: fromFlannel, Profiles: []string{performance},
			Needs:    []suite.Feature{suite.IPv4, suite.SegmentPeers, suite.InKernel},
			Disturbs: true, // it fills the machine
			Run:      throughput,
		},
		{
			ID: "PF-02", Title: "the first connection to a service takes less than 1 s",
			Source: "Kubernetes issue 88986", Profiles: []string{performance, model},
			Needs:    []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
			Disturbs: true,
			Run:      serviceConnects,
		},
	}
}

// segmentPair is two nodes with pods on one segment.
type segmentPair struct{ from, to *topology.Node }

func samePair(env *suite.Env) (segmentPair, error) {
	nodes := nodesWithPods(env.Plan())
	for i, a := range nodes {
		for _, b := range nodes[i+1:] {
			if sameSegment(a, b) {
				return segmentPair{a, b}, nil
			}
		}
	}
	return segmentPair{}, suite.NotApplicablef("the lab has no %s", suite.SegmentPeers)
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// What throughput is measured by: the share of the underlay's that pods must
// have, and for how long each is measured.
const (
	shareAsked  = 0.2
	measureTime = 250 * time.Millisecond
)

// throughput measures the underlay, the pods, and the underlay again: what else
// the machine does in the meantime disturbs both.
func throughput(ctx context.Context, env *suite.Env) error {
	f, err := samePair(env)
	if err != nil {
		return err
	}
	from, to := env.Plan().PodsOn(f.from.Name)[0], env.Plan().PodsOn(f.to.Name)[0]
	var rates [3]float64
	for i := range rates {
		if i == 1 {
			rates[i], err = env.Throughput(ctx, from.Name, to.Name, to.Address.Addr(), measureTime)
		} else {
			rates[i], err = env.Throughput(ctx, f.from.Name, f.to.Name, f.to.Underlay().Address.Addr(), measureTime)
		}
		if err != nil {
			return err
		}
	}
	underlay, share := min(rates[0], rates[2]), rates[1]/min(rates[0], rates[2])
	env.Evidence("%s > %s: %.2f Gbit/s, %.0f %% of the underlay's %.2f", from.Name, to.Name, rates[1]/1e9, 100*share, underlay/1e9)
	if share < shareAsked {
		env.Fail(suite.Pair{From: from, To: to}.String(), fmt.Sprintf("at least %.0f %% of the underlay's throughput", 100*shareAsked), fmt.Sprintf("%.1f %%", 100*share))
	}
	return nil
}

// serviceAddress is of the range for benchmarks (RFC 2544), which no lab uses.
var serviceAddress = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, 0, 1}), 80)

// firstConnection is how long one may take: a SYN that was lost is sent again
// after 1 s (RFC 6298 section 2).
const firstConnection = time.Second

// serviceConnects lets each node translate a service address into a remote
// pod's, as kube-proxy does, and connects a pod to it.
func serviceConnects(ctx context.Context, env *suite.Env) error {
	plan := env.Plan()
	nodes := nodesWithPods(plan)
	var longest time.Duration
	for i, n := range nodes {
		from, to := plan.PodsOn(n.Name)[0], plan.PodsOn(nodes[(i+1)%len(nodes)].Name)[0]
		node, err := env.Session(ctx, n.Name)
		if err != nil {
			return err
		}
		server, err := env.Session(ctx, to.Name)
		if err != nil {
			return err
		}
		client, err := env.Session(ctx, from.Name)
		if err != nil {
			return err
		}
		port, err := server.EchoPort(probe.TCP)
		if err != nil {
			return err
		}
		env.Restore("the service of "+n.Name, node.Unservice)
		if err := node.Service(ctx, serviceAddress, netip.AddrPortFrom(to.Address.Addr(), port)); err != nil {
			return err
		}
		reply, err := firstReply(ctx, client)
		if err != nil {
			return err
		}
		where := fmt.Sprintf("%s (%s) > service %s > %s (%s)", from.Name, n.Name, serviceAddress, to.Name, to.Node)
		switch {
		case reply.Failure != "":
			env.Fail(where, "a connection within 1 s", reply.Failure)
		case reply.RTT >= firstConnection:
			env.Fail(where, "a connection within 1 s", fmt.Sprintf("one after %v", reply.RTT.Round(time.Millisecond)))
		}
		longest = max(longest, reply.RTT)
	}
	env.Evidence("%s to a service, the slowest after %sms", count(len(nodes), "connection"), milliseconds(longest))
	return nil
}

// firstReply connects to the service. A connection that was slow is tried once
// more: the fault that is looked for meets each one, a busy machine does not.
func firstReply(ctx context.Context, client *probe.Session) (probe.EchoReply, error) {
	const patience = 4 // so that a slow one is told from none
	var reply probe.EchoReply
	for range 2 {
		var err error
		reply, err = client.Echo(ctx, probe.Echo{Transport: probe.TCP, Server: serviceAddress, Wait: firstConnection, Tries: patience})
		if err != nil || reply.Failure == "" && reply.RTT < firstConnection {
			return reply, err
		}
	}
	return reply, nil
}
