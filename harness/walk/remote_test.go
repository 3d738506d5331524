package walk_test

import (
	"testing"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/internal/fartest"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// TestRemoteWalk: on machines that can only be asked the way is the same, but
// for what is between them, and no time is told from one machine's clock to
// another's.
//
//	master-pod-1       node-1-pod-1
//	cni0 10.244.0.1    cni0 10.244.1.1
//	ens3 172.16.1.8    ens3 172.16.1.9
//	  +------------------+
func TestRemoteWalk(t *testing.T) {
	const way1 = "master-pod-1:eth0 master:veth00000000 master:cni0 master:flannel.1 master:ens3 " +
		"node-1:ens3 node-1:flannel.1 node-1:cni0 node-1:veth00000100 node-1-pod-1:eth0"
	plan := labtest.Plan(2, 1, 1500)
	plan.Network.Backend = topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}
	lab := fartest.Lab(labtest.Up(t, plan))
	r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{})
	if r.Verdict != walk.Arrived || way(&r.Request) != way1 {
		t.Fatalf("%s: %s, not\n%s\n%+v", r.Verdict, way(&r.Request), way1, r.Divergence)
	}
	for _, leg := range r.Legs() {
		for i := range leg.Steps {
			s := &leg.Steps[i]
			first := i == 0 && leg.Name == "request"
			if crossed := i > 0 && leg.Steps[i-1].Interface == "ens3" && s.Interface == "ens3"; s.Seen.Apart != crossed || s.Seen.Apart && s.Seen.After != 0 {
				t.Errorf("step %d at %s: another clock %v, after %v", s.Number, s.Tap(), s.Seen.Apart, s.Seen.After)
			}
			if !s.Seen.Apart && !first && s.Seen.After <= 0 {
				t.Errorf("step %d at %s: after %v", s.Number, s.Tap(), s.Seen.After)
			}
		}
	}
	if r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{Protocol: "tcp", Port: 81}); r.Verdict != walk.Arrived {
		t.Errorf("a SYN: %s %+v", r.Verdict, r.Divergence)
	}
}
