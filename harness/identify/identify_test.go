package identify_test

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/identify"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/fartest"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// bare is a lab whose plan has what the Kubernetes API knows, and no more.
type bare struct {
	topology.Lab
	plan *topology.Plan
}

func (b bare) Plan() *topology.Plan { return b.plan }

func strip(t *testing.T, p *topology.Plan) *topology.Plan {
	t.Helper()
	out := &topology.Plan{Name: p.Name, Existing: true, Network: topology.NetConf{EnableIPv4: true, Network: p.Network.Network}}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		address := n.Underlay().Address.Addr()
		out.Nodes = append(out.Nodes, topology.Node{
			Name: n.Name, PodCIDR: n.PodCIDR, Interfaces: []topology.Interface{{Address: netip.PrefixFrom(address, 32)}},
		})
	}
	for i := range p.Pods {
		out.Pods = append(out.Pods, topology.Pod{Name: p.Pods[i].Name, Node: p.Pods[i].Node, Address: netip.PrefixFrom(p.Pods[i].Address.Addr(), 32)})
	}
	return out
}

// TestIdentify: the backend is what the kernels' routes and the wire say, and
// what the configuration says is told beside it.
//
//	master-pod-1 -2    node-1-pod-1 -2
//	cni0 10.244.0.1    cni0 10.244.1.1
//	ens3 172.16.1.8    ens3 172.16.1.9
//	  +------------------+
func TestIdentify(t *testing.T) {
	const vxlan = `{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}`
	for name, c := range map[string]struct {
		backend    topology.Backend
		told       identify.Told
		want       string
		recognised bool
		notes      []string
	}{
		"vxlan, as configured": {
			topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}, identify.Told{Plugin: "flannel", NetConf: []byte(vxlan), NetConfIn: "a/b"}, "vxlan", true,
			[]string{"configured: vxlan, VNI 1, port 8472, in a/b", "in the kernel: vxlan, VNI 1, port 8472 (on master: 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink)",
				"on the wire: VXLAN, VNI 1, port 8472 at master:ens3", "backend: vxlan, VNI 1, port 8472"},
		},
		"vxlan that nobody tells of": {
			topology.Backend{Type: "vxlan", VNI: 77, Port: 4789}, identify.Told{}, "vxlan", true,
			[]string{"on the wire: VXLAN, VNI 77, port 4789", "backend: vxlan, VNI 77, port 4789"},
		},
		"host-gw": {
			topology.Backend{Type: "host-gw"}, identify.Told{Plugin: "flannel"}, "host-gw", true,
			[]string{"in the kernel: host-gw (on master: 10.244.1.0/24 via 172.16.1.9 dev ens3", "on the wire: bare packets, straight to the node"},
		},
		"host-gw, configured as vxlan": {
			topology.Backend{Type: "host-gw"}, identify.Told{Plugin: "flannel", NetConf: []byte(vxlan), NetConfIn: "a/b"}, "host-gw", true,
			[]string{"WARNING: vxlan is configured, and host-gw is at work"},
		},
		"a configuration that is none": {
			topology.Backend{Type: "host-gw"}, identify.Told{NetConf: []byte(`{"Network": 7}`), NetConfIn: "a/b"}, "host-gw", true,
			[]string{"configured: net-conf.json of a/b cannot be used"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			plan := labtest.Plan(2, 2, 1500)
			plan.Network.Backend = c.backend
			lab := labtest.Up(t, plan)
			stripped := strip(t, plan)
			before, err := json.Marshal(stripped)
			if err != nil {
				t.Fatal(err)
			}
			r, err := identify.Run(t.Context(), fartest.Lab(bare{lab, stripped}), c.told)
			if err != nil {
				t.Fatal(err)
			}
			if after, err := json.Marshal(stripped); err != nil || string(after) != string(before) {
				t.Errorf("the lab's own plan was changed to %s (%v)", after, err)
			}
			if got := r.Plan.Network.Backend; got.Type != c.want || r.Recognised != c.recognised || got.VNI != c.backend.VNI || got.Port != c.backend.Port {
				t.Errorf("%+v, recognised %v", got, r.Recognised)
			}
			notes := strings.Join(r.Notes, "\n")
			for _, want := range c.notes {
				if !strings.Contains(notes, want) {
					t.Errorf("no %q in\n%s", want, notes)
				}
			}
			sameKernels(t, r.Plan, plan)
		})
	}
}

// sameKernels: what the kernels have is in the plan as it was built.
func sameKernels(t *testing.T, got, want *topology.Plan) {
	t.Helper()
	if len(got.Segments) != 1 || got.Segments[0].CIDR != want.Segments[0].CIDR || got.Segments[0].MTU != want.Segments[0].MTU {
		t.Errorf("segments %+v, want %+v", got.Segments, want.Segments)
	}
	for i := range want.Nodes {
		g, w := got.Nodes[i].Underlay(), want.Nodes[i].Underlay()
		if g.Name != w.Name || g.Address != w.Address || g.MTU != w.MTU || g.MAC.IsZero() || got.Nodes[i].BridgeMAC.IsZero() {
			t.Errorf("%s: %+v, want %+v", want.Nodes[i].Name, g, w)
		}
	}
	for i := range want.Pods {
		g, w := got.Pods[i], want.Pods[i]
		if g.Address != w.Address || g.HostInterface != w.HostInterface || g.MAC.IsZero() {
			t.Errorf("%s: %+v, want %+v", w.Name, g, w)
		}
	}
}

// TestForeign: a network whose pods are not on flannel's bridge is none of
// flannel's, though its routes are those of host-gw, and checks of a backend do
// not apply.
func TestForeign(t *testing.T) {
	plan := labtest.Plan(2, 1, 1500)
	plan.Network.Backend = topology.Backend{Type: "host-gw"}
	lab := labtest.Up(t, plan)
	for _, n := range plan.Nodes {
		ns, err := lab.Namespace(n.Name)
		if err != nil {
			t.Fatal(err)
		}
		s, err := probe.Open(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Change(t.Context(), probe.Change{Delete: true, Link: "cni0"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := identify.Run(t.Context(), fartest.Lab(bare{lab, strip(t, plan)}), identify.Told{Plugin: "kindnet"})
	if err != nil {
		t.Fatal(err)
	}
	notes := strings.Join(r.Notes, "\n")
	if r.Recognised || r.Plan.CNI.Foreign != "kindnet" || r.Plan.Network.Backend.Type != "kindnet" || !r.Plan.Nodes[0].Agent.ByHand ||
		!strings.Contains(notes, "backend: none of flannel's (pods are not on a bridge cni0)") || !strings.Contains(notes, "on the wire: nothing at master:ens3") {
		t.Errorf("%+v\n%s", r.Plan.Network, notes)
	}
}

// TestSilent: nodes without routes to each other's pods are judged by what is
// configured.
func TestSilent(t *testing.T) {
	plan := labtest.Plan(2, 1, 1500)
	plan.Network.Backend = topology.Backend{Type: "alloc"}
	lab := labtest.Up(t, plan)
	told := identify.Told{Plugin: "flannel", NetConf: []byte(`{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": 5}}`), NetConfIn: "a/b"}
	r, err := identify.Run(t.Context(), fartest.Lab(bare{lab, strip(t, plan)}), told)
	if err != nil {
		t.Fatal(err)
	}
	if notes := strings.Join(r.Notes, "\n"); r.Plan.Network.Backend.VNI != 5 || r.Plan.CNI.Foreign != "" ||
		!strings.Contains(notes, "in the kernel: no route to another node's pods") || !strings.Contains(notes, "as configured") {
		t.Errorf("%+v\n%s", r.Plan.Network, notes)
	}
}
