package faults

import "github.com/overlab/overlab/harness/suite"

// storeFaults are those of the store that the agents share.
func storeFaults() []Fault {
	return []Fault{
		{
			ID: "STORE-01", Title: "the store is gone", Breaks: "nothing, until a node comes, goes or changes", Case: "etcd without a quorum",
			Checks: []string{"RS-02", "CP-06"}, Causes: []string{"store-gone"}, Elsewhere: true, Blinds: true,
			Needs: []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.EtcdStore},
			Break: func(s *Scene) { s.end("") },
		},
	}
}
