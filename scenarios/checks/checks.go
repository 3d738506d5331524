// Package checks is the conformance catalogue: each check is data and one
// small function. Identifiers are stable; what is expected is computed from
// the plan and from what the kernel says, never by the agent's own code.
package checks

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/topology"
)

// Where demands come from.
const (
	fromSeeds   = "seed articles"
	fromFlannel = "flannel"
	fromBoth    = "seed articles, flannel"
)

// Profiles that the checks belong to.
const (
	model     = "model"
	vxlan     = "vxlan"
	udp       = "udp"
	ipip      = "ipip"
	ipsec     = "ipsec"
	wireguard = "wireguard"
	hostGW    = "host-gw"
	// performance is that of how fast things are.
	performance = "performance"
	// cniProfile is that of CNI plugins and their address management.
	cniProfile = "cni"
	// security is that of what must not pass.
	security = "security"
	// dualStack is that of overlays that carry IPv6 too.
	dualStack = "dual-stack"
	// scale is that of many nodes.
	scale = "scale"
	// resilience is that of what an overlay must survive.
	resilience = "resilience"
)

// Parts of the lab that disturbing checks change and judge.
const (
	// partContainers is what CNI plugins make on a node.
	partContainers = "containers"
	// partOverlay is the agents, the store, and what leads from node to node.
	partOverlay = "overlay"
)

// All returns the catalogue in its order.
func All() []suite.Check {
	of4 := slices.Concat(modelChecks(), ttlChecks(), datapathChecks(), controlChecks(), wireChecks(), mtuChecks(), backendChecks())
	return slices.Concat(
		of4, hostChecks(), leaseChecks(),
		portChecks(), outerChecks(), leakChecks(), pathMTUChecks(),
		natChecks(), []suite.Check{forwardCheck()},
		securityChecks(), cniChecks(), performanceChecks(),
		resilienceChecks(), []suite.Check{orderCheck(), scaleCheck()},
		overlayMTU6(), overIPv6(slices.Concat(of4, hostChecks(), outerChecks(), pathMTUChecks(), natChecks(), resilienceChecks())),
	)
}

// Profiles returns the profiles that checks belong to, in alphabetical order.
func Profiles() []string {
	var out []string
	for _, c := range All() {
		out = append(out, c.Profiles...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// bridge is the name that flannel's CNI configuration gives the pods' bridge.
const bridge = "cni0"

// vtep returns the name of the overlay's VXLAN device of the plan's family, as
// flannel names it.
func vtep(p *topology.Plan) string {
	if p.Is6() {
		return fmt.Sprintf("flannel-v6.%d", p.Network.Backend.VNI)
	}
	return fmt.Sprintf("flannel.%d", p.Network.Backend.VNI)
}

// single is an address with the prefix length of its family.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// sameFamily reports whether an address is of the plan's family, and one that
// people gave: the kernel gives link-local ones itself.
func sameFamily(p *topology.Plan, a netip.Addr) bool {
	return a.Is6() == p.Is6() && !a.IsLinkLocalUnicast() && !a.IsMulticast()
}

// nodesWithPods returns the nodes on which a pod runs: before its first pod a
// node has no cni0.
func nodesWithPods(p *topology.Plan) []*topology.Node {
	var out []*topology.Node
	for i := range p.Nodes {
		if len(p.PodsOn(p.Nodes[i].Name)) > 0 {
			out = append(out, &p.Nodes[i])
		}
	}
	return out
}

func nodeNames(p *topology.Plan) []string {
	names := make([]string, len(p.Nodes))
	for i, n := range p.Nodes {
		names[i] = n.Name
	}
	return names
}

// withAgents are the nodes on which an agent runs.
func withAgents(p *topology.Plan) []*topology.Node {
	var out []*topology.Node
	for i := range p.Nodes {
		if !p.Nodes[i].Agent.ByHand {
			out = append(out, &p.Nodes[i])
		}
	}
	return out
}

func podNames(p *topology.Plan) []string {
	names := make([]string, len(p.Pods))
	for i, pod := range p.Pods {
		names[i] = pod.Name
	}
	return names
}

// count says how many there are, as "1 node" or "3 nodes".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
