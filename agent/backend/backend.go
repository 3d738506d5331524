// Package backend says what an overlay backend is: a pure function from the
// node itself and the leases of all nodes to the state that the node's kernel
// ought to have. One folder holds one backend.
package backend

import (
	"encoding/json"
	"net/netip"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

// Underlay is the interface that a node's encapsulated packets use.
type Underlay struct {
	// Name is the interface's name, MTU its MTU in bytes.
	Name string
	MTU  int
	// Address is the interface's own address; unset in a network of IPv6 alone.
	Address netip.Addr
	// PublicIP is the address that peers send to: Address, unless the node
	// was told otherwise.
	PublicIP netip.Addr
	// Address6 and PublicIPv6 are the same of IPv6; unset in a network of IPv4
	// alone.
	Address6, PublicIPv6 netip.Addr
	// Adjacent reports whether an address is on the interface's own segment, so
	// that no gateway is between. What it says of an address may change
	// whenever Desired is called. It is never nil where an agent makes the
	// backend.
	Adjacent func(netip.Addr) bool
}

// Own returns the interface's own address of a family, Public the one that
// peers send to.
func (u Underlay) Own(f lease.Family) netip.Addr {
	if f == lease.IPv4 {
		return u.Address
	}
	return u.Address6
}

// Public: see Own.
func (u Underlay) Public(f lease.Family) netip.Addr {
	if f == lease.IPv4 {
		return u.PublicIP
	}
	return u.PublicIPv6
}

// Backend is one node's part of an overlay. Its methods have no effects
// outside it, and what Desired returns follows from its arguments and from
// what Underlay.Adjacent says of the peers.
type Backend interface {
	// Type is the BackendType of leases, lower case.
	Type() string
	// MTU is that of the node's pods, in bytes.
	MTU() int
	// Scope is what the backend owns in the kernel.
	Scope() datapath.Scope
	// Adopt takes over what must outlive the agent, such as a device's MAC
	// address, from the state that an earlier agent or a provider left.
	Adopt(have datapath.State)
	// Data is the BackendData of the node's lease, after Adopt.
	Data() json.RawMessage
	// Device is the wanted state before the node has a lease.
	Device() datapath.State
	// Desired is the wanted state, of each of the network's families. problems
	// names, one line each, the leases that it had to leave out, or that the
	// kernel will refuse, and why.
	Desired(own lease.Lease, all []lease.Lease) (want datapath.State, problems []string)
}

// A Recaller is a Backend that can take over from the node's last lease what no
// longer is in the kernel, such as after a reboot. Recall is called before Adopt,
// so that what is in the kernel counts more.
type Recaller interface {
	// Recall is given the zero value where nothing is known.
	Recall(last lease.Attrs)
}

// DataV6 is what a Backend also has whose lease carries data of IPv6.
type DataV6 interface {
	// DataV6 is the BackendV6Data of the node's lease, after Adopt.
	DataV6() json.RawMessage
}

// Tunnel is what a Backend also is whose nodes take each other's packets at a
// UDP port, from whoever sends them: a packet filter has to tell nodes from
// others.
type Tunnel interface {
	// TunnelPort is that port.
	TunnelPort() uint16
}

// New makes a backend from net-conf.json; its error names what the
// configuration asks for and the backend does not do.
type New func(*lease.Config, Underlay) (Backend, error)
