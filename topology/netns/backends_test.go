package netns

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/nstest"
)

// TestBackendsThatCannotBe: a lab that could not come up is refused, and why.
func TestBackendsThatCannotBe(t *testing.T) {
	p := &Provider{Programs: map[string]string{"overlabd": os.Args[0]}}
	psk := strings.Repeat("secret", 16)
	const segments = "  underlay: [{name: left, cidr: 10.1.0.0/24}, {name: right, cidr: 10.2.0.0/24}]\n" +
		"  routers: [{name: r, interfaces: [{segment: left}, {segment: right}]}]\n" +
		"  nodes: [{name: a, interfaces: [{segment: left}]}, {name: b, interfaces: [{segment: right}]}]\n"
	for spec, want := range map[string]string{
		"  network: {Backend: {Type: host-gw}}\n":                               "",
		"  network: {Backend: {Type: alloc}}\n":                                 "",
		"  network: {Backend: {Type: vxlan, DirectRouting: true}}\n" + segments: "",
		"  network: {Backend: {Type: host-gw}}\n" + segments:                    "host-gw crosses no router, and the agents of a and b are on the segments left and right",
		"  network: {Backend: {Type: host-gw}}\n  agent: {iface: eth0}\n  nodes: [{name: a, agent: {publicIP: 192.0.2.1}}, {name: b}]\n":                 "a would publish 192.0.2.1 in place of 172.16.1.1",
		"  network: {Backend: {Type: ipsec, PSK: " + psk + "}}\n":                                                                                        "",
		"  network: {Backend: {Type: ipsec, UDPEncap: true, PSK: " + psk + "}}\n":                                                                        "holds a socket",
		"  network: {Backend: {Type: ipsec, PSK: " + psk + "}}\n  agent: {iface: eth0}\n  nodes: [{name: a, agent: {publicIP: 192.0.2.1}}, {name: b}]\n": "ESP passes no address translation",
		"  network: {Backend: {Type: wireguard, Mode: ipv6}}\n":                                                                                          "spec.network.Backend.Mode: ipv6 asks for tunnels over IPv6",
		"  network: {Backend: {Type: wireguard, Mode: auto}}\n":                                                                                          "",
	} {
		err := p.Check(context.Background(), planOf(t, "spec:\n"+spec))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, not %q", spec, err, want)
		}
	}
}

// TestKernelWithoutESP: what only ipsec needs is probed, and named where the
// kernel lacks it.
func TestKernelWithoutESP(t *testing.T) {
	labFolders(t)
	err := probeKinds(linkKinds("ipsec"))
	if err == nil {
		t.Skip("SKIPPED, NOT TESTED: this kernel encrypts ESP packets")
	}
	for _, want := range []string{"encrypts no ESP packets with AES-GCM", "sudo modprobe esp4", "CONFIG_INET_ESP"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no %q", err, want)
		}
	}
}

// TestMeshOfRoutes: one route to the whole overlay is one to every peer, and
// alloc awaits none.
func TestMeshOfRoutes(t *testing.T) {
	networks := []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00::/48")}
	w := &meshWatch{networks: networks, missing: map[netip.Prefix]bool{
		netip.MustParsePrefix("10.244.1.0/24"): true, netip.MustParsePrefix("10.244.2.0/24"): true, netip.MustParsePrefix("fd00:0:0:1::/64"): true,
	}}
	for _, step := range []struct {
		dst  string
		left int
	}{{"10.244.7.0/24", 3}, {"10.0.0.0/8", 3}, {"10.244.1.0/24", 2}, {"10.244.0.0/16", 1}, {"fd00:0:0:1::/64", 0}} {
		w.noteRoute(netip.MustParsePrefix(step.dst))
		if len(w.missing) != step.left {
			t.Errorf("after a route to %s, %d are missing", step.dst, len(w.missing))
		}
	}
}

// TestMeshNeedsCarriers: routes are not enough, as a device without a carrier
// drops what it is given.
//
//	veth1 --- veth2, down at first
func TestMeshNeedsCarriers(t *testing.T) {
	set := nstest.New(t)
	inside := func(do func() error) {
		t.Helper()
		if err := set.Do(do); err != nil {
			t.Fatal(err)
		}
	}
	inside(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "veth1"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "veth2"}); err != nil {
			return err
		}
		l, err := netlink.LinkByName("veth1")
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			return err
		}
		_, dst, _ := net.ParseCIDR("10.244.1.0/24")
		return netlink.RouteAdd(&netlink.Route{Dst: dst, LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK})
	})
	p := planOf(t, "spec: {nodes: [{name: a}, {name: b}]}\n")
	wait := func(limit time.Duration) error {
		m, err := watchMesh(p, &p.Nodes[0], &space{set: set})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return m.wait(ctx)
	}
	if err := wait(100 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "the device of the route to 10.244.1.0/24 has no carrier") {
		t.Errorf("with a device that has no carrier: %v", err)
	}
	inside(func() error {
		l, err := netlink.LinkByName("veth2")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	})
	if err := wait(30 * time.Second); err != nil {
		t.Error(err)
	}
}
