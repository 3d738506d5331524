package udp

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/agent/lease"
)

func newUDP(t *testing.T, conf string, mtu int) (backend.Backend, error) {
	t.Helper()
	c, err := lease.ParseConfig([]byte(conf))
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr("172.16.1.1")
	u := backend.Underlay{Name: "eth0", MTU: mtu, Address: ip, PublicIP: ip}
	return New(forwarder.Launcher{Folder: filepath.Join(t.TempDir(), "run")})(c, u)
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		conf string
		mtu  int
		want string // an error, or the MTU
	}{
		{`{"Network":"10.244.0.0/16"}`, 1500, "1472"},
		{`{"Network":"10.244.0.0/16","Backend":{"Type":"udp","Port":4242}}`, 9000, "8972"},
		{`{"Network":"10.244.0.0/16","Backend":{"Type":"udp","MTU":1400}}`, 1500, "1472"},
		{`{"Network":"10.244.0.0/16","Backend":{"Type":"udp","Port":0}}`, 1500, "Port 0 is not a UDP port"},
		{`{"Network":"10.244.0.0/16","Backend":{"Type":"udp","Port":65536}}`, 1500, "Port 65536 is not a UDP port"},
		{`{"Network":"10.244.0.0/16","Backend":{"Type":"udp","Port":"x"}}`, 1500, "read the udp backend's configuration"},
		{`{"Network":"10.244.0.0/16"}`, 90, "MTU 90 of eth0 leaves 62 bytes for pods"},
		{`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:244::/56","Backend":{"Type":"udp"}}`, 1500, "IPv6 (EnableIPv6) over udp"},
	} {
		b, err := newUDP(t, c.conf, c.mtu)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(b.MTU())
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s: %s, not %s", c.conf, got, c.want)
		}
	}
}

// TestDesired: one route for all, whoever the peers are, and a problem for each
// lease that is not of this backend.
func TestDesired(t *testing.T) {
	b, err := newUDP(t, `{"Network":"10.244.0.0/16"}`, 1500)
	if err != nil {
		t.Fatal(err)
	}
	node := func(n int, typ string) lease.Lease {
		k, err := lease.ParseKey(fmt.Sprintf("10.244.%d.0-24", n))
		if err != nil {
			t.Fatal(err)
		}
		return lease.Lease{Key: k, Attrs: lease.Attrs{BackendType: typ, PublicIP: netip.AddrFrom4([4]byte{172, 16, 1, byte(n)})}}
	}
	own := node(1, "")
	got, problems := b.Desired(own, []lease.Lease{own, node(2, ""), node(3, "vxlan")})
	if text := strings.Join(problems, "; "); text != "lease 10.244.3.0-24: it is of the backend vxlan, and this one's leases name none" {
		t.Errorf("problems: %s", text)
	}
	var changes []string
	for _, c := range datapath.Diff(got, datapath.NewState()) {
		changes = append(changes, c.String())
	}
	want := []string{
		"ip tuntap add dev flannel0 mode tun", "ip addr add 10.244.1.0/32 dev flannel0", "ip route replace 10.244.0.0/16 dev flannel0",
	}
	for _, w := range want {
		if !strings.Contains(strings.Join(changes, "\n"), w) {
			t.Errorf("no %q in:\n%s", w, strings.Join(changes, "\n"))
		}
	}
	if data := b.Data(); data != nil || b.Type() != "" {
		t.Errorf("a lease of type %q with %s, and flannel's has neither", b.Type(), json.RawMessage(data))
	}
}
