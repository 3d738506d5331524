package hostgw

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

var eth0 = backend.Underlay{
	Name: "eth0", MTU: 1500, Address: netip.MustParseAddr("172.16.1.1"), PublicIP: netip.MustParseAddr("172.16.1.1"),
	Adjacent: netip.MustParsePrefix("172.16.1.0/24").Contains,
}

func newBackend(t *testing.T, u backend.Underlay) (backend.Backend, error) {
	t.Helper()
	c, err := lease.ParseConfig([]byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return New(c, u)
}

func TestNew(t *testing.T) {
	b, err := newBackend(t, eth0)
	if err != nil {
		t.Fatal(err)
	}
	if b.Type() != "host-gw" || b.MTU() != 1500 || b.Data() != nil || len(b.Device().Links) != 0 {
		t.Errorf("%s, MTU %d, data %s, device %v", b.Type(), b.MTU(), b.Data(), b.Device())
	}
	nat := eth0
	nat.PublicIP = netip.MustParseAddr("192.0.2.1")
	if _, err := newBackend(t, nat); err == nil || !strings.Contains(err.Error(), "192.0.2.1 is not 172.16.1.1") {
		t.Errorf("a public IP that is no next hop: %v", err)
	}
}

func TestDesired(t *testing.T) {
	b, err := newBackend(t, eth0)
	if err != nil {
		t.Fatal(err)
	}
	peer := func(key, ip, kind string) lease.Lease {
		k, err := lease.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		l := lease.Lease{Key: k, Attrs: lease.Attrs{BackendType: kind}}
		if ip != "" {
			l.Attrs.PublicIP = netip.MustParseAddr(ip)
		}
		return l
	}
	own := peer("10.244.1.0-24", "172.16.1.1", Type)
	want, problems := b.Desired(own, []lease.Lease{
		own,
		peer("10.244.2.0-24", "172.16.1.2", Type),
		peer("10.244.3.0-24", "172.16.2.3", Type),
		peer("10.244.4.0-24", "172.16.1.1", Type),
		peer("10.244.5.0-24", "", Type),
		peer("10.244.6.0-24", "172.16.1.6", "vxlan"),
		peer("10.244.7.0-24", "172.16.1.7", ""),
		peer("10.244.8.0-25", "172.16.1.8", Type),
		peer("10.99.0.0-24", "172.16.1.9", Type),
		peer("0.0.0.0-0&fd00::-64", "172.16.1.12", Type),
	})
	var got []string
	for _, c := range datapath.Diff(want, datapath.NewState()) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{
		"ip route replace 10.244.2.0/24 via 172.16.1.2 dev eth0",
		"ip route replace 10.244.3.0/24 via 172.16.2.3 dev eth0",
	}, got); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{
		"lease 10.244.4.0-24: its PublicIP 172.16.1.1 is this node's own",
		"lease 10.244.5.0-24: it has no PublicIP",
		"lease 10.244.6.0-24: it is of the backend vxlan, not host-gw",
		"lease 10.99.0.0-24: its subnet is not a /24 of 10.244.0.0/16",
		"lease 10.244.8.0-25: its subnet is not a /24 of 10.244.0.0/16",
		"lease 10.244.3.0-24: its PublicIP 172.16.2.3 is not on the segment of eth0, and host-gw crosses no router",
	}, problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
}
