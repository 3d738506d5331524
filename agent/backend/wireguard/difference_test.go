package wireguard

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// start is when the tests' devices are first looked at.
var start = time.Unix(1000, 0)

// wantedPeers are those of two nodes.
func wantedPeers() map[wgtypes.Key]peer {
	return map[wgtypes.Key]peer{
		testKey(2): {netip.MustParseAddrPort("172.16.1.2:51820"), netip.MustParsePrefix("10.244.2.0/24")},
		testKey(3): {netip.MustParseAddrPort("172.16.1.3:51820"), netip.MustParsePrefix("10.244.3.0/24")},
	}
}

// present is a device that is as it must be.
func present(w *WireGuard) *wgtypes.Device {
	d := &wgtypes.Device{PrivateKey: w.wanted.key, ListenPort: w.wanted.port}
	want := wantedPeers()
	for _, key := range sortedKeys(want) {
		d.Peers = append(d.Peers, wgtypes.Peer{
			PublicKey: key, PresharedKey: w.psk, PersistentKeepaliveInterval: w.keepalive,
			Endpoint: net.UDPAddrFromAddrPort(want[key].endpoint), AllowedIPs: []net.IPNet{ipNet(want[key].subnet)},
		})
	}
	return d
}

// due are the commands that make the device as it must be at a moment.
func due(w *WireGuard, want map[wgtypes.Key]peer, have *wgtypes.Device, now time.Time) []string {
	c := w.settingsChange(have)
	w.peersChange(&c, want, have, now)
	return c.commands
}

const (
	wgPeer2 = "wg set flannel-wg peer AgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI= "
	wgPeer3 = "wg set flannel-wg peer AwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAM= "
)

func TestDifference(t *testing.T) {
	const object = `{"Type":"wireguard","PersistentKeepaliveInterval":25,"PSK":"` + psk + `"}`
	for name, c := range map[string]struct {
		tamper func(*wgtypes.Device)
		want   []string
	}{
		"nothing": {func(*wgtypes.Device) {}, nil},
		"private key": {
			func(d *wgtypes.Device) { d.PrivateKey = wgtypes.Key{} },
			[]string{
				"wg set flannel-wg private-key KEYFILE",
				wgPeer2 + "endpoint 172.16.1.2:51820 allowed-ips 10.244.2.0/24 preshared-key … persistent-keepalive 25",
				wgPeer3 + "endpoint 172.16.1.3:51820 allowed-ips 10.244.3.0/24 preshared-key … persistent-keepalive 25",
			},
		},
		"port and mark": {
			func(d *wgtypes.Device) { d.ListenPort, d.FirewallMark = 1, 2 },
			[]string{"wg set flannel-wg listen-port 51820", "wg set flannel-wg fwmark 0"},
		},
		"peer removed": {
			func(d *wgtypes.Device) { d.Peers = d.Peers[1:] },
			[]string{wgPeer2 + "endpoint 172.16.1.2:51820 allowed-ips 10.244.2.0/24 preshared-key … persistent-keepalive 25"},
		},
		"peer added": {
			func(d *wgtypes.Device) { d.Peers = append(d.Peers, wgtypes.Peer{PublicKey: testKey(7)}) },
			[]string{"wg set flannel-wg peer BwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAc= remove"},
		},
		"allowed-ips gone": {
			func(d *wgtypes.Device) { d.Peers[0].AllowedIPs = nil },
			[]string{wgPeer2 + "allowed-ips 10.244.2.0/24"},
		},
		"allowed-ips more": {
			func(d *wgtypes.Device) {
				d.Peers[0].AllowedIPs = append(d.Peers[0].AllowedIPs, ipNet(netip.MustParsePrefix("0.0.0.0/0")))
			},
			[]string{wgPeer2 + "allowed-ips 10.244.2.0/24"},
		},
		"allowed-ips wider": {
			func(d *wgtypes.Device) {
				d.Peers[0].AllowedIPs[0] = ipNet(netip.MustParsePrefix("10.244.0.0/16"))
			},
			[]string{wgPeer2 + "allowed-ips 10.244.2.0/24"},
		},
		"keepalive and psk": {
			func(d *wgtypes.Device) {
				d.Peers[0].PersistentKeepaliveInterval, d.Peers[0].PresharedKey = 0, wgtypes.Key{}
			},
			[]string{wgPeer2 + "preshared-key … persistent-keepalive 25"},
		},
		"no endpoint": {
			func(d *wgtypes.Device) { d.Peers[0].Endpoint = nil },
			[]string{wgPeer2 + "endpoint 172.16.1.2:51820"},
		},
		"roamed": {
			func(d *wgtypes.Device) { d.Peers[0].Endpoint.IP = net.IPv4(192, 0, 2, 1) },
			nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := mustBackend(t, object)
			w.keyFile = "KEYFILE"
			have := present(w)
			c.tamper(have)
			if d := cmp.Diff(c.want, due(w, wantedPeers(), have, start)); d != "" {
				t.Errorf("commands (-want +got):\n%s", d)
			}
		})
	}
}

// TestNewKey: a peer that has another key leaves none of its old one.
func TestNewKey(t *testing.T) {
	w := mustBackend(t, `{"Type":"wireguard"}`)
	want := wantedPeers()
	want[testKey(8)] = want[testKey(2)]
	delete(want, testKey(2))
	if d := cmp.Diff([]string{
		wgPeer2 + "remove",
		"wg set flannel-wg peer CAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAg= endpoint 172.16.1.2:51820 allowed-ips 10.244.2.0/24",
	}, due(w, want, present(w), start)); d != "" {
		t.Errorf("commands (-want +got):\n%s", d)
	}
}

// TestEndpoint: where a peer is, the device knows better than its lease, until
// the lease changes or the peer is silent there.
func TestEndpoint(t *testing.T) {
	w := mustBackend(t, `{"Type":"wireguard"}`)
	want, have := wantedPeers(), present(w)
	p := &have.Peers[0]
	expect := func(what string, after time.Duration, moves bool) {
		t.Helper()
		var commands []string
		if moves {
			commands = []string{wgPeer2 + "endpoint " + want[testKey(2)].endpoint.String()}
		}
		if d := cmp.Diff(commands, due(w, want, have, start.Add(after))); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	expect("at home", 0, false)
	w.done(want)
	p.Endpoint = net.UDPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:7"))
	p.ReceiveBytes, p.TransmitBytes = 100, 100
	expect("roamed", time.Second, false)
	expect("idle for long", time.Hour, false)
	p.TransmitBytes = 200
	expect("sent to", time.Hour+time.Second, false)
	p.TransmitBytes = 300
	expect("not answering yet", time.Hour+14*time.Second, false)
	p.ReceiveBytes = 132
	expect("answering", time.Hour+16*time.Second, false)
	p.TransmitBytes = 400
	expect("sent to again", time.Hour+30*time.Second, false)
	expect("silent", time.Hour+32*time.Second, true)

	// Told anew, and roamed again, to a place where it answers.
	w.done(want)
	p.ReceiveBytes = 500
	expect("answering elsewhere", 2*time.Hour, false)
	moved := want[testKey(2)]
	moved.endpoint = netip.MustParseAddrPort("172.16.1.22:51820")
	want[testKey(2)] = moved
	expect("the lease has changed", 2*time.Hour, true)
}

// TestUnsettled: the peers to greet are those whose sessions a change of the
// device ends, or outdates, and no others.
func TestUnsettled(t *testing.T) {
	both := []wgtypes.Key{testKey(2), testKey(3)}
	for name, c := range map[string]struct {
		tamper           func(*WireGuard, *wgtypes.Device)
		fresh, unsettled []wgtypes.Key
	}{
		"nothing":      {func(*WireGuard, *wgtypes.Device) {}, nil, nil},
		"another port": {func(_ *WireGuard, d *wgtypes.Device) { d.ListenPort = 1 }, nil, both},
		"another key":  {func(_ *WireGuard, d *wgtypes.Device) { d.PrivateKey = wgtypes.Key{} }, both, nil},
		"disturbed":    {func(w *WireGuard, _ *wgtypes.Device) { w.Disturbed() }, nil, both},
		"and a peer less": {func(w *WireGuard, d *wgtypes.Device) {
			w.Disturbed()
			d.Peers = d.Peers[1:]
		}, both[:1], both[1:]},
	} {
		w := mustBackend(t, `{"Type":"wireguard"}`)
		have := present(w)
		c.tamper(w, have)
		got := w.difference(have, wantedPeers())
		if d := cmp.Diff([][]wgtypes.Key{c.fresh, c.unsettled}, [][]wgtypes.Key{got.fresh, got.unsettled}, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
