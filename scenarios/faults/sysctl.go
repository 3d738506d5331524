package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/suite"
)

// sysctlFaults are those of the kernel's settings.
func sysctlFaults() []Fault {
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	segment := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh, suite.SegmentPeers}
	return []Fault{
		{
			ID: "SYS-01", Twin: true, Title: "{node} does not forward", Breaks: "the pods of {node} reach nobody on another node", Case: "net.ipv4.ip_forward=0 in a hardened image",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"forwarding"}, Needs: pods,
			Break: func(s *Scene) {
				s.sysctl(s.node.Name, s.either("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"), "0")
			},
		},
		{
			ID: "SYS-02", Title: "{node} does not forward what comes from its pods", Breaks: "the pods of {node} reach nobody on another node", Case: "net.ipv4.conf.*.forwarding in a hardened image",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"forwarding-device"}, Needs: pods,
			Break: func(s *Scene) { s.sysctl(s.node.Name, "net/ipv4/conf/"+bridge+"/forwarding", "0") },
		},
		{
			ID: "SYS-03", Title: "{node} is strict on reverse paths, and has two", Breaks: "answers of {peer}'s pods are dropped on {node}", Case: "rp_filter=1 beside routing by rule",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"reverse-path"}, Needs: segment,
			Break: func(s *Scene) {
				dst := s.peer.PodCIDR.Masked()
				r := fmt.Sprintf("%s via %s dev %s table 100", dst, s.peer.Underlay().Address.Addr(), s.uplink())
				s.on(s.node.Name, "ip route add "+r, "ip route del "+r)
				rule := fmt.Sprintf("to %s priority 100 lookup 100", dst)
				s.on(s.node.Name, "ip rule add "+rule, "ip rule del "+rule)
				s.sysctl(s.node.Name, "net/ipv4/conf/"+s.vtep()+"/rp_filter", "1")
			},
		},
		{
			ID: "SYS-04", Title: "{node}'s cni0 answers no ARP request", Breaks: "pods of {node} do not find their gateway", Case: "arp_ignore=8 in a hardened image",
			Checks: []string{"TTL-03", "NM-02", "TTL-02"}, Causes: []string{"arp-ignore"}, Needs: pods,
			Break: func(s *Scene) {
				s.sysctl(s.node.Name, "net/ipv4/conf/"+bridge+"/arp_ignore", "8")
				s.forget(s.node.Gateway().Addr().String())
			},
		},
		{
			ID: "SYS-05", Twin: true, Title: "pod {pod} sends with a TTL of 32", Breaks: "traces mislead", Case: "an image with its own sysctls",
			Checks: []string{"TTL-03", "TTL-01", "WF-04"}, Causes: []string{"ttl"}, Needs: append(pods, suite.KernelDatapath),
			Break: func(s *Scene) {
				s.sysctl(s.pod.Name, s.either("net/ipv4/ip_default_ttl", "net/ipv6/conf/eth0/hop_limit"), "32")
			},
		},
		{
			ID: "SYS-06", Twin: true, Title: "{node} answers no ping", Breaks: "cni0 of {node} seems dead, and is not", Case: "icmp_echo_ignore_all in a hardened image",
			Checks: []string{"TTL-02"}, Causes: []string{"echo-ignored"}, Needs: append(pods, suite.KernelDatapath),
			Break: func(s *Scene) {
				s.sysctl(s.node.Name, s.either("net/ipv4/icmp_echo_ignore_all", "net/ipv6/icmp/echo_ignore_all"), "1")
			},
		},
	}
}

// forget lets the node's pods forget what MAC an address has.
func (s *Scene) forget(address string) {
	for _, p := range s.plan.PodsOn(s.node.Name) {
		for _, n := range s.state(p.Name).NeighboursOn("eth0") {
			if n.IP.String() == address {
				s.on(p.Name, "ip neigh flush to "+address+" dev eth0", "")
			}
		}
	}
}

// either is IPv4's sysctl or IPv6's.
func (s *Scene) either(v4, v6 string) string {
	if s.plan.Is6() {
		return v6
	}
	return v4
}
