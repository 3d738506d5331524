package vxlan

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

func dualBackend(t *testing.T, object string, mtu int) (backend.Backend, error) {
	t.Helper()
	c, err := lease.ParseConfig([]byte(`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":` + object + `}`))
	if err != nil {
		t.Fatal(err)
	}
	u := eth0
	u.MTU, u.Address6, u.PublicIPv6 = mtu, netip.MustParseAddr("fd00:172::1"), netip.MustParseAddr("fd00:172::1")
	return New(c, u)
}

// TestDualDevices: one MTU for both, that of the larger header.
func TestDualDevices(t *testing.T) {
	b, err := dualBackend(t, `{"Type":"vxlan","VNI":42}`, 1500)
	if err != nil {
		t.Fatal(err)
	}
	have := datapath.NewState()
	have.Links.Add(datapath.Link{Name: "flannel.42", MAC: datapath.MAC{2, 0, 0, 0, 4, 1}}, datapath.Link{Name: "flannel-v6.42", MAC: datapath.MAC{2, 0, 0, 0, 6, 1}})
	b.Adopt(have)
	var got []string
	for _, c := range datapath.Diff(b.Device(), datapath.NewState()) {
		got = append(got, c.String())
	}
	want := "ip link add flannel-v6.42 address 02:00:00:00:06:01 mtu 1430 up type vxlan id 42 local fd00:172::1 dev eth0 dstport 8472 nolearning\n" +
		"ip link add flannel.42 address 02:00:00:00:04:01 mtu 1430 up type vxlan id 42 local 172.16.1.1 dev eth0 dstport 8472 nolearning"
	if d := cmp.Diff(want, strings.Join(got, "\n")); d != "" || b.MTU() != 1430 {
		t.Errorf("MTU %d (-want +got):\n%s", b.MTU(), d)
	}
	if v4, v6 := string(b.Data()), string(b.(backend.DataV6).DataV6()); v4 != `{"VNI":42,"VtepMAC":"02:00:00:00:04:01"}` || v6 != `{"VNI":42,"VtepMAC":"02:00:00:00:06:01"}` {
		t.Errorf("the lease's data are %s and %s", v4, v6)
	}
	for object, want := range map[string]string{
		`{"Type":"vxlan","VNI":10000}`: "the device's name flannel-v6.10000 would be longer than 15 characters",
		`{"Type":"vxlan","MTU":1349}`:  "leaves 1279 bytes for pods, fewer than IPv6's 1280",
	} {
		if _, err := dualBackend(t, object, 1500); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", object, err, want)
		}
	}
}

// TestDualDesired: a family is served by its own half of a lease.
func TestDualDesired(t *testing.T) {
	b, err := dualBackend(t, `{"Type":"vxlan"}`, 1500)
	if err != nil {
		t.Fatal(err)
	}
	peer := func(key, ip, ip6, data, data6 string) lease.Lease {
		k, err := lease.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		a := lease.Attrs{BackendType: Type, BackendData: []byte(data), BackendV6Data: []byte(data6)}
		a.PublicIP, _ = netip.ParseAddr(ip)
		a.PublicIPv6, _ = netip.ParseAddr(ip6)
		return lease.Lease{Key: k, Attrs: a}
	}
	const mac, mac6 = `{"VtepMAC":"02:00:00:00:04:02"}`, `{"VtepMAC":"02:00:00:00:06:02"}`
	own := peer("10.244.1.0-24&fd00:10:244:1::-64", "172.16.1.1", "fd00:172::1", "", "")
	want, problems := b.Desired(own, []lease.Lease{
		own,
		peer("10.244.2.0-24&fd00:10:244:2::-64", "172.16.1.2", "fd00:172::2", mac, mac6),
		peer("10.244.3.0-24&fd00:10:244:3::-64", "172.16.1.3", "fd00:172::3", mac, `{}`),
		peer("0.0.0.0-0&fd00:10:244:4::-64", "", "fd00:172::4", "", `{"VtepMAC":"02:00:00:00:06:04"}`),
		peer("10.244.5.0-24&fd00:99::-64", "172.16.1.5", "fd00:172::5", `{"VtepMAC":"02:00:00:00:04:05"}`, `{"VtepMAC":"02:00:00:00:06:05"}`),
	})
	base := b.Device()
	base.Addrs = want.Addrs
	var got []string
	for _, c := range datapath.Diff(want, base) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{
		"ip neigh replace fd00:10:244:2:: lladdr 02:00:00:00:06:02 dev flannel-v6.1 nud permanent",
		"ip neigh replace fd00:10:244:4:: lladdr 02:00:00:00:06:04 dev flannel-v6.1 nud permanent",
		"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:04:02 dev flannel.1 nud permanent",
		"ip neigh replace 10.244.5.0 lladdr 02:00:00:00:04:05 dev flannel.1 nud permanent",
		"bridge fdb replace 02:00:00:00:06:02 dev flannel-v6.1 dst fd00:172::2 self permanent",
		"bridge fdb replace 02:00:00:00:06:04 dev flannel-v6.1 dst fd00:172::4 self permanent",
		"bridge fdb replace 02:00:00:00:04:02 dev flannel.1 dst 172.16.1.2 self permanent",
		"bridge fdb replace 02:00:00:00:04:05 dev flannel.1 dst 172.16.1.5 self permanent",
		"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
		"ip route replace 10.244.5.0/24 via 10.244.5.0 dev flannel.1 onlink",
		"ip route replace fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink",
		"ip route replace fd00:10:244:4::/64 via fd00:10:244:4:: dev flannel-v6.1 onlink",
	}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	slices.Sort(problems)
	if d := cmp.Diff([]string{
		"lease 0.0.0.0-0&fd00:10:244:4::-64: it has no IPv4 subnet",
		"lease 10.244.3.0-24&fd00:10:244:3::-64: VtepMAC 02:00:00:00:04:02 is also that of 10.244.2.0/24: the nodes were cloned, or one took the other's device",
		"lease 10.244.3.0-24&fd00:10:244:3::-64: VtepMAC: invalid MAC address",
		"lease 10.244.5.0-24&fd00:99::-64: subnet fd00:99::/64 is not inside the Network fd00:10:244::/48",
	}, problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
}
