package ipip

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/forwarder"
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
	return New(forwarder.Launcher{})(c, u)
}

func TestNew(t *testing.T) {
	b, err := newBackend(t, `{"Type":"ipip"}`, eth0)
	if err != nil {
		t.Fatal(err)
	}
	if b.Type() != "ipip" || b.MTU() != 1480 || b.Data() != nil || b.Scope().Bare.Dev != "" {
		t.Errorf("%s, MTU %d, data %s, scope %+v", b.Type(), b.MTU(), b.Data(), b.Scope())
	}
	narrow := eth0
	narrow.MTU = 80
	if _, err := newBackend(t, `{"Type":"ipip"}`, narrow); err == nil || !strings.Contains(err.Error(), "leaves 60 bytes for pods") {
		t.Errorf("a narrow underlay: %v", err)
	}
	if _, err := newBackend(t, `{"Type":"ipip","DirectRouting":7}`, eth0); err == nil {
		t.Error("DirectRouting 7 is taken")
	}
}

func TestDesired(t *testing.T) {
	peer := func(key, ip, kind string) lease.Lease {
		k, err := lease.ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return lease.Lease{Key: k, Attrs: lease.Attrs{BackendType: kind, PublicIP: netip.MustParseAddr(ip)}}
	}
	own := peer("10.244.1.0-24", "172.16.1.1", Type)
	all := []lease.Lease{
		own, peer("10.244.2.0-24", "172.16.1.2", Type), peer("10.244.3.0-24", "172.16.2.3", Type),
		peer("10.244.4.0-24", "172.16.1.4", "vxlan"), peer("10.244.5.0-24", "172.16.1.5", ""),
	}
	for object, routes := range map[string][]string{
		`{"Type":"ipip"}`: {
			"ip route replace 10.244.2.0/24 via 172.16.1.2 dev flannel.ipip onlink",
			"ip route replace 10.244.3.0/24 via 172.16.2.3 dev flannel.ipip onlink",
		},
		`{"Type":"ipip","DirectRouting":true}`: {
			"ip route replace 10.244.2.0/24 via 172.16.1.2 dev eth0",
			"ip route replace 10.244.3.0/24 via 172.16.2.3 dev flannel.ipip onlink",
		},
	} {
		b, err := newBackend(t, object, eth0)
		if err != nil {
			t.Fatal(err)
		}
		want, problems := b.Desired(own, all)
		var got []string
		for _, c := range datapath.Diff(want, datapath.NewState()) {
			got = append(got, c.String())
		}
		if d := cmp.Diff(append([]string{
			"ip link add flannel.ipip mtu 1480 up type ipip local 172.16.1.1",
			"ip addr add 10.244.1.0/32 dev flannel.ipip",
		}, routes...), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", object, d)
		}
		if d := cmp.Diff([]string{"lease 10.244.4.0-24: it is of the backend vxlan, not ipip"}, problems); d != "" {
			t.Errorf("problems (-want +got):\n%s", d)
		}
	}
}

// TestUserspace: without a device of the kernel's, a TUN device has the same
// routes; one that the kernel has made stays.
func TestUserspace(t *testing.T) {
	kernel := datapath.NewState()
	kernel.Links.Add(datapath.Link{Name: device, Kind: kernelKind})
	tun := datapath.NewState()
	tun.Links.Add(datapath.Link{Name: device, Kind: userKind})
	for name, c := range map[string]struct {
		have  datapath.State
		makes bool
		want  string
	}{
		"nothing, and it can":    {datapath.NewState(), true, "ip link add flannel.ipip mtu 1480 up type ipip local 172.16.1.1"},
		"nothing, and it cannot": {datapath.NewState(), false, "ip tuntap add dev flannel.ipip mode tun; ip link set flannel.ipip addrgenmode none; ip link set flannel.ipip mtu 1480 up"},
		"its own":                {kernel, false, "ip link add flannel.ipip mtu 1480 up type ipip local 172.16.1.1"},
		"a TUN, and it can now":  {tun, true, "ip link add flannel.ipip mtu 1480 up type ipip local 172.16.1.1"},
		"a TUN":                  {tun, false, "ip tuntap add dev flannel.ipip mode tun; ip link set flannel.ipip addrgenmode none; ip link set flannel.ipip mtu 1480 up"},
	} {
		b, err := newBackend(t, `{"Type":"ipip"}`, eth0)
		if err != nil {
			t.Fatal(err)
		}
		b.(*IPIP).makes = func(string) bool { return c.makes }
		b.Adopt(c.have)
		if got := datapath.Diff(b.Device(), datapath.NewState())[0].String(); got != c.want {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
}
