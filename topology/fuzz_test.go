package topology

import (
	"errors"
	"net/netip"
	"testing"
)

// FuzzParse holds the loader to its word: it never panics, its errors are
// Errors with a message, and what it accepts expands to a sound plan.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "{}", "a: [", "\t", "a: &a [*a]", "--- {}\n--- {}", "<<: 1", "? {}", "!!int x: 1", "a: !!binary aaaa",
		"{apiVersion: overlab/v1alpha1, kind: Lab, spec: {}}",
		header + twoRouters,
		header + "  network: {EnableIPv6: true}\n",
		header + "  network: {EnableIPv6: true, IPv6Network: fd00::/60, SubnetMin: 10.244.5.0, SubnetMax: 10.244.200.0}\n",
		header + "  network: {Network: 10.10.0.0/28, Backend: {Type: host-gw}}\n  podsPerNode: 1\n  ipv6: link-local\n",
		header + "  underlay: [{name: n, cidr: 10.0.2.0/31, perNode: true, gateway: 10.0.2.1}, {name: p, cidr: 10.0.3.0/29}]\n  nodes: [{name: a, count: 3, interfaces: [{segment: n}, {segment: p, mtu: 9000}]}]\n  agent: {iface: eth1, ifaceRegex: '^10', publicIP: 10.0.3.1}\n",
		header + "  nodes: [&n {name: a, podCIDR: 10.244.3.0/24, vtepMAC: '02:00:00:00:00:09', routes: [{dst: 0.0.0.0/0, via: 172.16.1.77}]}, {<<: *n, name: b, podCIDR: 10.244.4.0/24, vtepMAC: null}]\n",
		header + "  pods: [{name: p, node: node-1, address: 10.244.1.96, hostInterface: veth0}, {name: q, node: master}]\n  podsPerNode: 3\n",
		header + "  runtime: containerd\n  image: busybox\n  pods: [{name: p, node: master, image: file:/a.tar, command: [sh]}]\n",
		header + "  store: {node: node-2, port: 4001, prefix: /a}\n  provider: kind\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse("lab.yaml", data)
		if err != nil {
			var all Errors
			if !errors.As(err, &all) || len(all) == 0 || err.Error() == "" {
				t.Fatalf("%T %v", err, err)
			}
			for _, e := range all {
				if e.Line < 1 || e.Column < 1 || e.Msg == "" {
					t.Fatalf("%+v", e)
				}
			}
			return
		}
		p, err := s.Plan()
		if err != nil {
			t.Fatalf("accepted, then refused: %v", err)
		}
		checkPlan(t, p)
	})
}

// checkPlan checks what must be true of every plan.
func checkPlan(t *testing.T, p *Plan) {
	t.Helper()
	names := map[string]bool{}
	name := func(n string) {
		if names[n] || !dnsLabel.MatchString(n) || len(n) > 63 {
			t.Errorf("name %q", n)
		}
		names[n] = true
	}
	segments := map[string]Segment{}
	underlay := map[string]bool{} // interface names of the underlay's namespace
	for _, s := range p.Segments {
		segments[s.Name] = s
		if underlay[s.Bridge] || len(s.Bridge) > 15 || p.Network.Network.Overlaps(s.CIDR) {
			t.Errorf("segment %+v", s)
		}
		underlay[s.Bridge] = true
	}
	type key struct {
		segment string
		what    any
	}
	taken := map[key]bool{}
	once := func(segment string, what any) {
		if taken[key{segment, what}] {
			t.Errorf("%v twice on %s", what, segment)
		}
		taken[key{segment, what}] = true
	}
	interfaces := func(machine string, all []Interface) map[string]bool {
		own := map[string]bool{"lo": true, "cni0": true}
		for _, i := range all {
			s, ok := segments[i.Segment]
			if !ok || own[i.Name] || underlay[i.Port] || len(i.Name) > 15 || len(i.Port) > 15 || !i.MAC.IsUnicast() ||
				i.MTU < 576 || i.MTU > 65535 || i.Address.Bits() != s.CIDR.Bits() || !isHost(s.CIDR, i.Address.Addr()) {
				t.Errorf("interface of %s: %+v", machine, i)
			}
			if s.CIDR6.IsValid() && !isHost(s.CIDR6, i.Address6.Addr()) {
				t.Errorf("interface of %s: %+v", machine, i)
			}
			own[i.Name], underlay[i.Port] = true, true
			once(i.Segment, i.Address)
			once(i.Segment, i.MAC)
			if i.Address6.IsValid() {
				once(i.Segment, i.Address6)
			}
		}
		return own
	}
	for _, r := range p.Routers {
		name(r.Name)
		interfaces(r.Name, r.Interfaces)
	}
	podCIDRs := map[netip.Prefix]bool{}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		name(n.Name)
		own := interfaces(n.Name, n.Interfaces)
		c := p.Network
		if podCIDRs[n.PodCIDR] || n.PodCIDR.Bits() != c.SubnetLen || !c.Network.Contains(n.PodCIDR.Addr()) || n.PodCIDR != n.PodCIDR.Masked() ||
			n.PodCIDR.Addr().Less(c.SubnetMin) || c.SubnetMax.Less(n.PodCIDR.Addr()) {
			t.Errorf("%s has %s of %+v", n.Name, n.PodCIDR, c)
		}
		podCIDRs[n.PodCIDR] = true
		if c.EnableIPv6 != n.PodCIDR6.IsValid() || n.Underlay() == nil || !n.PublicIP().Is4() || p.OverlayMTU(n) < 400 {
			t.Errorf("node %+v", n)
		}
		once("cni0 of "+n.Name, n.BridgeMAC)
		for _, r := range n.Routes {
			if !r.Via.IsValid() || n.Interface(r.Dev) == nil {
				t.Errorf("route %+v of %s", r, n.Name)
			}
		}
		for _, x := range p.PodsOn(n.Name) {
			if own[x.HostInterface] || len(x.HostInterface) > 15 {
				t.Errorf("pod %+v", x)
			}
			own[x.HostInterface] = true
		}
	}
	for _, x := range p.Pods {
		name(x.Name)
		n := p.Node(x.Node)
		if n == nil || x.Address.Bits() != n.PodCIDR.Bits() || !isHost(n.PodCIDR, x.Address.Addr()) || x.Address == n.Gateway() || len(x.ContainerID) != 64 || len(x.SandboxID) != 64 {
			t.Errorf("pod %+v", x)
		}
		once("overlay", x.Address)
		once("cni0 of "+x.Node, x.MAC)
		if p.Network.EnableIPv6 && !isHost(n.PodCIDR6, x.Address6.Addr()) {
			t.Errorf("pod %+v", x)
		}
	}
	if p.Node(p.Store.Node) == nil {
		t.Errorf("store on %q", p.Store.Node)
	}
}
