package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/suite"
)

// ruleFaults are those of packet filters and NAT.
func ruleFaults() []Fault {
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	masq := append(pods, Masquerade)
	const apart = "pods of {node} and of other nodes do not reach each other"
	return []Fault{
		{
			ID: "RULE-01", Twin: true, Title: "{node} drops what it forwards, before flannel's rules", Breaks: apart, Case: "firewalld, a policy engine (flannel #375, #2055)",
			Checks: []string{"TTL-03", "NM-02", "FW-01"}, Causes: []string{"filter"}, Needs: pods,
			Break: func(s *Scene) {
				s.nft(s.node.Name, s.layer(), "filter hook forward priority -10", s.layer()+" saddr "+s.plan.Network.Network.String()+" drop")
			},
		},
		{
			ID: "RULE-02", Twin: true, Title: "{node}'s FORWARD policy is DROP, without flannel's rules", Breaks: apart, Case: "Docker 1.13 (flannel #872, #799)",
			Checks: []string{"TTL-03", "NM-02", "FW-01"}, Causes: []string{"filter-policy"}, Needs: masq,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.step(s.node.Name, s.forwardJump("-D"), s.forwardJump("-A"))
				s.on(s.node.Name, s.iptables()+" -P FORWARD DROP", s.iptables()+" -P FORWARD ACCEPT")
			},
		},
		{
			ID: "RULE-03", Twin: true, Title: "{node} does not masquerade", Breaks: "pods of {node} do not reach what is outside", Case: "flannel #835, #864",
			Checks: []string{"NT-02"}, Causes: []string{"rules-masquerade"}, Needs: masq,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.step(s.node.Name, s.masqJump("-D"), s.masqJump("-A"))
			},
		},
		{
			ID: "RULE-04", Twin: true, Title: "{node} drops VXLAN that comes in", Breaks: apart, Case: "a security group without UDP 8472 (flannel #2388)",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"filter-tunnel"}, Needs: vxlan,
			Break: func(s *Scene) {
				s.nft(s.node.Name, s.layer(), "filter hook input priority -10", fmt.Sprintf("udp dport %d drop", s.plan.Network.Backend.Port))
			},
		},
		{
			ID: "RULE-05", Twin: true, Title: "the network between the nodes drops UDP 8472", Breaks: "pods reach only those of their own node", Case: "NSX and VMware, which use the port themselves (flannel #423)",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"filter-tunnel"}, Elsewhere: true, Needs: vxlan,
			Break: func(s *Scene) {
				s.nft(underlay, "bridge", "filter hook forward priority -10", fmt.Sprintf("ether type %s udp dport %d drop", s.layer(), s.plan.Network.Backend.Port))
			},
		},
		{
			ID: "RULE-06", Twin: true, Title: "{node} masquerades what goes to other pods", Breaks: "pods of other nodes see {node}, not the pod", Case: "flannel #1702, kube-proxy --masquerade-all",
			Checks: []string{"NM-02", "NT-01"}, Causes: []string{"masquerade"}, Needs: pods,
			Break: func(s *Scene) {
				net := s.plan.Network.Network.String()
				s.nft(s.node.Name, s.layer(), "nat hook postrouting priority srcnat - 5", s.layer()+" saddr "+s.node.PodCIDR.Masked().String()+" "+s.layer()+" daddr "+net+" masquerade")
			},
		},
		{
			ID: "RULE-07", Title: "{node} masquerades marked packets too", Breaks: "what another program has marked is translated twice", Case: "flannel's RETURN for the mark 0x4000 is missing",
			Checks: []string{"NT-04"}, Causes: []string{"rules-mark"}, Needs: masq,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.step(s.node.Name, markReturn("-D"), markReturn("-I"))
			},
		},
		{
			ID: "RULE-08", Twin: true, Title: "{node} drops TCP between pods", Breaks: "pings pass, connections do not", Case: "a filter by port",
			Checks: []string{"NM-02"}, Causes: []string{"filter"}, Needs: pods,
			Break: func(s *Scene) {
				s.nft(s.node.Name, s.layer(), "filter hook forward priority -10", s.layer()+" saddr "+s.plan.Network.Network.String()+" "+s.layer()+" daddr "+s.plan.Network.Network.String()+" meta l4proto tcp drop")
			},
		},
		{
			ID: "RULE-09", Twin: true, Title: "{node} takes one off the TTL more than once", Breaks: "traces show a hop that is not there", Case: "a TTL rule against tethering",
			Checks: []string{"TTL-03", "WF-04"}, Causes: []string{"ttl-rule"}, Needs: append(pods, suite.KernelDatapath),
			Break: func(s *Scene) {
				s.nft(s.node.Name, s.layer(), "filter hook forward priority -10", s.layer()+" saddr "+s.node.PodCIDR.Masked().String()+" "+s.layer()+" daddr != "+s.node.PodCIDR.Masked().String()+s.either(" ip ttl set 60", " ip6 hoplimit set 60"))
			},
		},
	}
}

func (s *Scene) forwardJump(verb string) []string {
	return []string{s.iptables(), verb, "FORWARD", "-m", "comment", "--comment", "flanneld forward", "-j", "FLANNEL-FWD"}
}

func (s *Scene) masqJump(verb string) []string {
	return []string{s.iptables(), "-t", "nat", verb, "POSTROUTING", "-m", "comment", "--comment", "flanneld masq", "-j", "FLANNEL-POSTRTG"}
}

func markReturn(verb string) []string {
	return []string{"iptables", "-t", "nat", verb, "FLANNEL-POSTRTG", "-m", "mark", "--mark", "0x4000/0x4000", "-m", "comment", "--comment", "flanneld masq", "-j", "RETURN"}
}
