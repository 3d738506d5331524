package faults

import (
	"encoding/json"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
)

// leaseFaults are those of what is in the store. Other agents believe it and
// do as it says; the one whose lease it is, is paused, or it would correct it.
func leaseFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh, suite.EtcdStore}
	const breaks = "nobody reaches the pods of {node} from another node"
	return []Fault{
		{
			ID: "LEASE-01", Twin: true, Title: "{node}'s lease has another MAC than its device", Breaks: breaks, Case: "flannel #1788, #1795",
			Checks: []string{"DP-05", "CP-06", "TTL-03"}, Causes: []string{"link-mac"}, Needs: needs,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.alter(s.node, func(v map[string]any) { s.backendData(v)["VtepMAC"] = nobodyMAC().String() })
			},
		},
		{
			ID: "LEASE-02", Twin: true, Title: "{node}'s lease has another address than the node", Breaks: breaks, Case: "flannel #1119, #620: --iface",
			Checks: []string{"CP-06", "CP-02", "TTL-03"}, Causes: []string{"lease-address"}, Needs: needs,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.alter(s.node, func(v map[string]any) { v[s.publicIP()] = s.nobody().String() })
			},
		},
		{
			ID: "LEASE-03", Title: "a second lease has {node}'s address", Breaks: "the agents know two subnets of one node", Case: "flannel #1289, #805 (K11)",
			Checks: []string{"CP-06", "CP-03", "CP-01"}, Causes: []string{"lease-twice"}, Needs: needs,
			Break: func(s *Scene) {
				s.put(lease.Key(s.spare()), s.lease(s.node).Value)
			},
		},
		{
			ID: "LEASE-04", Title: "the lease of a node that is gone is still there", Breaks: "every node keeps routes to nobody", Case: "flannel #1240",
			Checks: []string{"CP-06", "CP-03", "CP-01"}, Causes: []string{"lease-extra"}, Elsewhere: true, Needs: needs,
			Break: func(s *Scene) {
				value := s.changed(s.lease(s.node).Value, func(v map[string]any) {
					v["PublicIP"] = s.nobody().String()
					s.backendData(v)["VtepMAC"] = nobodyMAC().String()
				})
				s.put(lease.Key(s.spare()), value)
			},
		},
		{
			ID: "LEASE-05", Title: "a key among the leases is none", Breaks: "upstream flannel takes every route away (K1)", Case: "flannel PR #1368",
			Checks: []string{"CP-06"}, Causes: []string{"lease-malformed"}, Elsewhere: true, Needs: needs,
			Break: func(s *Scene) { s.put("hello", "world") },
		},
		{
			ID: "LEASE-06", Title: "{node}'s lease is gone", Breaks: breaks, Case: "flannel #621: lost after 24 h",
			Checks: []string{"CP-06", "CP-03", "TTL-03"}, Causes: []string{"lease-missing"}, Needs: needs,
			Break: func(s *Scene) {
				e := s.lease(s.node)
				s.pause(s.node)
				s.steps = append(s.steps, Step{Do: Op{Lease: &e, Gone: true}, Undo: Op{Lease: &e}})
			},
		},
		{
			ID: "LEASE-07", Title: "{node}'s lease has another VNI than its device", Breaks: breaks + ", if agents heed it", Case: "two clusters on one store",
			Checks: []string{"CP-06"}, Causes: []string{"lease-vni"}, Needs: needs,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.alter(s.node, func(v map[string]any) { s.backendData(v)["VNI"] = json.Number("4096") })
			},
		},
		{
			ID: "LEASE-08", Title: "{node}'s lease is of another backend", Breaks: breaks, Case: "a cluster half way to another backend",
			Checks: []string{"CP-06", "CP-03", "TTL-03"}, Causes: []string{"lease-backend"}, Needs: needs,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.alter(s.node, func(v map[string]any) { v["BackendType"] = "host-gw"; delete(v, "BackendData") })
			},
		},
	}
}
