package topology

import "testing"

// TestOver6: what is IPv6's stands in IPv4's place, and the plan itself stays.
func TestOver6(t *testing.T) {
	p := plan(t, "  network: {EnableIPv6: true}\n")
	v := p.Over6()
	n := v.Node("node-1")
	for what, c := range map[string][2]string{
		"network": {v.Network.Network.String(), "fd00:10:244::/48"},
		"subnet":  {n.PodCIDR.String(), "fd00:10:244:1::/64"},
		"gateway": {n.Gateway().String(), "fd00:10:244:1::1/64"},
		"public":  {n.PublicIP().String(), "fd00:172:16:1::2"},
		"segment": {v.Segments[0].CIDR.String(), "fd00:172:16:1::/64"},
		"pod":     {v.PodsOn("node-1")[0].Address.String(), p.PodsOn("node-1")[0].Address6.String()},
		"before":  {p.Node("node-1").Gateway().String(), "10.244.1.1/24"},
		"NIC":     {p.Node("node-1").Underlay().Address.String(), "172.16.1.2/24"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %s, want %s", what, c[0], c[1])
		}
	}
	if !v.Is6() || p.Is6() || v.OverlayMTU(n) != 1430 || p.OverlayMTU(p.Node("node-1")) != 1430 {
		t.Errorf("IPv6 %t and %t, MTU %d", v.Is6(), p.Is6(), v.OverlayMTU(n))
	}
}
