package suite

import (
	"fmt"

	"github.com/overlab/overlab/topology"
)

// Pair is two pods, of which the first speaks to the second.
type Pair struct{ From, To topology.Pod }

func (p Pair) String() string {
	return fmt.Sprintf("%s (%s) > %s (%s) %s", p.From.Name, p.From.Node, p.To.Name, p.To.Node, p.To.Address.Addr())
}

// Pairs are the pairs that a check tries, and how many there are in all.
type Pairs struct {
	List  []Pair
	Total int
}

// String says how many are tried, as "30 pairs" or "4096 of 16128 pairs".
func (p Pairs) String() string {
	if len(p.List) == p.Total {
		return fmt.Sprintf("%d pairs", p.Total)
	}
	return fmt.Sprintf("%d of %d pairs", len(p.List), p.Total)
}

// SameNodePairs returns the ordered pairs of pods on one node.
func (e *Env) SameNodePairs() Pairs { return sameNodePairs(e.plan, e.run.o.MaxPairs) }

// CrossNodePairs returns the ordered pairs of pods on two nodes.
func (e *Env) CrossNodePairs() Pairs { return crossNodePairs(e.plan, e.run.o.MaxPairs) }

func sameNodePairs(plan *topology.Plan, limit int) Pairs {
	var all []Pair
	for _, node := range plan.Nodes {
		pods := plan.PodsOn(node.Name)
		for _, a := range pods {
			for _, b := range pods {
				if a.Name != b.Name {
					all = append(all, Pair{a, b})
				}
			}
		}
	}
	return Pairs{List: spread(all, limit), Total: len(all)}
}

// crossNodePairs orders the pairs so that a bound leaves out second pods
// before it leaves out nodes: first one pair for each two nodes, with the
// pods of each taking turns, then the next.
func crossNodePairs(plan *topology.Plan, limit int) Pairs {
	type nodePods struct{ pods []topology.Pod }
	var nodes []nodePods
	for _, n := range plan.Nodes {
		if pods := plan.PodsOn(n.Name); len(pods) > 0 {
			nodes = append(nodes, nodePods{pods})
		}
	}
	var out Pairs
	rounds := 0
	for i, a := range nodes {
		for j, b := range nodes {
			if i != j {
				out.Total += len(a.pods) * len(b.pods)
				rounds = max(rounds, len(a.pods)*len(b.pods))
			}
		}
	}
	for round := 0; round < rounds && len(out.List) < limit; round++ {
		var pairs []Pair
		for i, a := range nodes {
			for j, b := range nodes {
				n := len(a.pods) * len(b.pods)
				if i == j || round >= n {
					continue
				}
				k := (round + i + j) % n
				pairs = append(pairs, Pair{a.pods[k/len(b.pods)], b.pods[k%len(b.pods)]})
			}
		}
		out.List = append(out.List, spread(pairs, limit-len(out.List))...)
	}
	return out
}

// spread returns at most limit items, taken at even distances.
func spread[T any](all []T, limit int) []T {
	if len(all) <= limit {
		return all
	}
	out := make([]T, 0, limit)
	for i := range limit {
		out = append(out, all[i*len(all)/limit])
	}
	return out
}
