package checks

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

func modelChecks() []suite.Check {
	return []suite.Check{
		{
			ID: "NM-01", Title: "pods on one node reach each other without NAT",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.SameNodePods},
			Run: func(ctx context.Context, env *suite.Env) error {
				return echoPairs(ctx, env, env.SameNodePairs())
			},
		},
		{
			ID: "NM-02", Title: "pods on different nodes reach each other without NAT",
			Source: fromSeeds, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects},
			Run: func(ctx context.Context, env *suite.Env) error {
				return echoPairs(ctx, env, env.CrossNodePairs())
			},
		},
		{
			ID: "NM-07", Title: "ports of nodes lead to their pods, also from the pod",
			Source: fromFlannel, Profiles: []string{model},
			Needs: []suite.Feature{suite.IPv4, suite.PodPorts},
			Run:   nodePorts,
		},
	}
}

// maxTCP bounds the pairs that are tried over TCP: a connection costs ten
// times a datagram, and takes the same way.
const maxTCP = 256

// echoPairs lets the second pod of each pair tell which address it sees.
func echoPairs(ctx context.Context, env *suite.Env, pairs suite.Pairs) error {
	var tried []string
	var untranslated atomic.Int64
	for _, t := range []struct {
		probe.Transport
		pairs []suite.Pair
	}{
		{probe.UDP, pairs.List},
		{probe.TCP, pairs.List[:min(maxTCP, len(pairs.List))]},
	} {
		err := suite.Each(t.pairs, func(p suite.Pair) error {
			reply, err := env.Echo(ctx, t.Transport, p)
			if err != nil {
				return err
			}
			if env.Expect(fmt.Sprintf("%s over %s", p, t.Transport), reply,
				match.BeSeenAs(p.From.Address.Addr(), p.To.Address.Addr())) {
				untranslated.Add(1)
			}
			return nil
		})
		if err != nil {
			return err
		}
		tried = append(tried, fmt.Sprintf("%d of %d over %s",
			untranslated.Swap(0), len(t.pairs), strings.ToUpper(string(t.Transport))))
	}
	env.Evidence("%s; untranslated: %s", pairs, strings.Join(tried, ", "))
	return nil
}
