package kube

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/agent/lease"
)

// podSubnets returns a node's podCIDRs, of each family the first; unset where
// it has none.
func podSubnets(n *corev1.Node) (lease.Key, error) {
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	var k lease.Key
	for _, c := range cidrs {
		p, err := netip.ParsePrefix(c)
		if err != nil {
			return lease.Key{}, fmt.Errorf("podCIDR %q of node %s is not a subnet", c, n.Name)
		}
		family := &k.Subnet
		if p.Addr().Is6() {
			family = &k.Subnet6
		}
		if !family.IsValid() {
			*family = p.Masked()
		}
	}
	return k, nil
}

// enabled leaves out what the configuration does not enable.
func enabled(k lease.Key, c *lease.Config) lease.Key {
	if c == nil || !c.EnableIPv4 {
		k.Subnet = netip.Prefix{}
	}
	if c == nil || !c.EnableIPv6 {
		k.Subnet6 = netip.Prefix{}
	}
	return k
}

// assigned returns the subnets that this node has. Its error says what is
// missing, or what does not fit the network's configuration.
func assigned(n *corev1.Node, c *lease.Config) (lease.Key, error) {
	all, err := podSubnets(n)
	if err != nil {
		return lease.Key{}, err
	}
	if all == (lease.Key{}) {
		return all, fmt.Errorf("node %s has no podCIDR yet: kube-controller-manager assigns it, with --allocate-node-cidrs and --cluster-cidr", n.Name)
	}
	for _, f := range []struct {
		name     string
		enabled  bool
		pod, net netip.Prefix
		key      string
	}{
		{"IPv4", c.EnableIPv4, all.Subnet, c.Network, "Network"},
		{"IPv6", c.EnableIPv6, all.Subnet6, c.IPv6Network, "IPv6Network"},
	} {
		switch {
		case !f.enabled:
		case !f.pod.IsValid():
			return lease.Key{}, fmt.Errorf("node %s has no %s podCIDR (it has %s), and the network configuration enables %s",
				n.Name, f.name, strings.Join(n.Spec.PodCIDRs, ", "), f.name)
		case f.pod.Bits() < f.net.Bits() || !f.net.Contains(f.pod.Addr()):
			return lease.Key{}, fmt.Errorf("podCIDR %s of node %s is outside the %s %s: net-conf.json must name kube-controller-manager's --cluster-cidr",
				f.pod, n.Name, f.key, f.net)
		}
	}
	return enabled(all, c), nil
}

// revision reads a resource version. Those of one kind of object can be
// compared (Kubernetes 1.35, KEP-5504): they are etcd's revisions.
func revision(version string) (int64, error) {
	r, err := strconv.ParseInt(version, 10, 64)
	if err != nil || r <= 0 {
		return 0, fmt.Errorf("the API's resource version %q is not a number", version)
	}
	return r, nil
}
