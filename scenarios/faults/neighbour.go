package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// neighbourFaults are those of the neighbour tables: of flannel.1's, which
// tells the MAC of a peer's VTEP, and of the underlay's.
func neighbourFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	const breaks = "pods of {node} do not reach those of {peer}"
	return []Fault{
		{
			ID: "ARP-01", Twin: true, Title: "{node} has no neighbour entry for {peer}", Breaks: breaks, Case: "flannel #1070",
			Checks: []string{"CP-01", "TTL-03", "NM-02"}, Causes: []string{"neighbour-missing"}, Needs: needs,
			Break: func(s *Scene) {
				n := s.peerNeighbour()
				s.pause(s.node)
				s.on(s.node.Name, "ip neigh del "+n.IP.String()+" dev "+n.Dev, "ip neigh replace "+neighbour(n, "permanent"))
			},
		},
		{
			ID: "ARP-02", Twin: true, Title: "{node}'s neighbour entry for {peer} has an old MAC", Breaks: breaks, Case: "flannel #533, #1036",
			Checks: []string{"CP-01", "WF-03", "TTL-03"}, Causes: []string{"neighbour-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				n := s.peerNeighbour()
				wrong := n
				wrong.MAC = nobodyMAC()
				s.pause(s.node)
				s.on(s.node.Name, "ip neigh replace "+neighbour(wrong, "permanent"), "ip neigh replace "+neighbour(n, "permanent"))
			},
		},
		{
			ID: "ARP-03", Twin: true, Title: "{node}'s neighbour entry for {peer} is not permanent", Case: "an entry set by hand, without nud permanent",
			Breaks: "pods of {node} lose those of {peer} some seconds after the entry is used",
			Checks: []string{"CP-01"}, Causes: []string{"neighbour-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				n := s.peerNeighbour()
				s.pause(s.node)
				s.on(s.node.Name, "ip neigh replace "+neighbour(n, "stale"), "ip neigh replace "+neighbour(n, "permanent"))
			},
		},
		{
			ID: "ARP-04", Twin: true, Title: "{node} has a neighbour entry of a node that is gone", Case: "flannel #2554",
			Breaks: "nothing yet: the next node with that subnet is misled",
			Checks: []string{"CP-01"}, Causes: []string{"neighbour-extra"}, Needs: needs,
			Break: func(s *Scene) {
				n := probe.Neighbour{IP: s.spare().Addr(), Dev: s.vtep(), MAC: nobodyMAC()}
				s.pause(s.node)
				s.on(s.node.Name, "ip neigh replace "+neighbour(n, "permanent"), "ip neigh del "+n.IP.String()+" dev "+n.Dev)
			},
		},
		{
			ID: "ARP-05", Twin: true, Title: "{node} has a wrong MAC for {peer} on the underlay", Breaks: breaks + ", nor the nodes each other",
			Case:   "an address that two machines have",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"neighbour-underlay"}, Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.SegmentPeers},
			Break: func(s *Scene) {
				n := probe.Neighbour{IP: s.peer.Underlay().Address.Addr(), Dev: s.uplink(), MAC: nobodyMAC()}
				s.on(s.node.Name, "ip neigh replace "+neighbour(n, "permanent"), "ip neigh del "+n.IP.String()+" dev "+n.Dev)
			},
		},
	}
}

// neighbour is what `ip neigh` is told of an entry.
func neighbour(n probe.Neighbour, nud string) string {
	return fmt.Sprintf("%s lladdr %s dev %s nud %s", n.IP, n.MAC, n.Dev, nud)
}
