package identify

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Kernel is what a node's routes to another node's pods lead to.
type Kernel struct {
	// Type is flannel's name for a backend that works so: vxlan, host-gw, ipip,
	// wireguard or udp; empty where it is none of these.
	Type string
	// Device is the link that the route leads to, DeviceKind its driver.
	Device, DeviceKind string
	// VNI and Port are those of a VXLAN device.
	VNI, Port int
	// Route is the route, and Node whose it is.
	Route probe.Route
	Node  string
	// PodMTU is that of a pod's link.
	PodMTU int
	// Direct says that nodes of one segment are reached without the tunnel that
	// others are reached by.
	Direct bool
}

func (k *Kernel) String() string {
	if k.Node == "" {
		return "no route to another node's pods"
	}
	what := "nothing that flannel makes"
	switch {
	case k.Type == "vxlan":
		what = fmt.Sprintf("vxlan, VNI %d, port %d", k.VNI, k.Port)
	case k.Type != "":
		what = k.Type
	case k.DeviceKind != "":
		what = "a device of kind " + k.DeviceKind
	}
	return fmt.Sprintf("%s (on %s: %s)", what, k.Node, k.Route)
}

// kernel looks at the routes between nodes: those of two segments say more than
// those of one.
func (l *look) kernel() Kernel {
	var found Kernel
	for i := range l.plan.Nodes {
		for j := range l.plan.Nodes {
			if i == j {
				continue
			}
			k, ok := l.towards(&l.plan.Nodes[i], &l.plan.Nodes[j])
			switch {
			case !ok:
			case found.Node == "":
				found = k
			case found.Type == "host-gw" && k.Type != "host-gw" && k.Type != "":
				found, k.Direct = k, true
				found.Direct = true
			case found.Type != "host-gw" && k.Type == "host-gw":
				found.Direct = true
			}
		}
	}
	for _, p := range l.plan.Pods {
		if eth0 := l.states[p.Name].Link(podLink); eth0 != nil {
			found.PodMTU = eth0.MTU
			break
		}
	}
	return found
}

// towards says what a node's route to a peer's pods leads to.
func (l *look) towards(n, peer *topology.Node) (Kernel, bool) {
	st := l.states[n.Name]
	dst := peer.PodCIDR
	if !dst.IsValid() {
		for _, p := range l.plan.PodsOn(peer.Name) {
			dst = p.Address
			break
		}
	}
	r, ok := routeTo(st, dst)
	if !ok {
		return Kernel{}, false
	}
	k := Kernel{Device: r.Dev, Route: r, Node: n.Name}
	dev := st.Link(r.Dev)
	if dev == nil {
		return k, true
	}
	k.DeviceKind = dev.Kind
	switch {
	case dev.VXLAN != nil:
		k.Type, k.VNI, k.Port = "vxlan", dev.VXLAN.VNI, dev.VXLAN.Port
	case r.Via == peer.Interfaces[0].Address.Addr() && r.Dev == n.Agent.Underlay:
		k.Type = "host-gw"
	case dev.Kind == "ipip", dev.Kind == "tun" && dev.Name == "flannel.ipip":
		k.Type = "ipip"
	case dev.Kind == "wireguard", dev.Kind == "tun" && dev.Name == "flannel-wg":
		k.Type = "wireguard"
	case dev.Kind == "tun" && dev.Name == "flannel0":
		k.Type = "udp"
	}
	return k, true
}

// routeTo returns the longest route that is not the default one and leads to
// the beginning of a prefix.
func routeTo(st *probe.State, dst netip.Prefix) (probe.Route, bool) {
	var best probe.Route
	found := false
	for _, r := range st.Routes {
		if dst.IsValid() && r.Dst.Bits() > 0 && r.Dst.Contains(dst.Addr()) && (!found || r.Dst.Bits() > best.Dst.Bits()) {
			best, found = r, true
		}
	}
	return best, found
}
