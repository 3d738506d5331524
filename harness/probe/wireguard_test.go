package probe_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// The public key of the private key 1, clamped as a device does, and two others.
const (
	ownPrivate = "4001000000000000000000000000000000000000000000000000000000000040"
	peerHex    = "6e6f64652d322773207075626c6963206b65793a20333220627974657320203a"
	peerKey    = "bm9kZS0yJ3MgcHVibGljIGtleTogMzIgYnl0ZXMgIDo="
	otherKey   = "bm9ib2R5J3MgcHVibGljIGtleTogMzIgYnl0ZXMgOiA="
	sharedHex  = "3031323334353637383961626364656630313233343536373839616263646566"
)

// wireguardIn makes a WireGuard device in userspace that the namespace's
// /var/run/wireguard configures while answers says so; its packets go nowhere.
func wireguardIn(t *testing.T, ns topology.Namespace, name string, answers *atomic.Bool) {
	t.Helper()
	d := device.NewDevice(tuntest.NewChannelTUN().TUN(), conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(d.Close)
	err := d.IpcSet("private_key=" + ownPrivate + "\nlisten_port=51871\npublic_key=" + peerHex +
		"\npreshared_key=" + sharedHex + "\nendpoint=172.16.1.9:51820\nallowed_ip=10.244.1.0/24\npersistent_keepalive_interval=25\n")
	if err != nil {
		t.Fatal(err)
	}
	err = ns.(topology.Local).Do(func() error {
		if err := os.MkdirAll("/var/run/wireguard", 0o700); err != nil { // the namespace's own
			return err
		}
		l, err := net.Listen("unix", "/var/run/wireguard/"+name+".sock")
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if answers.Load() {
					go d.IpcHandle(c)
				}
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWireGuard: a device that a process keeps is read and altered like one of
// the kernel's, in-process and over a pipe, and no secret of it is told.
//
//	master: a device flannel-wg, without packets
func TestWireGuard(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	ns, err := lab.Namespace("master")
	if err != nil {
		t.Fatal(err)
	}
	var answers atomic.Bool
	answers.Store(true)
	wireguardIn(t, ns, "flannel-wg", &answers)
	near, err := probe.Open(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	away, err := probe.OpenRemote(t.Context(), far(ns))
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	for name, s := range map[string]*probe.Session{"in-process": near, "pipe": away} {
		w, err := s.WireGuard(t.Context(), "flannel-wg")
		if err != nil || w == nil {
			t.Fatalf("%s: %v, %v", name, w, err)
		}
		if w.ListenPort != 51871 || w.PublicKey == "" || len(w.Peers) != 1 {
			t.Fatalf("%s: %+v", name, w)
		}
		p := w.Peers[0]
		if p.PublicKey != peerKey || p.Endpoint != netip.MustParseAddrPort("172.16.1.9:51820") || len(p.AllowedIPs) != 1 ||
			p.AllowedIPs[0] != netip.MustParsePrefix("10.244.1.0/24") || p.Keepalive.Seconds() != 25 {
			t.Errorf("%s: %+v", name, p)
		}
		if want := probe.Fingerprint([]byte("0123456789abcdef0123456789abcdef")); p.PresharedKey != want || !strings.HasPrefix(want, "sha256:") {
			t.Errorf("%s: the pre-shared key is told as %q, want %q", name, p.PresharedKey, want)
		}
		if w, err := s.WireGuard(t.Context(), "wg9"); err != nil || w != nil {
			t.Errorf("%s: a device that is not there: %v, %v", name, w, err)
		}
	}
	peers := func() (keys []string) {
		w, err := near.WireGuard(t.Context(), "flannel-wg")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range w.Peers {
			keys = append(keys, p.PublicKey+" "+p.AllowedIPs[0].String())
		}
		return keys
	}
	for _, c := range []struct {
		change probe.WireGuardChange
		said   string
		want   string
	}{
		{probe.WireGuardChange{Peer: peerKey, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.244.7.0/24")}},
			"wg set flannel-wg peer " + peerKey + " allowed-ips 10.244.7.0/24", peerKey + " 10.244.7.0/24"},
		{probe.WireGuardChange{Peer: peerKey, Remove: true}, "wg set flannel-wg peer " + peerKey + " remove", ""},
		{probe.WireGuardChange{Peer: otherKey, Endpoint: netip.MustParseAddrPort("172.16.1.9:7"), AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24")}},
			"wg set flannel-wg peer " + otherKey + " endpoint 172.16.1.9:7 allowed-ips 10.244.1.0/24", otherKey + " 10.244.1.0/24"},
		{probe.WireGuardChange{ListenPort: 51872}, "wg set flannel-wg listen-port 51872", otherKey + " 10.244.1.0/24"},
	} {
		c.change.Dev = "flannel-wg"
		if c.change.String() != c.said {
			t.Errorf("%q, want %q", c.change, c.said)
		}
		if err := near.SetWireGuard(t.Context(), c.change); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(peers(), ", "); got != c.want {
			t.Errorf("%s: the peers are %q, want %q", c.said, got, c.want)
		}
	}
	if err := near.SetWireGuard(t.Context(), probe.WireGuardChange{Dev: "flannel-wg", Peer: "no key"}); err == nil || !strings.Contains(err.Error(), "the peer's key") {
		t.Errorf("a key that is none: %v", err)
	}
	answers.Store(false)
	if w, err := near.WireGuard(t.Context(), "flannel-wg"); err == nil || !strings.Contains(err.Error(), "no answer in") {
		t.Errorf("a process that is stopped: %v, %v", w, err)
	}
}
