// Package faults breaks running labs on purpose, one thing at a time and
// reversibly, so that a learner has something to find and the harness proves
// that it finds it.
//
// A fault is an entry of a table: what is wrong, which checks must see it, and
// a function that turns the lab as it is into steps. A step is data, a command
// and the one that undoes it, so that what one process has put in, another can
// take out.
package faults

import (
	"fmt"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// TwoNICs is what a lab offers whose nodes have a second underlay interface
// with an address, beside the one that their agents use.
const TwoNICs suite.Feature = "node with a second interface"

// Masquerade is what a lab offers whose agents masquerade by iptables.
const Masquerade suite.Feature = "masquerading by iptables"

// ThreeNodes is what a lab offers with a third node beside two with pods.
const ThreeNodes suite.Feature = "third node"

// A Fault is one way to break a lab.
type Fault struct {
	// ID is its stable name, as FDB-01: its family and a number. No family is
	// called like one of the checks.
	ID string
	// Title says what is wrong, in up to 60 bytes. {node}, {peer} and {pod}
	// stand for the names.
	Title string
	// Breaks says what a user notices.
	Breaks string
	// Case names where the fault was met, as "flannel #869"; empty for those
	// that only complete a family.
	Case string
	// Checks are those of the catalogue that must see it; one is enough.
	Checks []string
	// Causes are the words of a diagnosis for it, as fdb-wrong; one of them must
	// be the first that it finds, on the node that is broken.
	Causes []string
	// Elsewhere says that what is wrong is on no node, or on another.
	Elsewhere bool
	// Blinds says that the fault takes away what the checks measure by, so that
	// inconclusive is all that they can say.
	Blinds bool
	// Twin says that it is the same over IPv6, where Break finds IPv6's part of
	// the lab in the place of IPv4's; IPv6 says that this is that twin.
	Twin, IPv6 bool
	// Needs are what the lab must offer.
	Needs []suite.Feature
	// Break tells the scene the steps.
	Break func(s *Scene)
}

// Family is the part of the ID before the number.
func (f *Fault) Family() string {
	family, _, _ := strings.Cut(f.ID, "-")
	return family
}

// All returns the faults, family by family.
func All() []Fault {
	all := slices.Concat(
		fdbFaults(), neighbourFaults(), routeFaults(), addressFaults(), macFaults(),
		mtuFaults(), vxlanFaults(), linkFaults(), sysctlFaults(), ruleFaults(),
		checksumFaults(), ipamFaults(), leaseFaults(), agentFaults(), carelessFaults(), cniFaults(), storeFaults(),
		wireguardFaults(), ipsecFaults(), hiddenFaults(), hardenFaults(),
	)
	return append(all, overIPv6(all)...)
}

// Find returns the fault of that ID, without regard to case.
func Find(id string) (Fault, error) {
	all := All()
	i := slices.IndexFunc(all, func(f Fault) bool { return strings.EqualFold(f.ID, id) })
	if i < 0 {
		return Fault{}, fmt.Errorf("no fault is called %q; `overlab fault ls` lists them", id)
	}
	return all[i], nil
}

// Applies says why a lab cannot have the fault, nil if it can.
func (f *Fault) Applies(plan *topology.Plan) error {
	offered := features(plan)
	for _, need := range f.Needs {
		if !slices.Contains(offered, need) {
			return fmt.Errorf("fault %s: lab %s has no %s", f.ID, plan.Name, need)
		}
	}
	return nil
}

// features are those that checks know, and those that only faults need.
func features(plan *topology.Plan) []suite.Feature {
	offered := suite.Features(plan)
	for _, x := range []struct {
		suite.Feature
		there bool
	}{
		{TwoNICs, len(plan.Nodes) > 1 && len(plan.Nodes[1].Interfaces) > 1},
		{Masquerade, len(plan.Nodes) > 0 && plan.Nodes[0].Agent.IPMasq && !plan.Network.EnableNFTables},
		{ThreeNodes, len(plan.Nodes) > 2},
		{Hardened, hardened(plan)},
	} {
		if x.there {
			offered = append(offered, x.Feature)
		}
	}
	return offered
}
