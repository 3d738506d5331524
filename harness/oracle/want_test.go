package oracle_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/topology"
)

var update = flag.Bool("update", false, "write testdata")

// lab plans a lab that ships, or the default lab with another network.
func lab(t *testing.T, name, network string) *topology.Plan {
	t.Helper()
	spec, err := labs.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	if network != "" {
		text := "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: lab}\nspec: {network: " + network + "}\n"
		file := filepath.Join(t.TempDir(), "lab.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if spec, err = topology.Load(file); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := spec.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// What one node and one of its pods ought to have, for each backend, is what
// testdata has, written out in the syntax of the tools.
func TestWant(t *testing.T) {
	for _, c := range []struct{ name, lab, network, node, pod string }{
		{"vxlan", "000-vxlan-walk", "", "k8s-node1", "ubuntu-1"},
		{"vxlan-routed", "003-six-steps", "", "node1", "pod1"},
		{"vxlan-two-nics", "001-two-nics", "", "worker01", "web-3"},
		{"vxlan-options", "default", "{Backend: {Type: vxlan, VNI: 7, Port: 4789, GBP: true, Learning: true}}", "node-1", "pod-3"},
		{"vxlan-nftables", "default", "{EnableNFTables: true}", "node-1", "pod-3"},
		{"direct-routing", "direct-routing", "", "left-1", "pod-1"},
		{"host-gw", "host-gw", "", "node-1", "pod-3"},
		{"ipip", "default", "{Backend: {Type: ipip}}", "node-1", "pod-3"},
		{"udp", "default", "{Backend: {Type: udp}}", "node-1", "pod-3"},
		{"wireguard", "wireguard", "", "node-1", "pod-3"},
		{"wireguard-options", "default", "{Backend: {Type: wireguard, ListenPort: 7, PSK: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=, PersistentKeepaliveInterval: 25}}", "node-1", "pod-3"},
		{"ipsec", "ipsec", "", "node-1", "pod-3"},
		{"alloc", "default", "{Backend: {Type: alloc}}", "node-1", "pod-3"},
		{"extension", "extension", "", "node-1", "pod-3"},
		{"by-hand", "by-hand", "", "by-hand", "pod-3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			plan := lab(t, c.lab, c.network)
			var b strings.Builder
			want := oracle.Want(plan, leases(plan))
			for _, space := range []string{c.node, c.pod} {
				b.WriteString(space + "\n")
				for _, f := range want[space] {
					line := "  " + f.Kind.Tool() + ": " + f.String()
					if f.Optional {
						line += " (if it is there)"
					}
					if f.Purpose != "" {
						line += " # " + f.Purpose
					}
					b.WriteString(line + "\n")
				}
			}
			golden(t, filepath.Join("testdata", c.name+".golden"), b.String())
		})
	}
}

// A dual-stack node has the entries of both families, each on its own device.
func TestWantDualStack(t *testing.T) {
	want := oracle.Want(lab(t, "default", "{EnableIPv6: true}"), nil)
	for space, lines := range map[string][]string{
		"node-1": {
			"ip addr: fd00:10:244:1::1/64 dev cni0",
			"ip addr: fd00:10:244:1::/128 dev flannel-v6.1",
			"ip neigh: fd00:10:244:2:: dev flannel-v6.1 lladdr ? PERMANENT",
			"bridge fdb: ? dev flannel-v6.1 dst fd00:172:16:1::3 self permanent",
			"ip route: fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink",
			"ip route: 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
			"sysctl: net.ipv6.conf.all.forwarding = 1",
			"cat /run/flannel/subnet.env: FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64",
		},
		"pod-3": {
			"ip addr: fd00:10:244:1::2/64 dev eth0",
			"ip route: default via fd00:10:244:1::1 dev eth0",
			"ip route: fd00:10:244::/48 via fd00:10:244:1::1 dev eth0",
			"ip route: 10.244.0.0/16 via 10.244.1.1 dev eth0",
		},
	} {
		have := map[string]bool{}
		for _, f := range want[space] {
			have[f.Kind.Tool()+": "+f.String()] = true
		}
		for _, line := range lines {
			if !have[line] {
				t.Errorf("%s has no %s", space, line)
			}
		}
	}
}

// leases are those of a lab whose first agent has chosen a MAC and whose others
// have none yet, and of which the first two have keys.
func leases(p *topology.Plan) []lease.Lease {
	n := p.Nodes[0]
	all := []lease.Lease{{
		Subnet: n.PodCIDR.Masked(), PublicIP: n.PublicIP(), BackendType: p.Network.Backend.Type,
		VtepMAC: topology.MAC{2, 0, 0, 0, 0, 0x11},
	}}
	switch p.Network.Backend.Type {
	case "wireguard":
		all[0].PublicKey, all[0].Port = "bWFzdGVyJ3MgcHVibGljIGtleTogMzIgYnl0ZXM6IDE=", 51999
		all = append(all, lease.Lease{Subnet: p.Nodes[1].PodCIDR.Masked(), PublicKey: "bm9kZS0xJ3MgcHVibGljIGtleTogMzIgYnl0ZXM6IDE="})
	case "ipsec":
		all[0].Nonce = "kGBjR23tvmDVnxTuKMfyx+I+PUsPvOps43jnS5Gb7YE="
		all = append(all, lease.Lease{Subnet: p.Nodes[1].PodCIDR.Masked(), Nonce: "tYyHWMZUFwWwvcs90NZeXe1ULuuqO8G+Pp/MyhPiK2s="})
	}
	return all
}

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test ./harness/oracle -update writes it anew) is\n%s\nwant\n%s", file, got, want)
	}
}
