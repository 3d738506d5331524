package probe_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
)

// The same lab over IPv6, fd00:10:244:: in short as "::":
//
//	master-pod-1 ::0:0:0:0:2   node-1-pod-1 ::1:0:0:0:2
//	     |                          |
//	   cni0 ::0:0:0:0:1           cni0 ::1:0:0:0:1
//	 flannel-v6.1               flannel-v6.1
//	   ens3 ::8                   ens3 ::9
//	     +----------- lan -----------+         fd00:172:16:1::/64, MTU 1500
var (
	masterPod6 = netip.MustParseAddr("fd00:10:244::2")
	nodePod6   = netip.MustParseAddr("fd00:10:244:1::2")
	nodeCNI6   = netip.MustParseAddr("fd00:10:244:1::1")
	localCNI6  = netip.MustParseAddr("fd00:10:244::1")
)

func TestPing6(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	s := open(t, lab, "master-pod-1")
	short := 30 * time.Millisecond

	t.Run("hop limit as received", func(t *testing.T) {
		for dst, ttl := range map[netip.Addr]int{masterPod6: 64, localCNI6: 64, nodeCNI6: 63, nodePod6: 62, nodePod: 62} {
			pong := ping(t, s, probe.Ping{Dst: dst})
			size := 104
			if dst.Is4() {
				size = 84
			}
			if !pong.Answered() || pong.Replies[0].TTL != ttl || pong.Replies[0].From != dst || pong.Replies[0].Size != size {
				t.Errorf("ping %s: %s, want ttl %d and %d bytes: %+v", dst, &pong, ttl, size, pong.Replies)
			}
		}
	})
	t.Run("source", func(t *testing.T) {
		lab.Exec(t, "master-pod-1", "ip", "addr", "add", "fd00:10:244::77/64", "dev", "eth0", "nodad")
		if pong := ping(t, s, probe.Ping{Dst: nodePod6, Src: netip.MustParseAddr("fd00:10:244::77")}); !pong.Answered() {
			t.Error(&pong)
		}
		if pong := ping(t, s, probe.Ping{Dst: nodePod6, Src: netip.MustParseAddr("2001:db8::1")}); pong.Refused == nil {
			t.Errorf("a source that is not ours: %s, want a refusal", &pong)
		}
	})
	t.Run("time exceeded", func(t *testing.T) {
		pong := ping(t, s, probe.Ping{Dst: nodePod6, TTL: 1})
		if want := (probe.ICMPError{From: localCNI6, Type: 3}); pong.Error == nil || *pong.Error != want {
			t.Errorf("hop limit 1: %s, want %s", &pong, want)
		}
	})
	t.Run("no route", func(t *testing.T) {
		pong := ping(t, s, probe.Ping{Dst: netip.MustParseAddr("2001:db8::1"), Wait: short})
		if want := (probe.ICMPError{From: localCNI6, Type: 1}); pong.Error == nil || *pong.Error != want {
			t.Errorf("%s, want %s", &pong, want)
		}
	})
	t.Run("refused", func(t *testing.T) {
		lab.Exec(t, "master-pod-1", "ip", "route", "add", "unreachable", "2001:db8:1::/48")
		pong := ping(t, s, probe.Ping{Dst: netip.MustParseAddr("2001:db8:1::9")})
		if pong.Refused == nil || pong.Refused.Errno != "EHOSTUNREACH" {
			t.Errorf("%s, want EHOSTUNREACH", &pong)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		for _, p := range []probe.Ping{
			{Dst: nodePod6, Size: 63}, {Dst: nodePod6, Src: masterPod}, {Dst: nodePod, Src: masterPod6},
			{Dst: netip.MustParseAddr("fe80::1%eth0")}, {Dst: netip.MustParseAddr("::ffff:10.0.0.1")},
		} {
			if _, err := s.Ping(t.Context(), p); err == nil {
				t.Errorf("%+v: no error", p)
			}
		}
	})
}

// TestDontFragment6: the own kernel refuses without DF's bit, which IPv6 has
// not, and fragments what may be.
func TestDontFragment6(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	s := open(t, lab, "master-pod-1")
	df := func(size int) probe.Pong { return ping(t, s, probe.Ping{Dst: nodePod6, Size: size, DF: true}) }
	for range 3 {
		if pong := df(1430); !pong.Answered() {
			t.Errorf("1430 bytes: %s, want an answer", &pong)
		}
		if pong := df(1431); pong.Refused == nil || *pong.Refused != (probe.Refusal{Errno: "EMSGSIZE", MTU: 1430}) {
			t.Errorf("1431 bytes: %s, want EMSGSIZE, mtu 1430", &pong)
		}
	}
	if pong := ping(t, s, probe.Ping{Dst: nodePod6, Size: 4000}); !pong.Answered() || pong.Replies[0].Size != 4000 {
		t.Errorf("4000 bytes that may be fragmented: %s, want an answer", &pong)
	}
	widen(t, lab)
	want := probe.ICMPError{From: localCNI6, Type: 2, MTU: 1430}
	for range 3 { // what the kernel learned must not stand in the way
		if pong := df(1500); pong.Error == nil || *pong.Error != want {
			t.Errorf("1500 bytes from a link of 1500: %s, want %s", &pong, want)
		}
	}
}

func TestPathMTU6(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	s := open(t, lab, "master-pod-1")
	find := func(limit int) probe.PathMTU {
		m, err := s.PathMTU(t.Context(), nodePod6, limit, 50*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := find(0); m.MTU != 1430 || m.Named.IsValid() || m.BlackHole || m.Probes > 2 {
		t.Errorf("%s in %d probes, want 1430 named by the own kernel in 2", &m, m.Probes)
	}
	widen(t, lab)
	if m := find(0); m.MTU != 1430 || m.Named != localCNI6 || m.BlackHole {
		t.Errorf("%s, want 1430 named by %s", &m, localCNI6)
	}
	// The underlay drops what is above 1400 without a word: 1360 and IPv6's own
	// header, which its length leaves out.
	lab.Exec(t, "master", "nft", "add table ip6 t; add chain ip6 t c { type filter hook postrouting priority 0; }; add rule ip6 t c oif ens3 ip6 length > 1360 drop")
	if m := find(1440); m.MTU != 1330 || !m.BlackHole {
		t.Errorf("%s, want 1330, found by search", &m)
	}
}

func TestEcho6(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	client, server := open(t, lab, "master-pod-1"), open(t, lab, "node-1-pod-1")
	echo := func(tr probe.Transport, dst netip.Addr) probe.EchoReply {
		t.Helper()
		port, err := server.EchoPort(tr)
		if err != nil {
			t.Fatal(err)
		}
		r, err := client.Echo(t.Context(), probe.Echo{Transport: tr, Server: netip.AddrPortFrom(dst, port), Wait: 100 * time.Millisecond, Tries: 2})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tr := range []probe.Transport{probe.UDP, probe.TCP} {
		if r := echo(tr, nodePod6); r.Seen.Addr() != masterPod6 || r.From.Addr() != nodePod6 {
			t.Errorf("%s: %s, want seen as %s by %s", tr, &r, masterPod6, nodePod6)
		}
		if r := echo(tr, nodePod); r.Seen.Addr() != masterPod || r.From.Addr() != nodePod {
			t.Errorf("%s: %s, want seen as %s by %s", tr, &r, masterPod, nodePod)
		}
	}
	lab.Exec(t, "master", "nft", "add table ip6 t; add chain ip6 t c { type nat hook postrouting priority srcnat; }; add rule ip6 t c oifname flannel-v6.1 masquerade")
	for _, tr := range []probe.Transport{probe.UDP, probe.TCP} {
		if r := echo(tr, nodePod6); r.Seen.Addr() != netip.MustParseAddr("fd00:10:244::") {
			t.Errorf("%s behind NAT: %s, want seen as flannel-v6.1", tr, &r)
		}
	}
}

// TestFlow6: a stream of datagrams over IPv6.
func TestFlow6(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	from, to := open(t, lab, "master-pod-1"), open(t, lab, "node-1-pod-1")
	st, err := from.StartFlow(t.Context(), to, probe.Flow{To: nodePod6, Rate: 1000})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Reach(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	l, err := st.Stop(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r := l.Report(); r.Received < 20 || len(r.Lost) > 0 {
		t.Error(r)
	}
}
