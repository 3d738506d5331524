package faults

import (
	"fmt"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// mtuFaults are those of packet sizes.
func mtuFaults() []Fault {
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	const hangs = "small packets pass, large ones do not: connections hang"
	return []Fault{
		{
			ID: "PMTU-01", Title: "{node}'s flannel device has a smaller MTU than its pods", Breaks: "large packets that must not be fragmented are refused", Case: "flannel #841",
			Checks: []string{"DP-04", "MTU-01"}, Causes: []string{"link-mtu"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.forgetMTUs()
				s.pause(s.node)
				s.mtu(s.node.Name, s.vtep(), s.plan.OverlayMTU(s.node)-50)
			},
		},
		{
			ID: "PMTU-02", Twin: true, Title: "{node}'s route to {peer}'s pods has a small MTU", Breaks: "large packets that must not be fragmented are refused", Case: "a routing daemon, a tuned route",
			Checks: []string{"MTU-01", "CP-03"}, Causes: []string{"route-wrong"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.forgetMTUs()
				r := s.peerRoute()
				s.pause(s.node)
				s.on(s.node.Name, fmt.Sprintf("ip route replace %s mtu lock %d", r, s.plan.OverlayMTU(s.node)-50), "ip route replace "+restored(r))
			},
		},
		{
			ID: "PMTU-03", Title: "{node}'s cni0 has a smaller MTU than its pods", Breaks: "large packets to the pods of {node} are refused", Case: "flannel #1614",
			Checks: []string{"DP-01", "MTU-01"}, Causes: []string{"link-mtu"}, Needs: pods,
			Break: func(s *Scene) { s.forgetMTUs(); s.mtu(s.node.Name, bridge, s.plan.OverlayMTU(s.node)-50) },
		},
		{
			ID: "PMTU-04", Title: "pod {pod} has the MTU of the underlay", Breaks: "the pod's packets are too large for the tunnel", Case: "flannel #1171, docker0 with its default MTU",
			Checks: []string{"MTU-02", "MTU-04"}, Causes: []string{"link-mtu"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.forgetMTUs()
				s.mtu(s.node.Name, s.port(s.pod), s.node.Underlay().MTU)
				s.mtu(s.pod.Name, "eth0", s.node.Underlay().MTU)
			},
		},
		{
			ID: "PMTU-05", Title: "pod {pod} has a smaller MTU than the overlay", Breaks: "the pod sends smaller packets than it could", Case: "a CNI configuration with a fixed MTU",
			Checks: []string{"MTU-02", "MTU-04"}, Causes: []string{"link-mtu"}, Needs: pods,
			Break: func(s *Scene) { s.forgetMTUs(); s.mtu(s.pod.Name, "eth0", s.plan.OverlayMTU(s.node)-50) },
		},
		{
			ID: "PMTU-06", Title: "{node}'s interface on the underlay has a smaller MTU", Breaks: hangs, Case: "a cloud whose network has 1400 (flannel #1781)",
			Checks: []string{"MTU-01", "WF-07", "MTU-05"}, Causes: []string{"link-mtu"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.forgetMTUs()
				s.pause(s.node)
				s.mtu(s.node.Name, s.uplink(), s.node.Underlay().MTU-100)
			},
		},
		{
			ID: "PMTU-07", Twin: true, Title: "something between the nodes drops large packets silently", Breaks: hangs, Case: "a VPN that drops, and filters ICMP 3/4",
			Checks: []string{"MTU-01", "MTU-05"}, Causes: []string{"filter-size"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.forgetMTUs()
				s.nft(s.node.Name, s.layer(), "filter hook postrouting priority 300",
					fmt.Sprintf("oifname %s %s length > %d drop", s.uplink(), s.layer(), s.node.Underlay().MTU-100))
			},
		},
	}
}

// mtu sets the MTU of a link.
func (s *Scene) mtu(space, dev string, mtu int) {
	before := s.link(space, dev).MTU
	s.on(space, fmt.Sprintf("ip link set %s mtu %d", dev, mtu), fmt.Sprintf("ip link set %s mtu %d", dev, before))
}

// forgetMTUs lets everybody forget, when the fault is taken out, the path MTUs
// that it has taught them: a kernel keeps one for ten minutes.
func (s *Scene) forgetMTUs() {
	flush := func(space string) {
		s.steps = append(s.steps, Step{Undo: Op{Space: space, Argv: append(strings.Fields(s.ip()), "route", "flush", "cache")}})
	}
	for _, n := range s.plan.Nodes {
		flush(n.Name)
	}
	for _, p := range s.plan.Pods {
		flush(p.Name)
	}
}
