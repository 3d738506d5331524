package faults

import (
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// macFaults are those of the devices' own MACs.
func macFaults() []Fault {
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	return []Fault{
		{
			ID: "MAC-01", Twin: true, Title: "{node}'s flannel device has another MAC than its lease", Breaks: "nobody reaches the pods of {node} from another node",
			Case:   "systemd-udev's MACAddressPolicy=persistent (flannel #1155, #1788)",
			Checks: []string{"DP-05", "TTL-03", "CP-06"}, Causes: []string{"link-mac"}, Needs: vxlan,
			Break: func(s *Scene) {
				l := s.link(s.node.Name, s.vtep())
				s.pause(s.node)
				s.dress(l, nobodyMAC())
			},
		},
		{
			ID: "MAC-02", Twin: true, Title: "{node}'s flannel device has {peer}'s MAC", Breaks: "pods of {node} do not reach those of other nodes",
			Case:   "machines cloned with their machine-id (flannel #1330)",
			Checks: []string{"DP-05", "TTL-03", "CP-06"}, Causes: []string{"link-mac"}, Needs: vxlan,
			Break: func(s *Scene) {
				l, other := s.link(s.node.Name, s.vtep()), s.link(s.peer.Name, s.vtep())
				s.pause(s.node)
				s.dress(l, other.MAC)
			},
		},
	}
}

// dress gives the node's flannel device another MAC.
func (s *Scene) dress(l probe.Link, mac topology.MAC) {
	set := func(mac topology.MAC) string { return "ip link set " + l.Name + " address " + mac.String() }
	s.script(s.node.Name, []string{set(mac)}, append([]string{set(l.MAC)}, s.hung(l.Name)...))
}
