package faults

import (
	"strings"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// Hardened is what a lab offers whose agents keep others than nodes out of the
// tunnel.
const Hardened suite.Feature = "agent with --harden"

// hardened reports whether a plan offers it.
func hardened(p *topology.Plan) bool {
	return len(p.Nodes) > 0 && p.Nodes[0].Agent.Hardened() && p.Network.Backend.Type == "vxlan"
}

// hardenFaults take away what a hardened agent does beyond what flannel's does.
func hardenFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh, Hardened}
	return []Fault{
		{
			ID: "HARD-01", Title: "{node} takes VXLAN from whoever sends it", Breaks: "anybody on the underlay may put packets into the overlay", Case: "every flannel, and Linux itself",
			Checks: []string{"SE-05"}, Causes: []string{"rules-harden"}, Needs: needs,
			Break: func(s *Scene) { s.unshield(s.node, "input") },
		},
		{
			ID: "HARD-02", Title: "{node}, and every other, lets pods send VXLAN", Breaks: "a pod may send to others as if it were a node", Case: "every flannel, and Linux itself",
			Checks: []string{"SE-06"}, Causes: []string{"rules-harden"}, Elsewhere: true, Needs: needs,
			Break: func(s *Scene) {
				for i := range s.plan.Nodes {
					s.unshield(&s.plan.Nodes[i], "forward")
				}
			},
		},
		{
			ID: "HARD-03", Title: "{node} sends VXLAN from ports below 49152", Breaks: "firewalls that go by RFC 7348 drop it", Case: "Linux's range of local ports",
			Checks: []string{"WF-05R", "WF-05"}, Causes: []string{"rewrite"}, Needs: needs,
			Break: func(s *Scene) {
				s.nft(s.node.Name, "ip", "filter hook output priority 0", "udp dport "+s.tunnelPort()+" udp sport set 40000")
			},
		},
		{
			ID: "HARD-04", Title: "{node} sends VXLAN with a checksum, and a wrong one", Breaks: "pods of {node} do not reach those of other nodes", Case: "a network card that computes it",
			Checks: []string{"WF-06R", "WF-06"}, Causes: []string{"rewrite"}, Needs: needs,
			Break: func(s *Scene) {
				s.nft(s.node.Name, "ip", "filter hook output priority 0", "udp dport "+s.tunnelPort()+" udp checksum set 0x1234")
			},
		},
	}
}

// unshield empties a chain of a node's table that keeps others out.
func (s *Scene) unshield(n *topology.Node, chain string) {
	const table = "inet flannel-harden"
	rules, err := output(s.ctx, s.lab, n.Name, strings.Fields("nft list table "+table))
	if err != nil {
		s.fail("read the table %s of %s: %w", table, n.Name, err)
		return
	}
	s.pause(n)
	s.script(n.Name, []string{"nft flush chain " + table + " " + chain},
		[]string{"nft delete table " + table, "printf %s " + quote(rules) + " | nft -f -"})
}
