package suite

import (
	"testing"

	"github.com/overlab/overlab/internal/labtest"
)

func TestPairs(t *testing.T) {
	for _, c := range []struct {
		nodes, pods, limit          int
		same, sameAll               int
		cross, crossAll, pairedTwos int
	}{
		{3, 2, 4096, 6, 6, 24, 24, 6},
		{1, 1, 4096, 0, 0, 0, 0, 0},
		{4, 3, 50, 24, 24, 50, 108, 12},
		{4, 3, 12, 12, 24, 12, 108, 12},
		{64, 2, 4096, 128, 128, 4096, 16128, 64 * 63},
		{64, 2, 100, 100, 128, 100, 16128, 100},
	} {
		p := labtest.Plan(c.nodes, c.pods, 1500)
		same, cross := sameNodePairs(p, c.limit), crossNodePairs(p, c.limit)
		if len(same.List) != c.same || same.Total != c.sameAll {
			t.Errorf("%dx%d: same node: %s, want %d of %d", c.nodes, c.pods, same, c.same, c.sameAll)
		}
		if len(cross.List) != c.cross || cross.Total != c.crossAll {
			t.Errorf("%dx%d: across nodes: %s, want %d of %d", c.nodes, c.pods, cross, c.cross, c.crossAll)
		}
		twos := map[[2]string]bool{}
		seen := map[[2]string]bool{}
		for _, pair := range cross.List {
			if pair.From.Node == pair.To.Node || seen[[2]string{pair.From.Name, pair.To.Name}] {
				t.Fatalf("%dx%d: %s is not across nodes, or twice there", c.nodes, c.pods, pair)
			}
			seen[[2]string{pair.From.Name, pair.To.Name}] = true
			twos[[2]string{pair.From.Node, pair.To.Node}] = true
		}
		if len(twos) != c.pairedTwos {
			t.Errorf("%dx%d: %d pairs of nodes, want %d", c.nodes, c.pods, len(twos), c.pairedTwos)
		}
		for _, pair := range same.List {
			if pair.From.Node != pair.To.Node || pair.From.Name == pair.To.Name {
				t.Fatalf("%s is not on one node", pair)
			}
		}
	}
	if s := (Pairs{Total: 9}).String(); s != "0 of 9 pairs" {
		t.Error(s)
	}
}
