package checks

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// initialTTL is Linux's default TTL; each node that forwards takes one off.
const initialTTL = 64

func ttlChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "TTL-01", Title: "a pod's ping on the same node is answered with TTL 64",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.SameNodePods, suite.Bridge},
			Run: func(ctx context.Context, env *suite.Env) error {
				return pingPairs(ctx, env, env.SameNodePairs(), initialTTL)
			},
		},
		{
			ID: "TTL-02", Title: "a pod's ping to a remote node's cni0 returns TTL 63",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects, suite.KernelDatapath, suite.Bridge},
			Run: func(ctx context.Context, env *suite.Env) error {
				return pingRemoteBridges(ctx, env, initialTTL-1)
			},
		},
		{
			ID: "TTL-03", Title: "a pod's ping to a pod on another node returns TTL 62",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects, suite.KernelDatapath},
			Run: func(ctx context.Context, env *suite.Env) error {
				return pingPairs(ctx, env, env.CrossNodePairs(), initialTTL-2)
			},
		},
		{
			ID: "TTL-04", Title: "through udp's two proxies it is TTL 61 and 60",
			Source: fromFlannel, Profiles: []string{udp},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.UDP},
			Run: func(ctx context.Context, env *suite.Env) error {
				if err := pingRemoteBridges(ctx, env, initialTTL-3); err != nil {
					return err
				}
				return pingPairs(ctx, env, env.CrossNodePairs(), initialTTL-4)
			},
		},
	}
}

func pingPairs(ctx context.Context, env *suite.Env, pairs suite.Pairs, ttl int) error {
	pings := make([]suite.Ping, len(pairs.List))
	for i, p := range pairs.List {
		pings[i] = suite.Ping{From: p.From.Name, Ping: probe.Ping{Dst: p.To.Address.Addr()}}
	}
	pongs, err := env.PingAll(ctx, pings)
	if err != nil {
		return err
	}
	for i, p := range pairs.List {
		env.Expect(p.String(), pongs[i], match.HaveTTL(ttl))
	}
	env.Evidence("%s, %s", pairs, summary(pongs))
	return nil
}

// pingRemoteBridges pings each node's cni0 from one pod of every other node;
// a node's pods take turns.
func pingRemoteBridges(ctx context.Context, env *suite.Env, ttl int) error {
	plan := env.Plan()
	nodes := nodesWithPods(plan)
	var pings []suite.Ping
	var where []string
	for _, from := range nodes {
		pods := plan.PodsOn(from.Name)
		for i, to := range nodes {
			if from == to {
				continue
			}
			pod, dst := pods[i%len(pods)].Name, to.Gateway().Addr()
			pings = append(pings, suite.Ping{From: pod, Ping: probe.Ping{Dst: dst}})
			where = append(where, fmt.Sprintf("%s (%s) > %s of %s %s", pod, from.Name, bridge, to.Name, dst))
		}
	}
	pongs, err := env.PingAll(ctx, pings)
	if err != nil {
		return err
	}
	for i, pong := range pongs {
		env.Expect(where[i], pong, match.HaveTTL(ttl))
	}
	env.Evidence("%s, %s", count(len(pings), "pair"), summary(pongs))
	return nil
}

// summary tells the TTLs and round-trip times of the replies.
func summary(pongs []probe.Pong) string {
	var rtts []time.Duration
	var ttls []int
	for _, p := range pongs {
		for _, r := range p.Replies {
			rtts = append(rtts, r.RTT)
			if !slices.Contains(ttls, r.TTL) {
				ttls = append(ttls, r.TTL)
			}
		}
	}
	if len(rtts) == 0 {
		return "no replies"
	}
	slices.Sort(rtts)
	slices.Sort(ttls)
	s := "ttl="
	for i, t := range ttls {
		if i > 0 {
			s += ","
		}
		s += fmt.Sprint(t)
	}
	s += fmt.Sprintf(" rtt %sms", milliseconds(rtts[len(rtts)/2]))
	if len(rtts) > 1 {
		s += fmt.Sprintf(" (%s to %s)", milliseconds(rtts[0]), milliseconds(rtts[len(rtts)-1]))
	}
	return s
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d.Microseconds())/1000) }
