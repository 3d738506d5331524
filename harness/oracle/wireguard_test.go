package oracle

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/topology"
)

// A WireGuard device whose peers are as the leases say differs in nothing, and
// what does is told in the words of wg(8).
func TestWireGuardPeers(t *testing.T) {
	c, node, device := wireguardNode(t)
	for _, x := range []struct {
		name   string
		change func()
		want   string
		mend   string
	}{
		{"sound", func() {}, "", ""},
		{"a peer is missing", func() { device.Peers = device.Peers[1:] },
			"- wg: flannel-wg peer " + key0 + " endpoint 172.16.1.1:51820 allowed-ips 10.244.0.0/24",
			"wg set flannel-wg peer " + key0 + " endpoint 172.16.1.1:51820 allowed-ips 10.244.0.0/24"},
		{"other addresses are allowed", func() { device.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.244.7.0/24")} },
			"~ wg: flannel-wg peer " + key0 + " endpoint 172.16.1.1:51820 allowed-ips 10.244.7.0/24; allowed-ips is 10.244.7.0/24, and ought to be 10.244.0.0/24",
			"wg set flannel-wg peer " + key0 + " allowed-ips 10.244.0.0/24"},
		{"another endpoint", func() { device.Peers[0].Endpoint = netip.MustParseAddrPort("172.16.1.99:51820") },
			"~ wg: flannel-wg peer " + key0 + " endpoint 172.16.1.99:51820 allowed-ips 10.244.0.0/24; endpoint is 172.16.1.99:51820, and ought to be 172.16.1.1:51820",
			"wg set flannel-wg peer " + key0 + " endpoint 172.16.1.1:51820"},
		{"a key of another in its place", func() { device.Peers[0].PublicKey = "other" },
			"~ wg: flannel-wg peer other endpoint 172.16.1.1:51820 allowed-ips 10.244.0.0/24; peer is other, and ought to be " + key0, ""},
		{"a pre-shared key", func() { device.Peers[0].PresharedKey = "sha256:0" },
			"~ wg: flannel-wg peer " + key0 + " endpoint 172.16.1.1:51820 allowed-ips 10.244.0.0/24 preshared-key sha256:0; preshared-key is sha256:0, and ought not to be there", ""},
		{"a peer too many", func() { device.Peers = append(device.Peers, peerOf("other", "10.9.0.0/24")) },
			"+ wg: flannel-wg peer other allowed-ips 10.9.0.0/24", "wg set flannel-wg peer other remove"},
		{"another port", func() { device.ListenPort = 7 },
			"~ wg: flannel-wg public-key " + key1 + " listen-port 7; listen-port is 7, and ought to be 51820", "wg set flannel-wg listen-port 51820"},
		{"a mark", func() { device.FirewallMark = 51 },
			"~ wg: flannel-wg public-key " + key1 + " listen-port 51820 fwmark 0x33; fwmark is 0x33, and ought not to be there", "wg set flannel-wg fwmark 0"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c, node, device = wireguardNode(t)
			x.change()
			entries := Compare(c.wireguardPeers(c.families()[0], node), foundWireGuard(device), func(f Fact) bool { return c.owned("node-1", f) })
			if x.want == "" {
				if len(entries) != 0 {
					t.Errorf("it differs: %v", entries)
				}
				return
			}
			if len(entries) != 1 || entries[0].String() != x.want || entries[0].Mend != x.mend {
				t.Errorf("it is told as %v, mended by %q; want\n%s\n%s", entries, entries[0].Mend, x.want, x.mend)
			}
		})
	}
}

const key0, key1, key2 = "bWFzdGVyJ3MgcHVibGljIGtleTogMzIgYnl0ZXM6IDE=", "bm9kZS0xJ3MgcHVibGljIGtleTogMzIgYnl0ZXM6IDE=", "bm9kZS0yJ3MgcHVibGljIGtleTogMzIgYnl0ZXM6IDE="

// wireguardNode is node-1 of the lab wireguard and its device, whose peers have
// met.
func wireguardNode(t *testing.T) (*cluster, *topology.Node, *probe.WireGuard) {
	t.Helper()
	spec, err := labs.Load("wireguard")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := spec.Plan()
	if err != nil {
		t.Fatal(err)
	}
	var leases []lease.Lease
	for i, k := range []string{key0, key1, key2} {
		leases = append(leases, lease.Lease{Subnet: plan.Nodes[i].PodCIDR.Masked(), PublicKey: k, Port: 51820})
	}
	device := &probe.WireGuard{Dev: "flannel-wg", PublicKey: key1, ListenPort: 51820}
	for i, k := range []string{key0, "", key2} {
		if k != "" {
			p := peerOf(k, plan.Nodes[i].PodCIDR.Masked().String())
			p.Endpoint = netip.AddrPortFrom(plan.Nodes[i].PublicIP(), 51820)
			device.Peers = append(device.Peers, p)
		}
	}
	return newCluster(plan, leases, nil), plan.Node("node-1"), device
}

func peerOf(key, allowed string) probe.WireGuardPeer {
	return probe.WireGuardPeer{PublicKey: key, AllowedIPs: []netip.Prefix{netip.MustParsePrefix(allowed)}}
}

// Two labs whose agents made different keys have the same state.
func TestWireGuardState(t *testing.T) {
	told := func(keys ...string) []string {
		c, _, device := wireguardNode(t)
		var leases []lease.Lease
		for i, k := range keys {
			leases = append(leases, lease.Lease{Subnet: c.plan.Nodes[i].PodCIDR.Masked(), PublicKey: k, Port: 51820})
		}
		device.PublicKey, device.Peers[0].PublicKey, device.Peers[1].PublicKey = keys[1], keys[0], keys[2]
		r := &Reading{
			Leases: leases, States: map[string]*probe.State{"node-1": {Namespace: "node-1"}},
			WireGuard: map[string][]*probe.WireGuard{"node-1": {device}},
		}
		var out []string
		for _, line := range Normal(c.plan, r, []string{"node-1"}).Spaces[0].Entries {
			if strings.HasPrefix(line, "wg: ") {
				out = append(out, line)
			}
		}
		return out
	}
	a, b := told(key0, key1, key2), told("a+b/c=", "d/e+f=", "g=")
	want := []string{
		"wg: flannel-wg peer {master key} endpoint {master lan}:51820 allowed-ips {master pods}/24",
		"wg: flannel-wg peer {node-2 key} endpoint {node-2 lan}:51820 allowed-ips {node-2 pods}/24",
		"wg: flannel-wg public-key {node-1 key} listen-port 51820",
	}
	if !slices.Equal(a, want) || !slices.Equal(b, want) {
		t.Errorf("one has\n%s\nthe other\n%s\nwant\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"), strings.Join(want, "\n"))
	}
}
