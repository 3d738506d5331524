package faults

import "github.com/overlab/overlab/harness/suite"

// macFaults are those of the devices' own MACs.
func macFaults() []Fault {
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	return []Fault{
		{
			ID: "MAC-01", Title: "{node}'s flannel device has another MAC than its lease", Breaks: "nobody reaches the pods of {node} from another node",
			Case:   "systemd-udev's MACAddressPolicy=persistent (flannel #1155, #1788)",
			Checks: []string{"DP-05", "TTL-03", "CP-06"}, Causes: []string{"link-mac"}, Needs: vxlan,
			Break: func(s *Scene) {
				l := s.link(s.node.Name, s.vtep())
				s.pause(s.node)
				s.on(s.node.Name, "ip link set "+l.Name+" address "+nobodyMAC().String(), "ip link set "+l.Name+" address "+l.MAC.String())
			},
		},
		{
			ID: "MAC-02", Title: "{node}'s flannel device has {peer}'s MAC", Breaks: "pods of {node} do not reach those of other nodes",
			Case:   "machines cloned with their machine-id (flannel #1330)",
			Checks: []string{"DP-05", "TTL-03", "CP-06"}, Causes: []string{"link-mac"}, Needs: vxlan,
			Break: func(s *Scene) {
				l, other := s.link(s.node.Name, s.vtep()), s.link(s.peer.Name, s.vtep())
				s.pause(s.node)
				s.on(s.node.Name, "ip link set "+l.Name+" address "+other.MAC.String(), "ip link set "+l.Name+" address "+l.MAC.String())
			},
		},
	}
}
