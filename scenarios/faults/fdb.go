package faults

import "github.com/overlab/overlab/harness/suite"

// fdbFaults are those of flannel.1's forwarding database, which tells the
// address of the node where a VTEP's MAC lives.
func fdbFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	const breaks = "pods of {node} do not reach those of {peer}"
	return []Fault{
		{
			ID: "FDB-01", Twin: true, Title: "{node} has no FDB entry for {peer}", Breaks: breaks, Case: "flannel #869, #877",
			Checks: []string{"CP-02", "TTL-03", "NM-02"}, Causes: []string{"fdb-missing"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.peerFDB().String()
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb del "+e, "bridge fdb replace "+e)
			},
		},
		{
			ID: "FDB-02", Twin: true, Title: "{node}'s FDB entry for {peer} leads to no node", Breaks: breaks, Case: "flannel #533",
			Checks: []string{"CP-02", "TTL-03", "NM-02"}, Causes: []string{"fdb-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.peerFDB()
				wrong := e
				wrong.Dst = s.nobody()
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb replace "+wrong.String(), "bridge fdb replace "+e.String())
			},
		},
		{
			ID: "FDB-03", Twin: true, Title: "{node}'s FDB entry for {peer} has an old MAC", Breaks: breaks, Case: "flannel #1036",
			Checks: []string{"CP-02", "TTL-03", "NM-02"}, Causes: []string{"fdb-missing", "fdb-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.peerFDB()
				wrong := e
				wrong.MAC = nobodyMAC()
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb del "+e.String(), "bridge fdb replace "+e.String())
				s.on(s.node.Name, "bridge fdb append "+wrong.String(), "bridge fdb del "+wrong.String())
			},
		},
		{
			ID: "FDB-04", Twin: true, Title: "{node} has an all-zero FDB entry, which floods", Case: "tutorials that lead multicast by hand",
			Breaks: "frames to unknown MACs go to {peer}",
			Checks: []string{"CP-02"}, Causes: []string{"fdb-flood"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.peerFDB()
				flood := "00:00:00:00:00:00 dev " + e.Dev + " dst " + e.Dst.String() + " self permanent"
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb append "+flood, "bridge fdb del "+flood)
			},
		},
		{
			ID: "FDB-05", Twin: true, Title: "{node} has an FDB entry of a node that is gone", Case: "flannel #2554",
			Breaks: "nothing yet: the next node with that MAC or address is misled",
			Checks: []string{"CP-02"}, Causes: []string{"fdb-extra"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.peerFDB()
				e.MAC, e.Dst = nobodyMAC(), s.nobody()
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb append "+e.String(), "bridge fdb del "+e.String())
			},
		},
		{
			ID: "FDB-06", Twin: true, Title: "{node}'s FDB entry for {peer} was learned", Case: "a VXLAN device with learning",
			Breaks: "pods of {node} lose those of {peer} when the entry has aged",
			Checks: []string{"CP-02"}, Causes: []string{"fdb-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.peerFDB()
				learned := e.MAC.String() + " dev " + e.Dev + " dst " + e.Dst.String() + " self dynamic"
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb del "+e.String(), "bridge fdb replace "+e.String())
				s.on(s.node.Name, "bridge fdb append "+learned, "")
			},
		},
		{
			ID: "FDB-07", Twin: true, Title: "{node}'s FDB entry for {peer} leads to another node", Breaks: breaks, Case: "an address given to another machine",
			Checks: []string{"CP-02", "WF-01", "TTL-03"}, Causes: []string{"fdb-wrong"}, Needs: append(needs, ThreeNodes),
			Break: func(s *Scene) {
				e := s.peerFDB()
				wrong := e
				wrong.Dst = s.third().PublicIP()
				s.pause(s.node)
				s.on(s.node.Name, "bridge fdb replace "+wrong.String(), "bridge fdb replace "+e.String())
			},
		},
	}
}
