package topology

import "net/netip"

// defaultServices is what kind gives a cluster's services
// (pkg/apis/config/v1alpha4/default.go in kind's module).
var defaultServices = netip.MustParsePrefix("10.96.0.0/16")

// kube-apiserver has room for 2^20 services, and kubeadm asks for ten
// (cmd/kubeadm/app/apis/kubeadm/validation and app/constants in Kubernetes).
const (
	widestServices   = 12
	smallestServices = 28
)

// services settles the CIDR of Kubernetes' services. A provider that builds no
// cluster has none, and takes a file that names one for another.
func (x *expansion) services() {
	const path = "spec.serviceCIDR"
	p := x.spec.ServiceCIDR
	if !p.IsValid() {
		if x.plan.Provider != "kind" || x.source.bad[path] {
			return
		}
		p = defaultServices
	}
	if x.checkServices(path, p) {
		x.plan.ServiceCIDR = p
	}
}

func (x *expansion) checkServices(path string, p netip.Prefix) bool {
	if !x.checkFamily(path, p.Addr(), true) {
		return false
	}
	switch {
	case p != p.Masked():
		x.add(path, "is %s, an address within a network; write %s", p, p.Masked())
	case special(p) != "":
		x.add(path, "is %s, which overlaps %s; choose a private one such as %s", p, special(p), defaultServices)
	case p.Bits() < widestServices || p.Bits() > smallestServices:
		x.add(path, "is a /%d; Kubernetes takes a /%d to /%d", p.Bits(), widestServices, smallestServices)
	case x.v4.network.IsValid() && x.v4.network.Overlaps(p):
		x.add(path, "is %s, which overlaps the overlay's network %s; choose one outside it", p, x.v4.network)
	default:
		return x.servicesApart(path, p)
	}
	return false
}

// servicesApart files an error where a segment overlaps the services' CIDR:
// kube-proxy would take its addresses for services'.
func (x *expansion) servicesApart(path string, p netip.Prefix) bool {
	for _, e := range x.segments {
		if s := e.spec; e.usable && s.CIDR.Overlaps(p) {
			x.add(path, "is %s, which overlaps the %s of segment %s; choose one outside it", p, s.CIDR, s.Name)
			return false
		}
	}
	return true
}
