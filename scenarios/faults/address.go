package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/suite"
)

// addressFaults are those of addresses on nodes and pods.
func addressFaults() []Fault {
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.VXLAN}
	return []Fault{
		{
			ID: "ADDR-01", Twin: true, Title: "{node}'s cni0 has no address", Breaks: "pods of {node} have no gateway", Case: "a network service that flushes addresses",
			Checks: []string{"DP-01", "TTL-02", "TTL-03"}, Causes: []string{"address-missing"}, Needs: pods,
			Break: func(s *Scene) { s.moveAddress(bridge, s.node.Gateway().String(), "") },
		},
		{
			ID: "ADDR-02", Twin: true, Title: "{node}'s cni0 has the gateway's address of another", Breaks: "pods of {node} have no gateway",
			Case:   "cni0 already has an IP address different from …",
			Checks: []string{"DP-01", "TTL-02", "TTL-03"}, Causes: []string{"address-wrong"}, Needs: pods,
			Break: func(s *Scene) {
				s.moveAddress(bridge, s.node.Gateway().String(), fmt.Sprintf("%s/%d", s.spare().Addr().Next(), s.node.PodCIDR.Bits()))
			},
		},
		{
			ID: "ADDR-03", Twin: true, Title: "{node}'s flannel device has no address", Breaks: "{node} itself does not reach pods of other nodes",
			Case:   "a network service that flushes addresses",
			Checks: []string{"DP-04", "NM-04"}, Causes: []string{"address-missing"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.moveAddress(s.vtep(), s.host(), "")
			},
		},
		{
			ID: "ADDR-04", Twin: true, Title: "{node}'s flannel device has the subnet, not its /32", Breaks: "{node} looks for its own pods in the tunnel too",
			Case:   "flannel before 0.8",
			Checks: []string{"DP-04"}, Causes: []string{"address-wrong"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.moveAddress(s.vtep(), s.host(), fmt.Sprintf("%s/%d", s.node.PodCIDR.Masked().Addr(), s.plan.Network.Network.Bits()))
			},
		},
		{
			ID: "ADDR-05", Twin: true, Title: "{node}'s flannel device has an address too many", Breaks: "{node} may speak to pods from an address that is nobody's",
			Case:   "flannel #1282",
			Checks: []string{"DP-04"}, Causes: []string{"address-extra"}, Needs: vxlan,
			Break: func(s *Scene) {
				a := s.spare().Addr()
				one := fmt.Sprintf("%s/%d", a, a.BitLen())
				s.pause(s.node)
				s.on(s.node.Name, s.addAddress(one, s.vtep()), "ip addr del "+one+" dev "+s.vtep())
			},
		},
		{
			ID: "ADDR-06", Title: "pod {pod} has an address of another", Breaks: "the pod is not reached by its address",
			Case:   "a pod configured by hand",
			Checks: []string{"NM-02", "TTL-03", "NM-06"}, Causes: []string{"address-wrong"}, Needs: pods,
			Break: func(s *Scene) {
				b := s.node.PodCIDR.Masked().Addr().As4()
				b[3] = 200
				wrong := fmt.Sprintf("%d.%d.%d.%d/%d", b[0], b[1], b[2], b[3], s.pod.Address.Bits())
				s.forgetMACs(s.node)
				s.script(s.pod.Name,
					append([]string{"ip addr del " + s.pod.Address.String() + " dev eth0", "ip addr add " + wrong + " dev eth0"}, s.podRoutes()...),
					append([]string{"ip addr del " + wrong + " dev eth0", "ip addr add " + s.pod.Address.String() + " dev eth0"}, s.podRoutes()...))
			},
		},
		{
			ID: "ADDR-07", Twin: true, Title: "{node}'s address on the underlay has changed", Breaks: "pods of {node} and of other nodes do not reach each other",
			Case:   "a lease of DHCP that ended",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"address-wrong"}, Needs: pods,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.moveAddress(s.uplink(), s.node.Underlay().Address.String(), fmt.Sprintf("%s/%d", s.nobody(), s.node.Underlay().Address.Bits()))
			},
		},
	}
}

// podRoutes gives the pod its routes back, which go with its address.
func (s *Scene) podRoutes() []string {
	var out []string
	for _, r := range s.state(s.pod.Name).Routes {
		if r.Via.IsValid() {
			out = append(out, fmt.Sprintf("ip route replace %s via %s dev %s", route(r.Dst), r.Via, r.Dev))
		}
	}
	return out
}

// moveAddress takes an address from a device of the node and gives it another,
// if that is not empty. The kernel takes routes away with an address.
func (s *Scene) moveAddress(dev, from, to string) {
	do := []string{"ip addr del " + from + " dev " + dev}
	undo := []string{s.addAddress(from, dev)}
	if to != "" {
		do = append(do, s.addAddress(to, dev))
		undo = append([]string{"ip addr del " + to + " dev " + dev}, undo...)
	}
	s.script(s.node.Name, do, append(undo, s.routesVia(s.node.Name, dev)...))
}

// addAddress is the command that adds an address. One of IPv6 is used at once:
// the kernel would else look first whether another has it.
func (s *Scene) addAddress(address, dev string) string {
	if s.plan.Is6() {
		return "ip addr add " + address + " dev " + dev + " nodad"
	}
	return "ip addr add " + address + " dev " + dev
}

// host is the address of the overlay's device: the first of the node's subnet,
// alone.
func (s *Scene) host() string {
	a := s.node.PodCIDR.Masked().Addr()
	return fmt.Sprintf("%s/%d", a, a.BitLen())
}
