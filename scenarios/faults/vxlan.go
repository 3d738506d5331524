package faults

import (
	"fmt"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
)

// vxlanFaults are those of the VXLAN device itself, which cannot be changed:
// it is made anew, with all that hung on it.
func vxlanFaults() []Fault {
	needs := []suite.Feature{suite.IPv4, suite.CrossNodePods, suite.FullMesh}
	const breaks = "pods of {node} and of other nodes do not reach each other"
	return []Fault{
		{
			ID: "VXLAN-01", Twin: true, Title: "{node}'s flannel device has another VNI", Breaks: breaks, Case: "two clusters on one network",
			Checks: []string{"DP-04", "WF-02", "TTL-03"}, Causes: []string{"vxlan-id"}, Needs: needs,
			Break: func(s *Scene) { s.remake(func(v *probe.VXLAN) { v.VNI++ }) },
		},
		{
			ID: "VXLAN-02", Twin: true, Title: "{node}'s flannel device has another UDP port", Breaks: breaks, Case: "Port 4789 once, the device kept (K10)",
			Checks: []string{"DP-04", "WF-01", "TTL-03"}, Causes: []string{"vxlan-dstport"}, Needs: needs,
			Break: func(s *Scene) { s.remake(func(v *probe.VXLAN) { v.Port = 4789 }) },
		},
		{
			ID: "VXLAN-03", Twin: true, Title: "{node}'s flannel device sends from an address of nobody", Breaks: "packets of {node} do not leave it",
			Case:   "--public-ip that no interface has",
			Checks: []string{"DP-04", "WF-01", "TTL-03"}, Causes: []string{"vxlan-local"}, Needs: needs,
			Break: func(s *Scene) { s.remake(func(v *probe.VXLAN) { v.Local = s.nobody() }) },
		},
		{
			ID: "VXLAN-04", Twin: true, Title: "{node}'s flannel device learns", Breaks: "a forged packet moves a VTEP", Case: "Learning once, the device kept (K10)",
			Checks: []string{"DP-04", "SE-03"}, Causes: []string{"vxlan-learning"}, Needs: needs,
			Break: func(s *Scene) { s.remake(func(v *probe.VXLAN) { v.Learning = !v.Learning }) },
		},
	}
}

// remake makes the node's VXLAN device anew with a change.
func (s *Scene) remake(change func(*probe.VXLAN)) {
	l := s.link(s.node.Name, s.vtep())
	if l.VXLAN == nil {
		s.fail("%s of %s is no VXLAN device", l.Name, s.node.Name)
		return
	}
	wrong := *l.VXLAN
	change(&wrong)
	s.pause(s.node)
	s.script(s.node.Name, s.device(l, wrong), s.device(l, *l.VXLAN))
}

// device are the commands that put another VXLAN device in the place of one,
// with its addresses, entries and routes.
func (s *Scene) device(l probe.Link, v probe.VXLAN) []string {
	st := s.state(s.node.Name)
	add := fmt.Sprintf("ip link add %s address %s mtu %d type vxlan id %d local %s dstport %d", l.Name, l.MAC, l.MTU, v.VNI, v.Local, v.Port)
	if under := st.LinkByIndex(v.Dev); under != nil {
		add += " dev " + under.Name
	}
	if !v.Learning {
		add += " nolearning"
	}
	if v.GBP {
		add += " gbp"
	}
	out := []string{"ip link del " + l.Name, add}
	for _, a := range l.AddressesLike(s.node.PodCIDR.Addr()) {
		out = append(out, s.addAddress(a.String(), l.Name))
	}
	return append(append(out, "ip link set "+l.Name+" up"), s.hung(l.Name)...)
}

// hung are the commands that give a device of the node back what hangs on it:
// permanent neighbours, which go when it goes down or gets another MAC, FDB
// entries, and routes.
func (s *Scene) hung(dev string) []string {
	st := s.state(s.node.Name)
	var out []string
	for _, n := range st.NeighboursOn(dev) {
		if n.State == "PERMANENT" && n.IP.Is6() == s.plan.Is6() {
			out = append(out, "ip neigh replace "+neighbour(n, "permanent"))
		}
	}
	for _, f := range st.FDBOf(dev) {
		if f.Dst.IsValid() {
			out = append(out, "bridge fdb replace "+f.String())
		}
	}
	return append(out, s.routesVia(s.node.Name, dev)...)
}
