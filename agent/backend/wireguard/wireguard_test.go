package wireguard

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

var eth0 = backend.Underlay{
	Name: "eth0", MTU: 1500, Address: netip.MustParseAddr("172.16.1.1"), PublicIP: netip.MustParseAddr("172.16.1.1"),
}

// psk is a pre-shared key.
const psk = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="

// testKey is a public key, and what its text begins with.
func testKey(n byte) wgtypes.Key { return wgtypes.Key{n, 31: n} }

// newBackend makes the backend of a Backend object; its own key is testKey(99).
func newBackend(t *testing.T, object string, u backend.Underlay) (*WireGuard, error) {
	t.Helper()
	c, err := lease.ParseConfig([]byte(`{"Network":"10.244.0.0/16","Backend":` + object + `}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(Options{KeyFile: filepath.Join(t.TempDir(), "wgkey")})(c, u)
	if err != nil {
		return nil, err
	}
	w := b.(*WireGuard)
	w.wanted.key = clamp(testKey(99))
	return w, nil
}

func mustBackend(t *testing.T, object string) *WireGuard {
	t.Helper()
	w, err := newBackend(t, object, eth0)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestNew(t *testing.T) {
	w := mustBackend(t, `{"Type":"wireguard"}`)
	if w.Type() != "wireguard" || w.MTU() != 1420 || w.wanted.port != 51820 || w.keepalive != 0 || w.psk != (wgtypes.Key{}) {
		t.Errorf("%+v", w)
	}
	want := fmt.Sprintf(`{"PublicKey":%q,"Port":51820}`, w.wanted.key.PublicKey())
	if got := string(w.Data()); got != want {
		t.Errorf("the lease's data is %s, not %s", got, want)
	}
	w = mustBackend(t, `{"Type":"wireguard","ListenPort":4242,"MTU":1400,"PersistentKeepaliveInterval":25,"Mode":"auto","PSK":"`+psk+`"}`)
	if w.MTU() != 1320 || w.wanted.port != 4242 || w.keepalive.Seconds() != 25 || w.psk.String() != psk {
		t.Errorf("%+v", w)
	}
}

func TestNewRefuses(t *testing.T) {
	narrow := eth0
	narrow.MTU = 140
	for object, want := range map[string]string{
		`{"Type":"wireguard","ListenPort":0}`:                       "ListenPort 0 is not a UDP port",
		`{"Type":"wireguard","ListenPort":65536}`:                   "ListenPort 65536 is not a UDP port",
		`{"Type":"wireguard","ListenPortV6":-1}`:                    "ListenPortV6 -1 is not a UDP port",
		`{"Type":"wireguard","PersistentKeepaliveInterval":-1}`:     "PersistentKeepaliveInterval -1 is not",
		`{"Type":"wireguard","PersistentKeepaliveInterval":70000}`:  "PersistentKeepaliveInterval 70000 is not",
		`{"Type":"wireguard","PersistentKeepaliveInterval":"1m"}`:   "read the wireguard backend's configuration",
		`{"Type":"wireguard","PSK":"secret"}`:                       "PSK is not 32 bytes in base64",
		`{"Type":"wireguard","Mode":"ipv6"}`:                        "Mode ipv6 asks for tunnels over IPv6",
		`{"Type":"wireguard","Mode":"both"}`:                        `Mode "both" is none of separate, auto, ipv4, ipv6`,
		`{"Type":"wireguard","Mode":"x","PSK":"x","ListenPort":-1}`: "ListenPort -1",
	} {
		_, err := newBackend(t, object, eth0)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", object, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the key: %v", object, err)
		}
	}
	if _, err := newBackend(t, `{"Type":"wireguard"}`, narrow); err == nil || !strings.Contains(err.Error(), "leaves 60 bytes for pods") {
		t.Errorf("a narrow underlay: %v", err)
	}
}

// TestAdopt: a TUN device takes the place of one that the kernel does not make,
// and the kernel is only asked where there is no device of it.
func TestAdopt(t *testing.T) {
	for name, c := range map[string]struct {
		have  string // the kind of the device that is there
		makes bool
		want  string
	}{
		"nothing there, kernel has it":     {"", true, "wireguard"},
		"nothing there, kernel lacks it":   {"", false, "tun"},
		"a kernel's device":                {"wireguard", false, "wireguard"},
		"a TUN device, kernel lacks it":    {"tun", false, "tun"},
		"a TUN device, kernel has it now":  {"tun", true, "wireguard"},
		"another device, kernel lacks it ": {"dummy", false, "tun"},
	} {
		w := mustBackend(t, `{"Type":"wireguard"}`)
		w.makes = func(string) bool { return c.makes }
		have := datapath.NewState()
		if c.have != "" {
			have.Links.Add(datapath.Link{Name: Device, Kind: c.have})
		}
		w.Adopt(have)
		if l, _ := w.Device().Link(Device); l.Kind != c.want {
			t.Errorf("%s: the device is to be of kind %s", name, l.Kind)
		}
	}
}

// node is a lease.
func node(t *testing.T, key, ip, kind string, data any) lease.Lease {
	t.Helper()
	k, err := lease.ParseKey(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return lease.Lease{Key: k, Attrs: lease.Attrs{BackendType: kind, PublicIP: netip.MustParseAddr(ip), BackendData: raw}}
}

// cluster are the own lease, first, and those of others.
func cluster(t *testing.T, w *WireGuard) []lease.Lease {
	t.Helper()
	two := testKey(2).String()
	return []lease.Lease{
		{Key: node(t, "10.244.1.0-24", "172.16.1.1", Type, nil).Key, Attrs: lease.Attrs{PublicIP: eth0.PublicIP, BackendType: Type, BackendData: w.Data()}},
		node(t, "10.244.2.0-24", "172.16.1.2", Type, leaseData{two, 51820}),
		node(t, "10.244.3.0-24", "172.16.1.3", Type, map[string]string{"PublicKey": testKey(3).String()}), // an older flannel's
		node(t, "10.244.4.0-24", "172.16.1.4", "vxlan", nil),
		node(t, "10.244.5.0-24", "172.16.1.5", Type, leaseData{two, 51820}),
		node(t, "10.244.6.0-24", "172.16.1.6", Type, leaseData{"AAAA", 51820}),
		node(t, "10.244.7.0-24", "172.16.1.7", Type, "text"),
		node(t, "10.244.8.0-24", "172.16.1.8", Type, leaseData{w.wanted.key.PublicKey().String(), 51820}),
		node(t, "10.244.9.0-24", "172.16.1.9", Type, leaseData{testKey(9).String(), 4242}),
	}
}

func TestDesired(t *testing.T) {
	w := mustBackend(t, `{"Type":"wireguard"}`)
	all := cluster(t, w)
	want, problems := w.Desired(all[0], all)
	var got []string
	for _, c := range datapath.Diff(want, datapath.NewState()) {
		got = append(got, c.String())
	}
	if d := cmp.Diff([]string{
		"ip link add flannel-wg mtu 1420 up type wireguard",
		"ip addr add 10.244.1.0/32 dev flannel-wg",
		"ip route replace 10.244.0.0/16 dev flannel-wg",
	}, got); d != "" {
		t.Errorf("commands (-want +got):\n%s", d)
	}
	clone := " is also that of %s: the nodes were cloned, or one has the other's key file"
	if d := cmp.Diff([]string{
		"lease 10.244.4.0-24: it is of the backend vxlan, not wireguard",
		"lease 10.244.5.0-24: PublicKey " + testKey(2).String() + fmt.Sprintf(clone, "10.244.2.0/24"),
		`lease 10.244.6.0-24: PublicKey "AAAA" is not 32 bytes in base64`,
		`lease 10.244.7.0-24: BackendData "\"text\"": json: cannot unmarshal string into Go value of type wireguard.leaseData`,
		"lease 10.244.8.0-24: PublicKey " + w.wanted.key.PublicKey().String() + fmt.Sprintf(clone, "10.244.1.0/24"),
	}, problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	peers, _ := w.peers(all[0], all)
	if d := cmp.Diff(map[wgtypes.Key]peer{
		testKey(2): {netip.MustParseAddrPort("172.16.1.2:51820"), netip.MustParsePrefix("10.244.2.0/24")},
		testKey(3): {netip.MustParseAddrPort("172.16.1.3:51820"), netip.MustParsePrefix("10.244.3.0/24")},
		testKey(9): {netip.MustParseAddrPort("172.16.1.9:4242"), netip.MustParsePrefix("10.244.9.0/24")},
	}, peers, cmp.AllowUnexported(peer{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
		t.Errorf("peers (-want +got):\n%s", d)
	}
}
