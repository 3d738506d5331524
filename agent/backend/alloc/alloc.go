// Package alloc is flannel's alloc backend: the node gets a lease and a
// subnet.env, and its packets are somebody else's business.
package alloc

import (
	"encoding/json"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

// Name is the backend's name in net-conf.json.
const Name = "alloc"

// Alloc is a backend that programs nothing.
type Alloc struct{ mtu int }

// New never fails.
func New(_ *lease.Config, u backend.Underlay) (backend.Backend, error) { return Alloc{u.MTU}, nil }

// Type implements backend.Backend: a lease of alloc names no type (flannel,
// pkg/backend/alloc/alloc.go).
func (Alloc) Type() string { return "" }

// MTU implements backend.Backend: that of the interface.
func (a Alloc) MTU() int { return a.mtu }

// Scope implements backend.Backend; nothing is owned.
func (Alloc) Scope() datapath.Scope { return datapath.Scope{} }

// Adopt implements backend.Backend; nothing has to outlive the agent.
func (Alloc) Adopt(datapath.State) {}

// Data implements backend.Backend; there is none.
func (Alloc) Data() json.RawMessage { return nil }

// Device implements backend.Backend; there is none.
func (Alloc) Device() datapath.State { return datapath.NewState() }

// Desired implements backend.Backend; nothing is wanted.
func (Alloc) Desired(lease.Lease, []lease.Lease) (datapath.State, []string) {
	return datapath.NewState(), nil
}
