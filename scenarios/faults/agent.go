package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// agentFaults are those of the agents: they do nothing, or the wrong thing.
func agentFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects, suite.EtcdStore}
	return []Fault{
		{
			ID: "AGENT-01", Twin: true, Title: "{node}'s agent is dead", Breaks: "nothing, until another node comes, goes or changes", Case: "a DaemonSet that is not scheduled on {node}",
			Checks: []string{"RS-02", "RS-03", "RS-08"}, Causes: []string{"agent-dead"}, Needs: needs,
			Break: func(s *Scene) { s.end(s.node.Name) },
		},
		{
			ID: "AGENT-02", Title: "{node}'s agent hangs", Breaks: "nothing, until another node comes, goes or changes", Case: "a lock, a full disk (flannel #933)",
			Checks: []string{"RS-02", "RS-08"}, Causes: []string{"agent-stopped"}, Needs: needs,
			Break: func(s *Scene) { s.pause(s.node) },
		},
		{
			ID: "AGENT-03", Title: "{node}'s agent has chosen the wrong interface", Breaks: "nobody reaches the pods of {node} from another node", Case: "Vagrant's 10.0.2.15 (flannel #535, #313)",
			Checks: []string{"DP-04", "CP-06", "TTL-03"}, Causes: []string{"agent-interface"}, Needs: append(needs, suite.FullMesh, TwoNICs),
			Break: func(s *Scene) {
				for _, i := range s.node.Interfaces {
					if i.Name == s.uplink() {
						continue
					}
					wrong := i.Address.Addr()
					dev := s.link(s.node.Name, i.Name).Index
					s.remake(func(v *probe.VXLAN) { v.Local, v.Dev = wrong, dev })
					s.alter(s.node, func(v map[string]any) { v["PublicIP"] = wrong.String() })
					return
				}
				s.fail("%s has one interface only", s.node.Name)
			},
		},
		{
			ID: "AGENT-04", Title: "{node}'s agent does not reach the store", Breaks: "nothing, until another node comes, goes or changes", Case: "a filter on 2379",
			Checks: []string{"RS-02", "RS-08"}, Causes: []string{"filter-store", "store-unreached"}, Needs: needs,
			Break: func(s *Scene) {
				// Both ways: what comes in would keep a watch alive.
				s.nft(s.node.Name, "ip", "filter hook output priority -10", fmt.Sprintf("tcp dport %d drop", s.plan.Store.Port))
				s.step(s.node.Name, []string{"nft", "add chain ip " + table + " replies { type filter hook input priority -10 ; }"}, nil)
				s.step(s.node.Name, []string{"nft", fmt.Sprintf("add rule ip %s replies tcp sport %d drop", table, s.plan.Store.Port)}, nil)
			},
		},
	}
}
