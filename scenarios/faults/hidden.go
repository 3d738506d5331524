package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/suite"
)

// hiddenFaults are in none of the tables that anybody compares with a plan:
// what tc(8) and bridge(8) do, and IPsec's policies.
func hiddenFaults() []Fault {
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	vxlan := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	ends := []string{"drop", "walk"}
	return []Fault{
		{
			ID: "TC-01", Title: "{node} drops VXLAN that comes in, by a program of tc", Breaks: "pods of {node} and of other nodes do not reach each other", Case: "a policy engine beside flannel",
			Checks: []string{"TTL-03", "NM-02"}, Causes: ends, Needs: vxlan,
			Break: func(s *Scene) {
				dev := s.uplink()
				s.on(s.node.Name, "tc qdisc add dev "+dev+" clsact", "tc qdisc del dev "+dev+" clsact")
				s.step(s.node.Name, []string{"tc", "filter", "add", "dev", dev, "ingress", "bpf", "direct-action", "bytecode", dropUDP(s.plan.Network.Backend.Port)}, nil)
			},
		},
		{
			ID: "TC-02", Title: "{node}'s queue to the underlay has no room", Breaks: "packets of {node} do not leave it", Case: "a shaper whose burst is smaller than a packet",
			Checks: []string{"TTL-03", "NM-02"}, Causes: ends, Needs: vxlan,
			Break: func(s *Scene) {
				s.on(s.node.Name, "tc qdisc replace dev "+s.uplink()+" root bfifo limit 128", "tc qdisc del dev "+s.uplink()+" root")
			},
		},
		{
			ID: "BRIDGE-01", Title: "{node}'s cni0 blocks the port of pod {pod}", Breaks: "the pod reaches nobody", Case: "spanning tree on the pods' bridge",
			Checks: []string{"TTL-03", "TTL-01"}, Causes: ends, Needs: pods,
			Break: func(s *Scene) {
				port := s.port(s.pod)
				s.on(s.node.Name, "bridge link set dev "+port+" state 0", "bridge link set dev "+port+" state 3")
			},
		},
		{
			ID: "XFRM-01", Title: "an IPsec policy of {node} takes what is for {peer}'s pods", Breaks: "pods of {node} do not reach those of {peer}", Case: "strongSwan beside flannel",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"ipsec-policy"}, Needs: pods,
			Break: func(s *Scene) {
				which := fmt.Sprintf("src %s dst %s dir out", s.node.PodCIDR.Masked(), s.peer.PodCIDR.Masked())
				s.on(s.node.Name, "ip xfrm policy add "+which+" tmpl proto esp mode transport", "ip xfrm policy delete "+which)
			},
		},
	}
}

// dropUDP is a program of classic BPF, for tc's direct action (tc-bpf(8)): it
// shoots IPv4's UDP datagrams to a port, and leaves all else to others.
func dropUDP(port int) string {
	return fmt.Sprintf("9,40 0 0 12,21 0 6 2048,48 0 0 23,21 0 4 17,177 0 0 14,72 0 0 16,21 0 1 %d,6 0 0 2,6 0 0 4294967295", port)
}
