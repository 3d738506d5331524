package faults

import "github.com/overlab/overlab/harness/suite"

const (
	subnetEnv = "/run/flannel/subnet.env"
	aside     = "/run/flannel/subnet.env.aside"
)

// cniFaults are those of what the CNI plugin reads.
func cniFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.Pods}
	return []Fault{
		{
			ID: "CNI-01", Title: "{node} has no subnet.env", Breaks: "no new pod starts on {node}", Case: "flannel #2232, #2253",
			Checks: []string{"CP-05", "CN-01"}, Causes: []string{"subnet-env"}, Needs: needs,
			Break: func(s *Scene) {
				s.pause(s.node)
				s.on(s.node.Name, "mv "+subnetEnv+" "+aside, "mv "+aside+" "+subnetEnv)
			},
		},
		{
			ID: "CNI-02", Title: "{node}'s subnet.env has another MTU than its device", Breaks: "new pods of {node} have a wrong MTU", Case: "an MTU changed, the device kept (K10)",
			Checks: []string{"CP-05"}, Causes: []string{"subnet-env"}, Needs: needs,
			Break: func(s *Scene) { s.edit("s/^FLANNEL_MTU=.*/FLANNEL_MTU=1300/") },
		},
		{
			ID: "CNI-03", Title: "{node}'s subnet.env has another node's subnet", Breaks: "new pods of {node} get addresses of another", Case: "a machine cloned with /run",
			Checks: []string{"CP-05"}, Causes: []string{"subnet-env"}, Needs: append(needs, suite.CrossNodePods),
			Break: func(s *Scene) { s.edit("s|^FLANNEL_SUBNET=.*|FLANNEL_SUBNET=" + s.peer.Gateway().String() + "|") },
		},
	}
}

// edit changes subnet.env by a command of sed.
func (s *Scene) edit(command string) {
	s.pause(s.node)
	s.script(s.node.Name,
		[]string{"cp " + subnetEnv + " " + aside, "sed -i '" + command + "' " + subnetEnv},
		[]string{"mv " + aside + " " + subnetEnv})
}
