package checks

import (
	"context"
	"fmt"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

func mtuChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "MTU-01", Title: "a packet of the overlay's MTU passes unfragmented",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
			Run:   largestPasses,
		},
		{
			ID: "MTU-02", Title: "one byte more is refused in the pod, with the MTU",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
			Run:   oneMoreIsRefused,
		},
	}
}

// podMTU is that of the node that a pod is on.
func podMTU(env *suite.Env, node string) int { return env.Plan().OverlayMTU(env.Plan().Node(node)) }

func largestPasses(ctx context.Context, env *suite.Env) error {
	pairs := env.CrossNodePairs()
	sizes := make([]int, len(pairs.List))
	for i, p := range pairs.List {
		sizes[i] = min(podMTU(env, p.From.Node), podMTU(env, p.To.Node))
	}
	pongs, err := pingSizes(ctx, env, pairs, sizes)
	if err != nil {
		return err
	}
	answered := 0
	for i, p := range pairs.List {
		if env.Expect(fmt.Sprintf("%s, %d bytes with DF", p, sizes[i]), pongs[i], match.BeAnswered()) {
			answered++
		}
	}
	env.Evidence("%s, %s with DF: %d answered", pairs, sizeRange(sizes), answered)
	return nil
}

func oneMoreIsRefused(ctx context.Context, env *suite.Env) error {
	pairs := env.CrossNodePairs()
	sizes := make([]int, len(pairs.List))
	for i, p := range pairs.List {
		sizes[i] = podMTU(env, p.From.Node) + 1
	}
	pongs, err := pingSizes(ctx, env, pairs, sizes)
	if err != nil {
		return err
	}
	refused := 0
	for i, p := range pairs.List {
		if env.Expect(fmt.Sprintf("%s, %d bytes with DF", p, sizes[i]), pongs[i], match.BeRefusedAbove(sizes[i]-1)) {
			refused++
		}
	}
	env.Evidence("%s, %s with DF: %d refused with EMSGSIZE", pairs, sizeRange(sizes), refused)
	return nil
}

func pingSizes(ctx context.Context, env *suite.Env, pairs suite.Pairs, sizes []int) ([]probe.Pong, error) {
	pings := make([]suite.Ping, len(pairs.List))
	for i, p := range pairs.List {
		pings[i] = suite.Ping{From: p.From.Name, Ping: probe.Ping{Dst: p.To.Address.Addr(), Size: sizes[i], DF: true}}
	}
	return env.PingAll(ctx, pings)
}

func sizeRange(sizes []int) string {
	low, high := sizes[0], sizes[0]
	for _, s := range sizes {
		low, high = min(low, s), max(high, s)
	}
	if low == high {
		return fmt.Sprintf("%d bytes", low)
	}
	return fmt.Sprintf("%d to %d bytes", low, high)
}
