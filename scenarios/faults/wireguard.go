package faults

import (
	"net/netip"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// wireguardFaults are those of what a WireGuard device knows of its peers. The
// device is told of them as `wg set` would, so that wg(8) need not be there.
func wireguardFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.WireGuard}
	checks := []string{"TTL-03", "NM-02", "BE-04"}
	const breaks = "pods of {node} do not reach those of {peer}"
	return []Fault{
		{
			ID: "WG-01", Title: "{node}'s tunnel does not know {peer}", Breaks: breaks, Case: "flannel #1384: a peer that was never added",
			Checks: checks, Causes: []string{"wireguard-missing"}, Needs: needs,
			Break: func(s *Scene) {
				p := s.peerTunnel()
				s.pause(s.node)
				s.wg(probe.WireGuardChange{Peer: p.PublicKey, Remove: true}, known(p))
			},
		},
		{
			ID: "WG-02", Title: "{node}'s tunnel allows {peer} another node's addresses", Breaks: breaks, Case: "a subnet that moved, the peer kept",
			Checks: checks, Causes: []string{"wireguard-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				p := s.peerTunnel()
				s.pause(s.node)
				s.wg(probe.WireGuardChange{Peer: p.PublicKey, AllowedIPs: []netip.Prefix{s.spare()}}, known(p))
			},
		},
		{
			ID: "WG-03", Title: "{node}'s tunnel gives {peer}'s addresses to nobody", Breaks: breaks, Case: "an old peer that nobody removed",
			Checks: checks, Causes: []string{"wireguard-wrong", "wireguard-extra"}, Needs: needs,
			Break: func(s *Scene) {
				p := s.peerTunnel()
				s.pause(s.node)
				s.wg(probe.WireGuardChange{Peer: nobodyKey, AllowedIPs: p.AllowedIPs}, probe.WireGuardChange{Peer: nobodyKey, Remove: true})
				// Addresses are one peer's alone: they are the other's again after it.
				s.steps = append(s.steps[:len(s.steps)-1], s.wgStep(probe.WireGuardChange{Peer: p.PublicKey}, known(p)), s.steps[len(s.steps)-1])
			},
		},
		{
			ID: "WG-04", Title: "{node}'s tunnel knows {peer} by an old key", Breaks: breaks, Case: "a node that was made anew, with a new key",
			Checks: checks, Causes: []string{"wireguard-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				p := s.peerTunnel()
				s.pause(s.node)
				s.wg(probe.WireGuardChange{Peer: p.PublicKey, Remove: true}, known(p))
				s.wg(probe.WireGuardChange{Peer: nobodyKey, AllowedIPs: p.AllowedIPs, Endpoint: p.Endpoint}, probe.WireGuardChange{Peer: nobodyKey, Remove: true})
			},
		},
		{
			ID: "WG-05", Title: "{node}'s tunnel listens on another port", Breaks: "whoever begins a session with {node} finds nobody", Case: "ListenPort changed, the device kept",
			Checks: []string{"BE-04"}, Causes: []string{"wireguard-device"}, Needs: needs,
			Break: func(s *Scene) {
				port := s.tunnel(s.node.Name).ListenPort
				s.pause(s.node)
				s.wg(probe.WireGuardChange{ListenPort: port + 1}, probe.WireGuardChange{ListenPort: port})
			},
		},
	}
}

// nobodyKey is a public key that nobody has the private one of.
const nobodyKey = "bm9ib2R5J3MgcHVibGljIGtleTogMzIgYnl0ZXMgOiA="

// wgDevice is the backend's device.
const wgDevice = "flannel-wg"

// tunnel is a node's WireGuard device.
func (s *Scene) tunnel(node string) probe.WireGuard {
	ns, err := s.lab.Namespace(node)
	if err == nil {
		var session *probe.Session
		if session, err = probe.Open(s.ctx, ns); err == nil {
			defer session.Close() // it only reads
			var w *probe.WireGuard
			if w, err = session.WireGuard(s.ctx, wgDevice); err == nil && w != nil {
				return *w
			}
		}
	}
	s.fail("%s has no %s: %w", node, wgDevice, err)
	return probe.WireGuard{}
}

// peerTunnel is the peer as the node's device knows it.
func (s *Scene) peerTunnel() probe.WireGuardPeer {
	key := s.tunnel(s.peer.Name).PublicKey
	for _, p := range s.tunnel(s.node.Name).Peers {
		if p.PublicKey == key {
			return p
		}
	}
	s.fail("%s does not know %s", s.node.Name, s.peer.Name)
	return probe.WireGuardPeer{}
}

// known is what makes a peer as it was. A pre-shared key its agent gives it
// again.
func known(p probe.WireGuardPeer) probe.WireGuardChange {
	return probe.WireGuardChange{Peer: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.AllowedIPs}
}

// wg adds a step that alters the node's device.
func (s *Scene) wg(do, undo probe.WireGuardChange) {
	s.steps = append(s.steps, s.wgStep(do, undo))
}

func (s *Scene) wgStep(do, undo probe.WireGuardChange) Step {
	do.Dev, undo.Dev = wgDevice, wgDevice
	return Step{Do: Op{Space: s.node.Name, WireGuard: &do}, Undo: Op{Space: s.node.Name, WireGuard: &undo}}
}
