// Package udp is flannel's udp backend: a TUN device to which one route leads
// all packets for other nodes' pods, and a forwarder that carries each, as it
// is, in a UDP datagram to the node (flannel, pkg/backend/udp).
package udp

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
	// Name is the backend's name in net-conf.json. Leases name none.
	Name = "udp"
	// overhead in bytes: an IPv4 header without options, and a UDP header.
	overhead = 28
	// device is the first name that flannel's pattern flannel%d gives.
	device = "flannel0"
	// defaultPort is flannel's (pkg/backend/udp/udp_amd64.go).
	defaultPort = 8285
)

// UDP is one node's part of an overlay in userspace.
type UDP struct {
	config    *lease.Config
	link      datapath.Link
	underlay  backend.Underlay
	forwarder *forwarder.Client
}

// New returns what checks the configuration and makes the backend, with its
// forwarder from the launcher.
func New(l forwarder.Launcher) backend.New {
	return func(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
		cfg := struct{ Port int }{defaultPort}
		if err := json.Unmarshal(c.Backend, &cfg); err != nil {
			return nil, fmt.Errorf("read the udp backend's configuration: %w", err)
		}
		if c.EnableIPv6 {
			return nil, errors.New("IPv6 (EnableIPv6) over udp: a datagram is taken for an IPv4 packet, by flannel's proxy, too; choose vxlan or host-gw")
		}
		if cfg.Port < 1 || cfg.Port > 65535 {
			return nil, fmt.Errorf("udp: Port %d is not a UDP port", cfg.Port)
		}
		mtu := u.MTU - overhead
		if mtu < 68 { // RFC 791
			return nil, fmt.Errorf("MTU %d of %s leaves %d bytes for pods, fewer than IPv4's 68", u.MTU, u.Name, mtu)
		}
		f, err := l.NewClient(relay.UDPKind, device, relay.UDPOptions{Address: u.Address, Port: uint16(cfg.Port)})
		if err != nil {
			return nil, err
		}
		return &UDP{
			config: c, underlay: u, forwarder: f,
			link: datapath.Link{Name: device, Kind: "tun", MTU: mtu, Up: true},
		}, nil
	}
}

// Type implements backend.Backend: flannel's leases of this backend name none.
func (b *UDP) Type() string { return "" }

// MTU implements backend.Backend.
func (b *UDP) MTU() int { return b.link.MTU }

// Scope implements backend.Backend.
func (b *UDP) Scope() datapath.Scope {
	return datapath.Scope{Devices: []string{device}, Underlays: []string{b.underlay.Name}}
}

// Adopt implements backend.Backend; nothing has to outlive the agent.
func (b *UDP) Adopt(datapath.State) {}

// Data implements backend.Backend: a lease of udp has none.
func (b *UDP) Data() json.RawMessage { return nil }

// Device implements backend.Backend.
func (b *UDP) Device() datapath.State {
	s := datapath.NewState()
	s.Links.Add(b.link)
	return s
}

// Desired implements backend.Backend. As in flannel one route serves for all
// peers; with one for each, a packet for a subnet that nobody has would leave by
// the default route.
func (b *UDP) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	s := b.Device()
	s.Addrs.Add(datapath.Addr{Dev: device, Prefix: netip.PrefixFrom(own.Key.Subnet.Addr(), 32)})
	s.Routes.Add(datapath.Route{Dst: b.config.Network, Dev: device})
	_, problems := b.peers(own, all)
	return s, problems
}

func (b *UDP) peers(own lease.Lease, all []lease.Lease) ([]lease.Lease, []string) {
	return backend.Peers(b.config, b.Type(), b.underlay, own, all, nil, nil)
}

// Prepare implements backend.Runner.
func (b *UDP) Prepare(context.Context) error { return nil }

// Follow implements backend.Runner: the forwarder runs, and knows the peers.
func (b *UDP) Follow(ctx context.Context, own lease.Lease, all []lease.Lease) error {
	peers, _ := b.peers(own, all) // Desired tells of the others
	return b.forwarder.Update(ctx, relay.PeersOf(own, peers))
}

// Lost implements backend.Loser.
func (b *UDP) Lost() <-chan struct{} { return b.forwarder.Lost() }
