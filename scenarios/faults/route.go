package faults

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/harness/suite"
)

// routeFaults are those of the routing tables of nodes and pods.
func routeFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	pods := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.Connects}
	const breaks = "pods of {node} do not reach those of {peer}"
	return []Fault{
		{
			ID: "ROUTE-01", Twin: true, Title: "{node} has no route to {peer}'s pods", Breaks: breaks, Case: "flannel #869, #1348, #2247",
			Checks: []string{"CP-03", "BE-01", "TTL-03", "NM-02"}, Causes: []string{"route-missing"}, Needs: pods,
			Break: func(s *Scene) {
				r := s.peerRoute()
				s.pause(s.node)
				s.on(s.node.Name, "ip route del "+r.String(), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-02", Twin: true, Title: "{node}'s route to {peer}'s pods has a wrong gateway", Breaks: breaks, Case: "flannel #996",
			Checks: []string{"CP-03", "BE-01", "TTL-03"}, Causes: []string{"route-wrong"}, Needs: append(pods, ThreeNodes),
			Break: func(s *Scene) {
				r := s.peerRoute()
				wrong := r
				if wrong.Via = s.third().PodCIDR.Masked().Addr(); !r.Onlink {
					wrong.Via = s.third().PublicIP()
				}
				s.pause(s.node)
				s.on(s.node.Name, "ip route replace "+wrong.String(), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-03", Twin: true, Title: "{node}'s route to {peer}'s pods is a black hole", Breaks: breaks, Case: "--ip-blackhole-route of a moved subnet",
			Checks: []string{"CP-03", "BE-01", "TTL-03", "NM-02"}, Causes: []string{"route-wrong"}, Needs: pods,
			Break: func(s *Scene) {
				r := s.peerRoute()
				s.pause(s.node)
				s.on(s.node.Name, "ip route replace blackhole "+r.Dst.String(), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-04", Twin: true, Title: "{node}'s route to {peer}'s pods has no gateway", Breaks: breaks, Case: "a route set by hand, without via and onlink",
			Checks: []string{"CP-03", "TTL-03", "WF-09"}, Causes: []string{"route-wrong"}, Needs: needs,
			Break: func(s *Scene) {
				r := s.peerRoute()
				s.pause(s.node)
				s.on(s.node.Name, fmt.Sprintf("ip route replace %s dev %s scope link", r.Dst, r.Dev), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-05", Twin: true, Title: "{node} sends a part of {peer}'s pods past the tunnel", Breaks: "pods of {node} do not reach some of {peer}",
			Case:   "a VPN that pushes a narrower route",
			Checks: []string{"CP-03", "TTL-03", "WF-08"}, Causes: []string{"route-extra"}, Needs: needs,
			Break: func(s *Scene) {
				half := netip.PrefixFrom(s.peer.PodCIDR.Masked().Addr(), s.peer.PodCIDR.Bits()+1)
				r := fmt.Sprintf("%s via %s dev %s", half, s.nobody(), s.uplink())
				s.pause(s.node)
				s.on(s.node.Name, "ip route add "+r, "ip route del "+r)
			},
		},
		{
			ID: "ROUTE-06", Twin: true, Title: "a route of less metric comes before {node}'s to {peer}", Breaks: breaks,
			Case:   "a routing daemon beside flannel",
			Checks: []string{"CP-03", "TTL-03", "NM-02"}, Causes: []string{"route-missing", "route-wrong", "route-extra"}, Needs: needs,
			Break: func(s *Scene) {
				r := s.peerRoute()
				worse := r
				worse.Metric = 100
				other := fmt.Sprintf("%s via %s dev %s metric 20", r.Dst, s.nobody(), s.uplink())
				s.pause(s.node)
				if s.plan.Is6() { // where a route has a metric of 1024 if nobody asks for one
					s.on(s.node.Name, "ip route add "+other, "ip route del "+other)
					return
				}
				s.on(s.node.Name, "ip route add "+worse.String(), "ip route del "+worse.String())
				s.on(s.node.Name, "ip route del "+r.String()+" metric 0", "ip route replace "+restored(r))
				s.on(s.node.Name, "ip route add "+other, "ip route del "+other)
			},
		},
		{
			ID: "ROUTE-07", Twin: true, Title: "{node} has a route to the pods of a node that is gone", Case: "flannel #2554",
			Breaks: "nothing yet: the next node with that subnet is misled",
			Checks: []string{"CP-03"}, Causes: []string{"route-extra"}, Needs: needs,
			Break: func(s *Scene) {
				p := s.spare()
				r := fmt.Sprintf("%s via %s dev %s onlink", p, p.Addr(), s.vtep())
				s.pause(s.node)
				s.on(s.node.Name, "ip route add "+r, "ip route del "+r)
			},
		},
		{
			ID: "ROUTE-08", Twin: true, Title: "{node} has no route to its own pods", Breaks: "nobody reaches the pods of {node}",
			Case:   "a network service that flushes routes",
			Checks: []string{"TTL-03", "NM-02", "NM-03"}, Causes: []string{"route-missing"}, Needs: pods,
			Break: func(s *Scene) {
				r := s.route(s.node.Name, s.node.PodCIDR.Masked())
				s.on(s.node.Name, "ip route del "+r.String(), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-09", Twin: true, Title: "pod {pod} has no default route", Breaks: "the pod reaches nothing outside of the cluster",
			Case:   "a CNI configuration without isDefaultGateway",
			Checks: []string{"DP-03"}, Causes: []string{"route-missing"}, Needs: pods,
			Break: func(s *Scene) {
				r := s.route(s.pod.Name, s.anywhere())
				s.on(s.pod.Name, "ip route del "+r.String(), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-10", Twin: true, Title: "pod {pod} has a wrong gateway to the cluster", Breaks: "the pod does not reach those of other nodes",
			Case:   "a pod that outlived its node's subnet",
			Checks: []string{"DP-03", "TTL-03", "NM-02"}, Causes: []string{"route-wrong"}, Needs: append(pods, suite.SameNodePods),
			Break: func(s *Scene) {
				r := s.route(s.pod.Name, s.plan.Network.Network)
				wrong := r
				wrong.Via = s.sibling.Address.Addr()
				s.on(s.pod.Name, "ip route replace "+wrong.String(), "ip route replace "+restored(r))
			},
		},
		{
			ID: "ROUTE-11", Twin: true, Title: "a routing rule of {node} takes {peer}'s pods elsewhere", Breaks: breaks,
			Case:   "a VPN or Cilium beside flannel",
			Checks: []string{"TTL-03", "NM-02"}, Causes: []string{"policy"}, Needs: pods,
			Break: func(s *Scene) {
				rule := "to " + s.peer.PodCIDR.Masked().String() + " priority 100 unreachable"
				s.on(s.node.Name, s.ip()+" rule add "+rule, s.ip()+" rule del "+rule)
			},
		},
	}
}

// route is what `ip route` calls a destination.
func route(dst netip.Prefix) string {
	if dst.Bits() == 0 {
		return "default"
	}
	return dst.String()
}
