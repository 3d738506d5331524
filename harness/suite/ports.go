package suite

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// NodePort is a port of a node that leads to a pod.
type NodePort struct {
	Pod       topology.Pod
	Transport probe.Transport
	// At is where the node answers, Target the pod's own port.
	At     netip.AddrPort
	Target uint16
}

func (p NodePort) String() string { return fmt.Sprintf("%s/%s of %s", p.At, p.Transport, p.Pod.Node) }

// NodePorts returns the ports of a plan that an echo can ask: those of TCP and
// UDP at an address of IPv4. Where every address of the node answers, it is
// the one on the underlay.
func NodePorts(p *topology.Plan) []NodePort {
	var out []NodePort
	for _, pod := range p.Pods {
		for _, port := range pod.Ports {
			transport, at := probe.Transport(port.Protocol), port.HostIP
			if !at.IsValid() || at.IsUnspecified() {
				at = p.Node(pod.Node).Underlay().Address.Addr()
			}
			if at.Is4() && (transport == probe.TCP || transport == probe.UDP) {
				out = append(out, NodePort{pod, transport, netip.AddrPortFrom(at, uint16(port.HostPort)), uint16(port.ContainerPort)})
			}
		}
	}
	return out
}
