package cni

import (
	"bytes"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
)

const stockEnv = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.85.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"

// FuzzConfig: a network configuration and a subnet file are refused, or make a
// record that reads as what was made, and gateways within their subnets.
func FuzzConfig(f *testing.F) {
	for _, s := range []string{
		stock, `{}`, `{"name":"n","delegate":{"mtu":1300}}`, `{"name":"n","legacyRecords":true}`,
		`{"name":"cbr0","ipam":{"routes":[{"dst":"192.168.0.0/24","gw":"10.1.1.9"}],"dataDir":"/x"},"runtimeConfig":{"mac":"0a:00:00:00:00:01","ips":["10.5.85.9"]}}`,
		`{"name":"n","delegate":{"mtu":1e9}}`, `{"name":"n","ipam":{"ranges":[[{"subnet":"10.9.0.0/16"}]]}}`,
		`{"name":"n","runtimeConfig":{"ips":["fd00::1/64","x"]}}`, `{"name":"n","ipam":{"routes":null}}`,
	} {
		f.Add([]byte(s), stockEnv)
	}
	f.Add([]byte(stock), "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_IPV6_SUBNET=fd00:0:0:1::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n")
	f.Add([]byte(stock), "FLANNEL_NETWORK=10.5.0.0/16,10.6.0.0/16\nFLANNEL_SUBNET=10.5.85.1/31\nFLANNEL_MTU=-1\nFLANNEL_IPMASQ=\n")
	file := filepath.Join(f.TempDir(), "subnet.env")
	f.Fuzz(func(t *testing.T, conf []byte, env string) {
		c, err := ParseConfig(conf)
		if err != nil {
			return
		}
		c.SubnetFile = file
		if err := os.WriteFile(file, []byte(env), 0o600); err != nil {
			t.Fatal(err)
		}
		n, err := c.resolve()
		if err != nil {
			return
		}
		again, err := parseDelegate(n.record)
		if err != nil {
			t.Fatalf("the record %s cannot be read: %v", n.record, err)
		}
		if err := again.bridge.refuse(); err != nil {
			t.Errorf("the record %s is refused: %v", n.record, err)
		}
		if second, err := c.resolve(); err != nil || !bytes.Equal(second.record, n.record) {
			t.Errorf("%s makes %s, and then %s (%v)", conf, n.record, second.record, err)
		}
		for i, g := range n.gateways() {
			if subnet := prefix(netOf(n, i)); !g.IsValid() || !subnet.Contains(g.Addr()) || g.Bits() != subnet.Bits() {
				t.Errorf("%s, %q: gateway %s of %s", conf, env, g, subnet)
			}
		}
		w, err := n.wishes("")
		if err != nil {
			return
		}
		if len(w.mac) != 0 && len(w.mac) != 6 {
			t.Errorf("%s: MAC %s", conf, w.mac)
		}
		var ips []podIP
		for _, g := range n.gateways() {
			ips = append(ips, podIP{address: g, gateway: g.Addr()})
		}
		seen := map[string]bool{}
		for _, r := range n.routes(ips) {
			if !r.dst.IsValid() {
				t.Errorf("%s: route %s", conf, r)
			}
			seen[r.dst.String()] = true
		}
		for _, g := range n.gateways() {
			if n.bridge.IsDefaultGateway && !g.Addr().Is6() && !seen["0.0.0.0/0"] {
				t.Errorf("%s: no default route", conf)
			}
		}
	})
}

// FuzzRecord: a record of whatever content is read or refused, and what is read
// can be written and read again.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{
		`{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.5.85.0/24"}]],"routes":[{"dst":"10.5.0.0/16"}],"type":"host-local"},"isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}`,
		`{"hairpinMode":true,"ipMasq":false,"ipam":{"routes":[{"dst":"10.244.0.0/16"}],"subnet":"10.244.1.0/24","type":"host-local"},"isDefaultGateway":true,"mtu":1400,"name":"cbr0","type":"bridge"}`,
		`{"name":"n","ipam":{"type":"host-local","ranges":[[{"subnet":"fd00::/64","rangeStart":"fd00::5","gateway":"fd00::1"}]]}}`,
		`{"name":"n","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/30"},{"subnet":"10.0.1.0/30"}]]}}`, `{}`, `{"ipam":{}}`,
		`{"ipam":{"ranges":[[]],"type":"host-local"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		n, err := parseDelegate(record)
		if err != nil {
			return
		}
		for _, g := range n.gateways() {
			_ = g.String()
		}
		_ = n.routes(nil)
		if _, err := n.wishes("IgnoreUnknown=1;K8S_POD_NAME=x"); err != nil {
			return
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, record); err != nil {
			t.Fatalf("%s was read, and is no JSON: %v", record, err)
		}
		if again, err := parseDelegate(compact.Bytes()); err != nil || len(again.ipam.Ranges) != len(n.ipam.Ranges) {
			t.Errorf("%s reads otherwise without its spaces: %v", record, err)
		}
	})
}

func netOf(n *network, i int) net.IPNet { return net.IPNet(n.ipam.Ranges[i][0].Subnet) }
