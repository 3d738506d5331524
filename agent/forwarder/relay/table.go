package relay

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlab/overlab/agent/lease"
)

// Peers is what a relay is told: its node's subnet, and who has the others.
type Peers struct {
	Subnet netip.Prefix `json:"subnet"`
	Peers  []Peer       `json:"peers"`
}

// Peer is another node.
type Peer struct {
	Subnet netip.Prefix `json:"subnet"`
	// Node is its address on the underlay.
	Node netip.Addr `json:"node"`
}

// PeersOf are the peers of a node in their leases.
func PeersOf(own lease.Lease, others []lease.Lease) Peers {
	p := Peers{Subnet: own.Key.Subnet, Peers: []Peer{}}
	for _, l := range others {
		p.Peers = append(p.Peers, Peer{Subnet: l.Key.Subnet, Node: l.Attrs.PublicIP})
	}
	return p
}

// table finds the node of a pod. It never changes.
type table struct {
	own   netip.Prefix
	peers []Peer // by subnet; none overlap
}

// readTable reads Peers.
func readTable(raw json.RawMessage) (*table, error) {
	var in Peers
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("read the peers: %w", err)
	}
	if !in.Subnet.IsValid() || !in.Subnet.Addr().Is4() {
		return nil, fmt.Errorf("read the peers: the node's own subnet %s is not an IPv4 one", in.Subnet)
	}
	t := &table{own: in.Subnet.Masked(), peers: in.Peers}
	for i, p := range t.peers {
		if !p.Subnet.IsValid() || !p.Subnet.Addr().Is4() || !p.Node.Is4() {
			return nil, fmt.Errorf("read the peers: %s at %s is not IPv4", p.Subnet, p.Node)
		}
		t.peers[i].Subnet = p.Subnet.Masked()
	}
	slices.SortFunc(t.peers, func(a, b Peer) int { return a.Subnet.Addr().Compare(b.Subnet.Addr()) })
	for i := 1; i < len(t.peers); i++ {
		if a, b := t.peers[i-1].Subnet, t.peers[i].Subnet; a.Overlaps(b) {
			return nil, fmt.Errorf("read the peers: %s overlaps %s", a, b)
		}
	}
	return t, nil
}

// node returns whose pod has the address.
func (t *table) node(pod netip.Addr) (netip.Addr, bool) {
	i, found := slices.BinarySearchFunc(t.peers, pod, func(p Peer, a netip.Addr) int { return p.Subnet.Addr().Compare(a) })
	if !found {
		i-- // the last that begins before it
	}
	if i < 0 || !t.peers[i].Subnet.Contains(pod) {
		return netip.Addr{}, false
	}
	return t.peers[i].Node, true
}
