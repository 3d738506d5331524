package netns

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// TestBackendsThatCannotBe: a lab that could not come up is refused, and why.
func TestBackendsThatCannotBe(t *testing.T) {
	p := &Provider{Programs: map[string]string{"overlabd": os.Args[0]}}
	const segments = "  underlay: [{name: left, cidr: 10.1.0.0/24}, {name: right, cidr: 10.2.0.0/24}]\n" +
		"  routers: [{name: r, interfaces: [{segment: left}, {segment: right}]}]\n" +
		"  nodes: [{name: a, interfaces: [{segment: left}]}, {name: b, interfaces: [{segment: right}]}]\n"
	for spec, want := range map[string]string{
		"  network: {Backend: {Type: host-gw}}\n":                               "",
		"  network: {Backend: {Type: alloc}}\n":                                 "",
		"  network: {Backend: {Type: vxlan, DirectRouting: true}}\n" + segments: "",
		"  network: {Backend: {Type: host-gw}}\n" + segments:                    "host-gw crosses no router, and the agents of a and b are on the segments left and right",
		"  network: {Backend: {Type: host-gw}}\n  agent: {iface: eth0}\n  nodes: [{name: a, agent: {publicIP: 192.0.2.1}}, {name: b}]\n": "a would publish 192.0.2.1 in place of 172.16.1.1",
		"  network: {Backend: {Type: ipsec}}\n":                 "backend ipsec is not in this build, which has alloc, extension, host-gw, ipip, udp, vxlan, wireguard",
		"  network: {Backend: {Type: wireguard, Mode: ipv6}}\n": "spec.network.Backend.Mode: ipv6 asks for tunnels over IPv6",
		"  network: {Backend: {Type: wireguard, Mode: auto}}\n": "",
	} {
		err := p.Check(context.Background(), planOf(t, "spec:\n"+spec))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, not %q", spec, err, want)
		}
	}
}

// TestMeshOfRoutes: one route to the whole overlay is one to every peer, and
// alloc awaits none.
func TestMeshOfRoutes(t *testing.T) {
	network := netip.MustParsePrefix("10.244.0.0/16")
	w := &meshWatch{network: network, missing: map[netip.Prefix]bool{
		netip.MustParsePrefix("10.244.1.0/24"): true, netip.MustParsePrefix("10.244.2.0/24"): true,
	}}
	for _, step := range []struct {
		dst  string
		left int
	}{{"10.244.7.0/24", 2}, {"10.0.0.0/8", 2}, {"10.244.1.0/24", 1}, {"10.244.0.0/16", 0}} {
		w.noteRoute(netip.MustParsePrefix(step.dst))
		if len(w.missing) != step.left {
			t.Errorf("after a route to %s, %d are missing", step.dst, len(w.missing))
		}
	}
}
