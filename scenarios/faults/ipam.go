package faults

import (
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// ipamFaults are those of addresses that were given twice.
func ipamFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.SameNodePods, suite.CrossNodePods, suite.Connects}
	return []Fault{
		{
			ID: "IPAM-01", Title: "two pods of {node} have one address", Breaks: "who speaks to {pod} reaches now the one, now the other",
			Case:   "host-local's folder lost while pods ran",
			Checks: []string{"NM-01", "NM-02", "TTL-03"}, Causes: []string{"address-twice"}, Needs: needs,
			Break: func(s *Scene) {
				if s.sibling == nil {
					s.fail("%s has one pod only", s.node.Name)
					return
				}
				s.pod, s.sibling = s.sibling, s.pod
				s.forgetMACs(s.node)
				has, takes := s.pod.Address.String(), s.sibling.Address.String()
				s.script(s.pod.Name,
					append([]string{"ip addr del " + has + " dev eth0", "ip addr add " + takes + " dev eth0"}, s.podRoutes()...),
					append([]string{"ip addr del " + takes + " dev eth0", "ip addr add " + has + " dev eth0"}, s.podRoutes()...))
			},
		},
		{
			ID: "IPAM-02", Title: "a pod of {peer} has an address of {node}'s subnet", Breaks: "the pod of {peer} is not reached",
			Case:   "a subnet that moved while pods ran (flannel #904)",
			Checks: []string{"NM-02", "TTL-03"}, Causes: []string{"address-twice"}, Elsewhere: true, Needs: needs,
			Break: func(s *Scene) {
				there := s.plan.PodsOn(s.peer.Name)[0]
				takes := s.pod.Address.String()
				s.pod = &there
				s.forgetMACs(s.peer)
				s.forgetMACs(s.node)
				s.script(there.Name,
					append([]string{"ip addr add " + takes + " dev eth0", "ip addr del " + there.Address.String() + " dev eth0"}, onlink(s.podRoutes())...),
					append([]string{"ip addr del " + takes + " dev eth0", "ip addr add " + there.Address.String() + " dev eth0"}, s.podRoutes()...))
			},
		},
	}
}

// onlink lets routes have a gateway that no address of the device leads to.
func onlink(routes []string) []string {
	var out []string
	for _, r := range routes {
		out = append(out, r+" onlink")
	}
	return out
}

// forgetMACs lets a node and its pods forget, when the fault is taken out, which
// MAC had which address.
func (s *Scene) forgetMACs(n *topology.Node) {
	flush := func(space, dev string) {
		s.steps = append(s.steps, Step{Undo: Op{Space: space, Argv: []string{"ip", "neigh", "flush", "dev", dev}}})
	}
	flush(n.Name, bridge)
	for _, p := range s.plan.PodsOn(n.Name) {
		flush(p.Name, "eth0")
	}
}
