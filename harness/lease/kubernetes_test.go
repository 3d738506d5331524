package lease

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// fakeCluster is a lab whose API server is a map of nodes.
type fakeCluster struct {
	topology.Lab
	nodes map[string]node
}

func (*fakeCluster) Plan() *topology.Plan {
	return &topology.Plan{Store: topology.Store{Type: "kubernetes"}}
}

func (f *fakeCluster) Kubectl(_ context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	switch args[0] {
	case "apply":
		var n node
		err := json.NewDecoder(stdin).Decode(&n)
		f.nodes[n.Metadata.Name] = n
		return nil, err
	case "delete":
		label, value, _ := strings.Cut(args[3], "=")
		for name, n := range f.nodes {
			if n.Metadata.Labels[label] == value {
				delete(f.nodes, name)
			}
		}
		return nil, nil
	}
	var list struct{ Items []node }
	for _, n := range f.nodes {
		list.Items = append(list.Items, n)
	}
	return json.Marshal(list)
}

// TestKubernetes: a lease that is put is read as it was, and only what was put
// can be deleted.
func TestKubernetes(t *testing.T) {
	var own node
	own.Metadata.Name = "worker"
	own.Metadata.Annotations = map[string]string{
		"flannel.alpha.coreos.com/kube-subnet-manager": "true",
		"flannel.alpha.coreos.com/backend-type":        "vxlan",
		"flannel.alpha.coreos.com/backend-data":        `{"VNI":1,"VtepMAC":"36:db:a7:72:22:8b"}`,
		"flannel.alpha.coreos.com/public-ip":           "172.18.0.3",
	}
	own.Spec.PodCIDR = "10.244.1.0/24"
	lab := &fakeCluster{nodes: map[string]node{"worker": own, "new": {}}}
	ghost := Lease{
		Subnet: netip.MustParsePrefix("10.244.255.0/24"), Key: "10.244.255.0-24", PublicIP: netip.MustParseAddr("172.18.255.254"),
		BackendType: "vxlan", VNI: 1, VtepMAC: topology.MAC{2, 0, 0, 0, 0, 9},
	}
	var began []int
	if err := PutAll(t.Context(), lab, []Lease{ghost}, func(i int) { began = append(began, i) }); err != nil {
		t.Fatal(err)
	}
	if len(began) != 1 || began[0] != 0 {
		t.Errorf("was told of the leases %v", began)
	}
	got, err := List(t.Context(), lab)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, l := range got {
		if l.Key == ghost.Key && l != ghost {
			t.Errorf("read %+v, put %+v", l, ghost)
		}
		if l.Key == "10.244.1.0-24" && (l.PublicIP.String() != "172.18.0.3" || l.VtepMAC.String() != "36:db:a7:72:22:8b") {
			t.Errorf("a worker's lease is %+v", l)
		}
	}
	if err := Delete(t.Context(), lab, ghost.Key, "10.244.1.0-24"); err != nil {
		t.Fatal(err)
	}
	if got, err := List(t.Context(), lab); err != nil || len(got) != 1 || got[0].Key != "10.244.1.0-24" {
		t.Errorf("after the deletion: %+v, %v", got, err)
	}
	own.Spec.PodCIDR = "nothing"
	lab.nodes["broken"] = own
	got, err = List(t.Context(), lab)
	if err == nil || !strings.Contains(err.Error(), "node worker: its podCIDR") || len(got) != 1 {
		t.Errorf("beside a node that is no lease: %+v, %v", got, err)
	}
}
