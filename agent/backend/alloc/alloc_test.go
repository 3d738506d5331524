package alloc

import (
	"testing"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

func TestAlloc(t *testing.T) {
	b, err := New(nil, backend.Underlay{Name: "eth0", MTU: 1500})
	if err != nil {
		t.Fatal(err)
	}
	want, problems := b.Desired(lease.Lease{}, make([]lease.Lease, 2))
	if changes := datapath.Diff(want, b.Device()); len(changes) > 0 || len(problems) > 0 {
		t.Errorf("wanted: %v, problems: %v", changes, problems)
	}
	if b.Type() != "" || b.MTU() != 1500 || b.Data() != nil {
		t.Errorf("type %q, MTU %d, data %s", b.Type(), b.MTU(), b.Data())
	}
}
