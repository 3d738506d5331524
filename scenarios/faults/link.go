package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/suite"
)

// underlay is the namespace of the underlay's bridges.
const underlay = "underlay"

// linkFaults are those of links that are down, gone or not plugged in.
func linkFaults() []Fault {
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.VXLAN}
	return []Fault{
		{
			ID: "LINK-01", Title: "{node}'s cni0 is down", Breaks: "the pods of {node} reach nobody", Case: "a network service that does not know the bridge",
			Checks: []string{"DP-01", "TTL-01", "TTL-03"}, Causes: []string{"link-down"}, Needs: pods,
			Break: func(s *Scene) { s.down(s.node.Name, bridge) },
		},
		{
			ID: "LINK-02", Twin: true, Title: "{node}'s flannel device is down", Breaks: "pods of {node} and of other nodes do not reach each other", Case: "flannel #1434",
			Checks: []string{"DP-04", "TTL-03", "CP-03"}, Causes: []string{"link-down"}, Needs: vxlan,
			Break: func(s *Scene) { s.pause(s.node); s.down(s.node.Name, s.vtep()) },
		},
		{
			ID: "LINK-03", Twin: true, Title: "{node}'s flannel device is gone", Breaks: "pods of {node} and of other nodes do not reach each other", Case: "flannel #1759, #2272 (K2)",
			Checks: []string{"DP-04", "CP-01", "TTL-03"}, Causes: []string{"link-missing"}, Needs: vxlan,
			Break: func(s *Scene) {
				l := s.link(s.node.Name, s.vtep())
				if l.VXLAN == nil {
					s.fail("%s is no VXLAN device", l.Name)
					return
				}
				s.pause(s.node)
				s.script(s.node.Name, []string{"ip link del " + l.Name}, s.device(l, *l.VXLAN)[1:])
			},
		},
		{
			ID: "LINK-04", Title: "{node}'s interface on the underlay is down", Breaks: "{node} reaches no other node", Case: "a cable, a driver",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"link-down"}, Needs: pods,
			Break: func(s *Scene) { s.pause(s.node); s.down(s.node.Name, s.uplink()) },
		},
		{
			ID: "LINK-05", Title: "the switch's port of {node} is down", Breaks: "{node} reaches no other node", Case: "a switch",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"switch"}, Needs: pods,
			Break: func(s *Scene) {
				port := s.node.Underlay().Port
				s.on(underlay, "ip link set "+port+" down", "ip link set "+port+" up")
			},
		},
		{
			ID: "LINK-06", Title: "pod {pod}'s veth is down on {node}", Breaks: "the pod reaches nobody", Case: "a network service that knows it not",
			Checks: []string{"DP-02", "TTL-03", "TTL-01"}, Causes: []string{"link-down"}, Needs: pods,
			Break: func(s *Scene) {
				port := s.port(s.pod)
				s.on(s.node.Name, "ip link set "+port+" down", "ip link set "+port+" up")
			},
		},
		{
			ID: "LINK-07", Title: "pod {pod}'s veth is in no bridge", Breaks: "the pod reaches nobody", Case: "cni0 made anew under running pods",
			Checks: []string{"DP-02", "TTL-03", "TTL-01"}, Causes: []string{"link-master"}, Needs: pods,
			Break: func(s *Scene) {
				port := s.port(s.pod)
				s.on(s.node.Name, "ip link set "+port+" nomaster", "ip link set "+port+" master "+bridge)
			},
		},
		{
			ID: "LINK-08", Title: "pod {pod}'s eth0 is down", Breaks: "the pod reaches nobody", Case: "a container with NET_ADMIN",
			Checks: []string{"DP-02", "TTL-03", "DP-03"}, Causes: []string{"link-down"}, Needs: pods,
			Break: func(s *Scene) { s.down(s.pod.Name, "eth0") },
		},
	}
}

// down sets a link down. The kernel takes away then what hangs on it.
func (s *Scene) down(space, dev string) {
	back := s.routesVia(space, dev)
	if space == s.node.Name {
		back = s.hung(dev)
	}
	if s.plan.Is6() { // whose addresses go with the link
		l := s.link(space, dev)
		for _, a := range l.IPv6() {
			back = append([]string{s.addAddress(a.String(), dev)}, back...)
		}
	}
	s.script(space, []string{fmt.Sprintf("ip link set %s down", dev)}, append([]string{fmt.Sprintf("ip link set %s up", dev)}, back...))
}
