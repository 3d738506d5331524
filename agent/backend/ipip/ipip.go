// Package ipip is flannel's ipip backend: one IP-in-IP device (RFC 2003), and
// for every peer a route through it whose next hop is the peer's PublicIP. The
// device asks nobody where that is, as its packets go by the node's own routes.
//
// Where the kernel makes no such device, a TUN device of the same name is in its
// place, with the same address and routes, and a forwarder sends and takes the
// same packets. The gateway of a route means nothing to a TUN device, so the
// forwarder is told of the peers.
//
// With DirectRouting a peer on the node's own segment has a plain route, out of
// the underlay interface.
package ipip

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/agent/forwarder/relay"
	"github.com/overlab/overlab/agent/lease"
)

const (
	// Type is the backend's name in net-conf.json and in leases.
	Type = "ipip"
	// overhead in bytes: an IPv4 header without options.
	overhead = 20
	// device is the name that flannel gives it (pkg/backend/ipip/ipip.go).
	device = "flannel.ipip"

	kernelKind, userKind = "ipip", "tun"
)

// IPIP is one node's part of an IP-in-IP overlay.
type IPIP struct {
	config   *lease.Config
	link     datapath.Link
	underlay backend.Underlay
	// bare are the routes of peers on the segment; none without DirectRouting.
	bare datapath.BareRoutes
	// makes reports whether the kernel makes devices of a kind.
	makes func(kind string) bool
	// process moves the packets where the kernel makes no device.
	process *forwarder.Client
}

var _ backend.Loser = (*IPIP)(nil)

// New returns what checks the configuration and makes the backend, with its
// forwarder, if it needs one, from the launcher.
func New(l forwarder.Launcher) backend.New {
	return func(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
		b, err := newIPIP(c, u)
		if err != nil {
			return nil, err
		}
		b.process, err = l.NewClient(relay.IPIPKind, device, relay.IPIPOptions{Address: u.Address})
		return b, err
	}
}

func newIPIP(c *lease.Config, u backend.Underlay) (*IPIP, error) {
	var cfg struct{ DirectRouting bool }
	if err := json.Unmarshal(c.Backend, &cfg); err != nil {
		return nil, fmt.Errorf("read the ipip backend's configuration: %w", err)
	}
	mtu := u.MTU - overhead
	if c.EnableIPv6 {
		return nil, errors.New("IPv6 (EnableIPv6) over ipip: the tunnel of RFC 2003 carries IPv4 alone, and flannel's does, too; choose vxlan or host-gw")
	}
	if mtu < 68 { // RFC 791
		return nil, fmt.Errorf("MTU %d of %s leaves %d bytes for pods, fewer than IPv4's 68", u.MTU, u.Name, mtu)
	}
	b := &IPIP{
		config:   c,
		link:     datapath.Link{Name: device, Kind: kernelKind, MTU: mtu, Up: true, Local: u.Address},
		underlay: u,
		makes:    datapath.Makes,
	}
	if cfg.DirectRouting {
		b.bare = datapath.BareRoutes{Dev: u.Name, Network: c.Network, Len: c.SubnetLen}
	}
	return b, nil
}

// Type implements backend.Backend.
func (b *IPIP) Type() string { return Type }

// MTU implements backend.Backend.
func (b *IPIP) MTU() int { return b.link.MTU }

// Scope implements backend.Backend.
func (b *IPIP) Scope() datapath.Scope {
	return datapath.Scope{Devices: []string{device}, Underlays: []string{b.underlay.Name}, Bare: b.bare}
}

// Adopt implements backend.Backend: it chooses a TUN device where the kernel
// makes none of its own.
func (b *IPIP) Adopt(have datapath.State) {
	if l, _ := have.Link(device); l.Kind != kernelKind && !b.makes(kernelKind) {
		b.link.Kind, b.link.Local = userKind, netip.Addr{}
	}
}

// Data implements backend.Backend: a lease of ipip has none.
func (b *IPIP) Data() json.RawMessage { return nil }

// Device implements backend.Backend.
func (b *IPIP) Device() datapath.State {
	s := datapath.NewState()
	s.Links.Add(b.link)
	return s
}

// Desired implements backend.Backend.
func (b *IPIP) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	s := b.Device()
	s.Addrs.Add(datapath.Addr{Dev: device, Prefix: netip.PrefixFrom(own.Key.Subnet.Addr(), 32)})
	peers, problems := b.peers(own, all)
	for _, l := range peers {
		via := l.Attrs.PublicIP
		route := datapath.Route{Dst: l.Key.Subnet, Via: via, Dev: device, Onlink: true}
		if b.bare.Dev != "" && b.bare.Covers(l.Key.Subnet) && b.underlay.Adjacent(via) {
			route.Dev, route.Onlink = b.underlay.Name, false
		}
		s.Routes.Add(route)
	}
	return s, problems
}

func (b *IPIP) peers(own lease.Lease, all []lease.Lease) ([]lease.Lease, []string) {
	return backend.Peers(b.config, Type, b.underlay, own, all, nil, nil)
}

// Prepare implements backend.Runner.
func (b *IPIP) Prepare(context.Context) error { return nil }

// Follow implements backend.Runner: a device that is not the kernel's own has its
// forwarder, which knows the peers.
func (b *IPIP) Follow(ctx context.Context, own lease.Lease, all []lease.Lease) error {
	if b.link.Kind == kernelKind {
		return nil
	}
	peers, _ := b.peers(own, all) // Desired tells of the others
	return b.process.Update(ctx, relay.PeersOf(own, peers))
}

// Lost implements backend.Loser.
func (b *IPIP) Lost() <-chan struct{} { return b.process.Lost() }
