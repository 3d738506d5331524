package vxlan

import (
	"fmt"
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

func newBackend(t *testing.T, object string, u backend.Underlay) (backend.Backend, error) {
	t.Helper()
	c, err := lease.ParseConfig([]byte(`{"Network":"10.244.0.0/16","Backend":` + object + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return New(c, u)
}

func device(t *testing.T, b backend.Backend) datapath.Link {
	t.Helper()
	for l := range b.Device().Links {
		return l
	}
	t.Fatal("no device")
	return datapath.Link{}
}

func TestDevice(t *testing.T) {
	for object, want := range map[string]string{
		`{"Type":"vxlan"}`: "ip link add flannel.1 address M mtu 1450 up type vxlan id 1 local 172.16.1.1 dev eth0 dstport 8472 nolearning",
		`{"Type":"vxlan","VNI":42,"Port":4789,"MTU":1400,"Learning":true,"GBP":true}`: "ip link add flannel.42 address M mtu 1350 up type vxlan id 42 local 172.16.1.1 dev eth0 dstport 4789 gbp",
		`{"Type":"vxlan","MTU":9000}`: "ip link add flannel.1 address M mtu 1450 up type vxlan id 1 local 172.16.1.1 dev eth0 dstport 8472 nolearning",
	} {
		b, err := newBackend(t, object, eth0)
		if err != nil {
			t.Error(err)
			continue
		}
		l := device(t, b)
		if l.MAC[0]&3 != 2 {
			t.Errorf("%s is not a locally administered unicast address", l.MAC)
		}
		got := datapath.Change{Verb: datapath.Add, Entry: l}.String()
		if d := cmp.Diff(strings.Replace(want, " M ", " "+l.MAC.String()+" ", 1), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", object, d)
		}
		if b.MTU() != l.MTU || b.Scope().Devices[0] != l.Name {
			t.Errorf("%s: MTU %d, scope %v", object, b.MTU(), b.Scope())
		}
	}
	c, err := lease.ParseConfig([]byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	hardened, err := NewHardened(c, eth0)
	if err != nil {
		t.Fatal(err)
	}
	l := device(t, hardened)
	if got := (datapath.Change{Verb: datapath.Add, Entry: l}).String(); !strings.HasSuffix(got, "dstport 8472 nolearning srcport 49152 65535 noudpcsum") {
		t.Error(got)
	}
	if port := hardened.(backend.Tunnel).TunnelPort(); port != 8472 {
		t.Errorf("tunnel at port %d", port)
	}
	for object, want := range map[string]string{
		`{"Type":"vxlan","VNI":-1}`:       "VNI -1 is not a 24-bit number",
		`{"Type":"vxlan","VNI":16777215}`: "flannel.16777215 would be longer than 15 characters",
		`{"Type":"vxlan","Port":65536}`:   "port 65536 is not a UDP port",
		`{"Type":"vxlan","MTU":100}`:      "leaves 50 bytes for pods",
		`{"Type":"vxlan","VNI":"one"}`:    "read the vxlan backend's configuration",
	} {
		if _, err := newBackend(t, object, eth0); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", object, err, want)
		}
	}
}

func TestAdopt(t *testing.T) {
	b, err := newBackend(t, `{"Type":"vxlan"}`, eth0)
	if err != nil {
		t.Fatal(err)
	}
	have := datapath.NewState()
	have.Links.Add(datapath.Link{Name: "flannel.2", MAC: datapath.MAC{2, 0, 0, 0, 0, 2}}, datapath.Link{Name: "flannel.1", MAC: datapath.MAC{2, 0, 0, 0, 0, 1}})
	b.Adopt(have)
	if got := string(b.Data()); got != `{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}` {
		t.Errorf("the lease's data is %s", got)
	}
}

func TestDesired(t *testing.T) {
	b, err := newBackend(t, `{"Type":"vxlan"}`, eth0)
	if err != nil {
		t.Fatal(err)
	}
	peer := func(key, ip, kind, data string) lease.Lease {
		k, err := lease.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		l := lease.Lease{Key: k, Attrs: lease.Attrs{BackendType: kind, BackendData: []byte(data)}}
		if ip != "" {
			l.Attrs.PublicIP = netip.MustParseAddr(ip)
		}
		return l
	}
	mac := func(n int) string { return fmt.Sprintf(`{"VNI":1,"VtepMAC":"02:00:00:00:00:%02d"}`, n) }
	own := peer("10.244.1.0-24", "172.16.1.1", "vxlan", string(b.Data()))
	want, problems := b.Desired(own, []lease.Lease{
		own,
		peer("10.244.2.0-24", "172.16.1.2", "vxlan", mac(2)),
		peer("10.244.3.0-24", "172.16.1.3", "vxlan", mac(2)),
		peer("10.244.4.0-24", "172.16.1.4", "vxlan", string(b.Data())),
		peer("10.244.5.0-24", "172.16.1.1", "vxlan", mac(5)),
		peer("10.244.6.0-24", "", "vxlan", mac(6)),
		peer("10.244.7.0-24", "172.16.1.7", "vxlan", `{"VtepMAC":"01:00:5e:00:00:01"}`),
		peer("10.244.8.0-24", "172.16.1.8", "vxlan", `null`),
		peer("10.244.9.0-24", "172.16.1.9", "vxlan", ``),
		peer("10.244.10.0-24", "172.16.1.10", "host-gw", ``),
		peer("10.244.11.0-24", "172.16.1.11", "", ``),
		peer("0.0.0.0-0&fd00::-64", "172.16.1.12", "vxlan", mac(12)),
		peer("10.244.13.0-24", "172.16.1.13", "vxlan", mac(13)),
		peer("10.244.14.0-24", "127.0.0.1", "vxlan", mac(14)),
		peer("10.244.15.0-24", "224.0.0.1", "vxlan", mac(15)),
		peer("10.244.16.0-24", "255.255.255.255", "vxlan", mac(16)),
		// By their routes these would take the underlay, pods of this node, or
		// another node's.
		peer("172.16.1.0-24", "172.16.1.17", "vxlan", mac(17)),
		peer("0.0.0.0-1", "172.16.1.18", "vxlan", mac(18)),
		peer("10.244.0.0-16", "172.16.1.19", "vxlan", mac(19)),
		peer("10.244.1.128-25", "172.16.1.20", "vxlan", mac(20)),
		peer("10.244.1.0-24&fd00::-64", "172.16.1.21", "vxlan", mac(21)),
		peer("10.244.2.0-25", "172.16.1.22", "vxlan", mac(22)),
		peer("10.244.2.0-24&fd00::-64", "172.16.1.23", "vxlan", mac(23)),
		peer("10.244.24.0-23", "172.16.1.24", "vxlan", mac(24)), // overlaps the next
		peer("10.244.25.0-24", "172.16.1.25", "vxlan", mac(25)),
		peer("10.244.26.0-23", "172.16.1.26", "vxlan", mac(26)), // from before the network's SubnetLen changed
	})
	var got []string
	for _, c := range datapath.Diff(want, b.Device()) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{
		"ip addr add 10.244.1.0/32 dev flannel.1",
		"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
		"ip neigh replace 10.244.13.0 lladdr 02:00:00:00:00:13 dev flannel.1 nud permanent",
		"ip neigh replace 10.244.25.0 lladdr 02:00:00:00:00:25 dev flannel.1 nud permanent",
		"ip neigh replace 10.244.26.0 lladdr 02:00:00:00:00:26 dev flannel.1 nud permanent",
		"bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.1.2 self permanent",
		"bridge fdb replace 02:00:00:00:00:13 dev flannel.1 dst 172.16.1.13 self permanent",
		"bridge fdb replace 02:00:00:00:00:25 dev flannel.1 dst 172.16.1.25 self permanent",
		"bridge fdb replace 02:00:00:00:00:26 dev flannel.1 dst 172.16.1.26 self permanent",
		"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
		"ip route replace 10.244.13.0/24 via 10.244.13.0 dev flannel.1 onlink",
		"ip route replace 10.244.25.0/24 via 10.244.25.0 dev flannel.1 onlink",
		"ip route replace 10.244.26.0/23 via 10.244.26.0 dev flannel.1 onlink",
	}, got); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	var left []string
	for _, p := range problems {
		left = append(left, strings.Fields(p)[1])
	}
	if d := cmp.Diff("10.244.3.0-24: 10.244.4.0-24: 10.244.5.0-24: 10.244.6.0-24: 10.244.7.0-24: 10.244.8.0-24: 10.244.9.0-24: 10.244.10.0-24: "+
		"10.244.14.0-24: 10.244.15.0-24: 10.244.16.0-24: 172.16.1.0-24: 10.244.1.0-24&fd00::-64: 10.244.2.0-24&fd00::-64: "+
		"0.0.0.0-1: 10.244.0.0-16: 10.244.1.128-25: 10.244.2.0-25: 10.244.24.0-23:", strings.Join(left, " ")); d != "" {
		t.Errorf("left out (-want +got):\n%s\n%s", d, strings.Join(problems, "\n"))
	}
}

// TestDirectRouting: a peer of the segment needs a route alone.
func TestDirectRouting(t *testing.T) {
	b, err := newBackend(t, `{"Type":"vxlan","DirectRouting":true}`, eth0)
	if err != nil {
		t.Fatal(err)
	}
	peer := func(n int, ip string) lease.Lease {
		k, err := lease.ParseKey(fmt.Sprintf("10.244.%d.0-24", n))
		if err != nil {
			t.Fatal(err)
		}
		return lease.Lease{Key: k, Attrs: lease.Attrs{
			BackendType: Type, PublicIP: netip.MustParseAddr(ip), BackendData: fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:00:%02d"}`, n),
		}}
	}
	own := peer(1, "172.16.1.1")
	want, problems := b.Desired(own, []lease.Lease{own, peer(2, "172.16.1.2"), peer(3, "172.16.2.3")})
	if len(problems) > 0 {
		t.Error(problems)
	}
	var got []string
	for _, c := range datapath.Diff(want, b.Device()) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{
		"ip addr add 10.244.1.0/32 dev flannel.1",
		"ip neigh replace 10.244.3.0 lladdr 02:00:00:00:00:03 dev flannel.1 nud permanent",
		"bridge fdb replace 02:00:00:00:00:03 dev flannel.1 dst 172.16.2.3 self permanent",
		"ip route replace 10.244.2.0/24 via 172.16.1.2 dev eth0",
		"ip route replace 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink",
	}, got); d != "" {
		t.Errorf("changes (-want +got):\n%s", d)
	}
	if bare := b.Scope().Bare; bare.Dev != "eth0" || bare.Len != 24 {
		t.Errorf("scope %+v", b.Scope())
	}
}
