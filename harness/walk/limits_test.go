package walk

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk/predict"
	"github.com/overlab/overlab/topology"
)

// TestLimits: what is left out of a great lab is counted and told of, and the
// ends are never left out.
func TestLimits(t *testing.T) {
	p := &topology.Plan{}
	for i := range 40 {
		p.Nodes = append(p.Nodes, topology.Node{Name: fmt.Sprintf("node-%d", i)})
	}
	names, leftOut := lookedAt(p, Endpoint{Name: "pod", Node: "node-39"})
	if len(leftOut) != 7 || slices.Contains(leftOut, "node-39") || !slices.Contains(names, "node-39") || slices.Contains(names, "node-32") {
		t.Errorf("looked at %v, left out %v", names, leftOut)
	}
	if got := limits(leftOut); len(got) != 1 || !strings.HasPrefix(got[0], "7 nodes are not looked at (node-32 to node-38)") {
		t.Error(got)
	}
	if got := limits(nil); got != nil {
		t.Error(got)
	}

	s := &predict.Space{State: &probe.State{Namespace: "n"}}
	for i := range 50 {
		s.State.Links = append(s.State.Links, probe.Link{Index: i + 1, Name: fmt.Sprintf("veth%d", i), Kind: "veth", Up: i != 7})
	}
	n := &predict.Network{Spaces: map[string]*predict.Space{"n": s}}
	path := &predict.Path{Hops: []predict.Hop{{Space: "n", Interface: "veth49"}}}
	all, more := places(n, []Endpoint{{Name: "n", Node: "n"}}, path, nil)
	// One is down, and one is on the way.
	if len(all) != 1+maxTaps || more != 50-2-maxTaps || all[0].dev != "veth49" {
		t.Errorf("%d taps and %d left out: %v", len(all), more, all)
	}
}
