// Package ipsec carries pods' packets in ESP (RFC 4303), which the kernel
// encrypts: for every peer a pair of security associations, the policies that
// send packets through them, and a plain route.
//
// It takes flannel's configuration and has flannel's MTU, and does without
// flannel's IKE daemon: keys.go says how the keys are made. So it does not
// interoperate with flanneld's ipsec; a lease of that is named, and so is one of
// a node with another pre-shared key.
//
// Policies cover the packets between the pods of two nodes, and between the
// pods of either and the other node itself. Their level is "required": where
// an association is missing, packets are dropped, and none goes in the clear.
package ipsec

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/rtnl"
)

const (
	// Type is the backend's name in net-conf.json and in leases.
	Type = "ipsec"
	// overhead in bytes, as flannel counts it (pkg/backend/ipsec/ipsec.go): 20 of
	// the outer header, 8 of ESP's, and more than AES-GCM with a tag of 16 needs.
	overhead = 77
	// shortestPSK is flannel's, in characters (as above).
	shortestPSK = 96
)

// config is the Backend object.
type config struct {
	PSK      string
	MTU      int
	UDPEncap bool
}

// IPsec is one node's part of an encrypted overlay.
type IPsec struct {
	config   *lease.Config
	underlay backend.Underlay
	mtu      int
	keys     keys
	memory   *memory
}

var _ backend.Rekeyer = (*IPsec)(nil)

// New returns what makes the backend from net-conf.json. memoryFile is where
// the node keeps what it must not forget while its kernel runs; an agent that
// finds it goes on with the associations that there are.
func New(memoryFile string) backend.New {
	return func(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
		var cfg config
		if err := json.Unmarshal(c.Backend, &cfg); err != nil {
			return nil, fmt.Errorf("read the ipsec backend's configuration: %w", err)
		}
		if cfg.MTU == 0 {
			cfg.MTU = u.MTU
		}
		mtu := min(cfg.MTU, u.MTU) - overhead
		switch {
		case len(cfg.PSK) < shortestPSK:
			return nil, fmt.Errorf("PSK has %d characters; ipsec needs %d: make one with `openssl rand -hex 48`", len(cfg.PSK), shortestPSK)
		case cfg.UDPEncap:
			return nil, errors.New("UDPEncap needs a process that holds a socket of port 4500 for as long as the overlay is to work, and this agent may end at any time: leave it out")
		case u.PublicIP != u.Address:
			return nil, fmt.Errorf("ESP passes no address translation: PublicIP %s is not %s's address %s; leave --public-ip out", u.PublicIP, u.Name, u.Address)
		case mtu < 68: // RFC 791
			return nil, fmt.Errorf("MTU %d of %s (net-conf.json: %d) leaves %d bytes for pods, fewer than IPv4's 68", u.MTU, u.Name, cfg.MTU, mtu)
		}
		return &IPsec{
			config: c, underlay: u, mtu: mtu, keys: keys{psk: cfg.PSK}, memory: &memory{path: memoryFile},
		}, nil
	}
}

// Type implements backend.Backend.
func (b *IPsec) Type() string { return Type }

// MTU implements backend.Backend.
func (b *IPsec) MTU() int { return b.mtu }

// Scope implements backend.Backend.
func (b *IPsec) Scope() datapath.Scope {
	return datapath.Scope{
		Underlays: []string{b.underlay.Name}, IPsec: true,
		Bare: datapath.BareRoutes{Dev: b.underlay.Name, Network: b.config.Network, Len: b.config.SubnetLen},
	}
}

// Adopt implements backend.Backend: the node's nonce stays what it was, unless
// the associations that were made with it are gone.
func (b *IPsec) Adopt(have datapath.State) { b.memory.recall(have) }

// Data implements backend.Backend.
func (b *IPsec) Data() json.RawMessage {
	data, _ := json.Marshal(leaseData{b.memory.nonce, b.keys.check(b.memory.nonce)}) // a struct of bytes has no errors
	return data
}

// Device implements backend.Backend; there is none.
func (b *IPsec) Device() datapath.State { return datapath.NewState() }

// Desired implements backend.Backend. A peer that there can be no associations
// with has its policies all the same, which block what is for it.
func (b *IPsec) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	s := datapath.NewState()
	peers, problems := backend.Peers(b.config, Type, b.underlay, own, all, nil, nil)
	local := end{b.underlay.PublicIP, b.memory.nonce}
	for _, l := range peers {
		nonce, err := b.keys.readNonce(l.Attrs.BackendData)
		remote := end{l.Attrs.PublicIP, nonce}
		if err != nil {
			problems = append(problems, fmt.Sprintf("lease %s: %v; packets for it are blocked", l.Key, err))
		} else {
			s.SAs.Add(b.keys.association(local, remote), b.keys.association(remote, local))
		}
		policies(s, local.ip, own.Key.Subnet, remote.ip, l.Key.Subnet)
		// The policies take the packets from the route, whose next hop then does
		// not matter: the tunnel's own end does.
		s.Routes.Add(datapath.Route{Dst: l.Key.Subnet, Via: remote.ip, Dev: b.underlay.Name, Onlink: !b.underlay.Adjacent(remote.ip)})
	}
	return s, problems
}

// policies adds those of one peer.
func policies(s datapath.State, local netip.Addr, pods netip.Prefix, remote netip.Addr, remotePods netip.Prefix) {
	node, remoteNode := netip.PrefixFrom(local, 32), netip.PrefixFrom(remote, 32)
	for _, pair := range [][2]netip.Prefix{{pods, remotePods}, {node, remotePods}, {pods, remoteNode}} {
		here, there := pair[0], pair[1]
		s.Policies.Add(
			datapath.Policy{Dir: rtnl.Out, Src: here, Dst: there, TunnelSrc: local, TunnelDst: remote},
			datapath.Policy{Dir: rtnl.In, Src: there, Dst: here, TunnelSrc: remote, TunnelDst: local})
		if here == pods { // what is for the node itself is not forwarded
			s.Policies.Add(datapath.Policy{Dir: rtnl.Forward, Src: there, Dst: here, TunnelSrc: remote, TunnelDst: local})
		}
	}
}

// Rekey implements backend.Rekeyer: an association that was made once and is
// gone cannot be made again, as it would number its packets from the start
// under the same key. The node then takes another nonce, and has other keys
// with every peer.
func (b *IPsec) Rekey(want, have datapath.State) (changed bool, err error) {
	if b.memory.lost(want, have) {
		b.memory.renew()
		changed = true
	}
	return changed, b.memory.note(want, !changed)
}
