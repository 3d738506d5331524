// Package hostgw is flannel's host-gw backend: for every peer one route, to
// the peer's subnet by the peer's own address on the segment that both are on.
// There is no device and no encapsulation; the pods' packets are on the wire
// as they are.
package hostgw

import (
	"encoding/json"
	"fmt"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

// Type is the backend's name in net-conf.json and in leases.
const Type = "host-gw"

// HostGW is one node's part of an overlay of routes.
type HostGW struct {
	config   *lease.Config
	underlay backend.Underlay
}

// New checks the configuration. Peers use a node as their next hop, so what it
// publishes has to be the address of its interface (flannel,
// pkg/backend/hostgw/hostgw.go).
func New(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
	for _, f := range c.Families() {
		if u.Public(f) != u.Own(f) {
			return nil, fmt.Errorf("host-gw: the public IP %s is not %s, the address of %s: peers route to it as a next hop, which no address but the interface's own can be",
				u.Public(f), u.Own(f), u.Name)
		}
	}
	return &HostGW{config: c, underlay: u}, nil
}

// Type implements backend.Backend.
func (h *HostGW) Type() string { return Type }

// MTU implements backend.Backend: that of the interface.
func (h *HostGW) MTU() int { return h.underlay.MTU }

// Scope implements backend.Backend: no device, and of the underlay interface
// the routes to nodes' subnets.
func (h *HostGW) Scope() datapath.Scope {
	return datapath.Scope{
		Underlays: []string{h.underlay.Name},
		Bare:      backend.BareRoutes(h.config, h.underlay),
		IPv6:      h.config.EnableIPv6,
		Contested: backend.Contested(h.config),
	}
}

// Adopt implements backend.Backend; nothing has to outlive the agent.
func (h *HostGW) Adopt(datapath.State) {}

// Data implements backend.Backend: a lease of host-gw has none.
func (h *HostGW) Data() json.RawMessage { return nil }

// Device implements backend.Backend; there is none.
func (h *HostGW) Device() datapath.State { return datapath.NewState() }

// Desired implements backend.Backend. The route to a peer that is not on the
// segment is wanted, too: the kernel refuses it, so the node is not ready, and
// it is tried again.
func (h *HostGW) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	s := datapath.NewState()
	var problems []string
	for _, f := range h.config.Families() {
		problems = append(problems, h.desired(f, s, own, all)...)
	}
	return s, problems
}

// desired adds the routes of one family.
func (h *HostGW) desired(f lease.Family, s datapath.State, own lease.Lease, all []lease.Lease) []string {
	bare, ordinary := h.Scope().Bare, h.config.Range(f)
	peers, problems := backend.PeersOf(f, h.config, Type, h.underlay, own, all, func(l lease.Lease) error {
		if !bare.Covers(l.Key.Of(f)) {
			return fmt.Errorf("its subnet is not a /%d of %s", ordinary.Len, ordinary.Network)
		}
		return nil
	}, nil)
	for _, l := range peers {
		via := l.Attrs.Public(f)
		if !h.underlay.Adjacent(via) {
			problems = append(problems, fmt.Sprintf("lease %s: its %s %s is not on the segment of %s, and host-gw crosses no router", l.Key, f.PublicField(), via, h.underlay.Name))
		}
		s.Routes.Add(datapath.Route{Dst: l.Key.Of(f), Via: via, Dev: h.underlay.Name})
	}
	return problems
}
