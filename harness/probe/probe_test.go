package probe_test

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// The lab of these tests:
//
//	master-pod-1 .0.2   node-1-pod-1 .1.2
//	     |                   |
//	   cni0 .0.1           cni0 .1.1
//	 flannel.1 .0.0      flannel.1 .1.0
//	   ens3 .8             ens3 .9
//	     +-------- lan -------+           172.16.1.0/24, MTU 1500
var (
	masterPod = netip.MustParseAddr("10.244.0.2")
	nodePod   = netip.MustParseAddr("10.244.1.2")
	nodeCNI   = netip.MustParseAddr("10.244.1.1")
	localCNI  = netip.MustParseAddr("10.244.0.1")
)

func open(t *testing.T, lab *labtest.Lab, name string) *probe.Session {
	t.Helper()
	ns, err := lab.Namespace(name)
	if err != nil {
		t.Fatal(err)
	}
	s, err := probe.Open(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ping(t *testing.T, s *probe.Session, p probe.Ping) probe.Pong {
	t.Helper()
	pong, err := s.Ping(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return pong
}

func TestPing(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := open(t, lab, "master-pod-1")
	short := 30 * time.Millisecond

	t.Run("TTL as received", func(t *testing.T) {
		for dst, ttl := range map[netip.Addr]int{masterPod: 64, localCNI: 64, nodeCNI: 63, nodePod: 62} {
			pong := ping(t, s, probe.Ping{Dst: dst})
			if !pong.Answered() || pong.Replies[0].TTL != ttl || pong.Replies[0].From != dst || pong.Replies[0].Size != 84 {
				t.Errorf("ping %s: %s, want ttl %d", dst, &pong, ttl)
			}
			if rtt := pong.Replies[0].RTT; rtt <= 0 || rtt > time.Second {
				t.Errorf("ping %s: RTT %v", dst, rtt)
			}
		}
	})
	t.Run("count", func(t *testing.T) {
		pong := ping(t, s, probe.Ping{Dst: nodePod, Count: 5})
		if len(pong.Replies) != 5 || pong.Sent != 5 {
			t.Errorf("%d replies to %d requests, want 5 to 5", len(pong.Replies), pong.Sent)
		}
	})
	t.Run("source", func(t *testing.T) {
		lab.Exec(t, "master-pod-1", "ip", "addr", "add", "10.244.0.77/24", "dev", "eth0")
		pong := ping(t, s, probe.Ping{Dst: nodePod, Src: netip.MustParseAddr("10.244.0.77")})
		if !pong.Answered() {
			t.Error(&pong)
		}
		pong = ping(t, s, probe.Ping{Dst: nodePod, Src: netip.MustParseAddr("192.0.2.1")})
		if pong.Refused == nil {
			t.Errorf("a source that is not ours: %s, want a refusal", &pong)
		}
	})
	t.Run("time exceeded", func(t *testing.T) {
		pong := ping(t, s, probe.Ping{Dst: nodePod, TTL: 1})
		want := probe.ICMPError{From: localCNI, Type: 11}
		if pong.Error == nil || *pong.Error != want {
			t.Errorf("TTL 1: %s, want %s", &pong, want)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		pong := ping(t, s, probe.Ping{Dst: netip.MustParseAddr("172.16.1.200"), Wait: short, Tries: 2})
		if pong.Sent != 2 || pong.Waited < 2*short || len(pong.Replies) > 0 {
			t.Errorf("%s, want silence for two requests", &pong)
		}
		if s := pong.String(); !strings.HasPrefix(s, "no answer to 2 requests in ") {
			t.Error(s)
		}
	})
	t.Run("refused", func(t *testing.T) {
		lab.Exec(t, "master-pod-1", "ip", "route", "add", "unreachable", "192.0.2.0/24")
		pong := ping(t, s, probe.Ping{Dst: netip.MustParseAddr("192.0.2.9")})
		if pong.Refused == nil || pong.Refused.Errno != "EHOSTUNREACH" {
			t.Errorf("%s, want EHOSTUNREACH", &pong)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		for _, p := range []probe.Ping{
			{}, {Dst: netip.IPv6LinkLocalAllNodes()}, {Dst: nodePod, Size: 43}, {Dst: nodePod, Size: 65536}, {Dst: nodePod, TTL: 256},
		} {
			if _, err := s.Ping(t.Context(), p); err == nil {
				t.Errorf("%+v: no error", p)
			}
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), short)
		defer cancel()
		_, err := s.Ping(ctx, probe.Ping{Dst: netip.MustParseAddr("172.16.1.200"), Wait: time.Minute})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	t.Run("an ID in use", func(t *testing.T) {
		id := uuid.New()
		_, err := s.PingAll(t.Context(), []probe.Ping{
			{Dst: netip.MustParseAddr("172.16.1.200"), ID: id, Wait: short, Tries: 1},
			{Dst: netip.MustParseAddr("172.16.1.200"), ID: id, Wait: short, Tries: 1},
		})
		if err == nil || !strings.Contains(err.Error(), "under way already") {
			t.Error(err)
		}
	})
	t.Run("many", func(t *testing.T) {
		pings := make([]probe.Ping, 1000)
		for i := range pings {
			pings[i].Dst = []netip.Addr{nodePod, nodeCNI, localCNI}[i%3]
		}
		pongs, err := s.PingAll(t.Context(), pings)
		if err != nil {
			t.Fatal(err)
		}
		for i, pong := range pongs {
			if want := 62 + i%3; !pong.Answered() || pong.Replies[0].TTL != want {
				t.Fatalf("ping %d: %s, want ttl %d", i, &pong, want)
			}
		}
	})
}

func TestDontFragment(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := open(t, lab, "master-pod-1")
	df := func(size int) probe.Pong { return ping(t, s, probe.Ping{Dst: nodePod, Size: size, DF: true}) }

	if pong := df(1450); !pong.Answered() {
		t.Errorf("1450 bytes: %s, want an answer", &pong)
	}
	for range 3 { // an error must not spoil what comes after it
		if pong := df(1451); pong.Refused == nil || *pong.Refused != (probe.Refusal{Errno: "EMSGSIZE", MTU: 1450}) {
			t.Errorf("1451 bytes: %s, want EMSGSIZE, mtu 1450", &pong)
		}
		if pong := df(1450); !pong.Answered() {
			t.Errorf("1450 bytes after 1451: %s, want an answer", &pong)
		}
	}
	if pong := ping(t, s, probe.Ping{Dst: nodePod, Size: 4000}); !pong.Answered() || pong.Replies[0].Size != 4000 {
		t.Errorf("4000 bytes without DF: %s, want an answer", &pong)
	}

	// A pod that believes in 1500 is told otherwise by its node.
	widen(t, lab)
	want := probe.ICMPError{From: localCNI, Type: 3, Code: 4, MTU: 1450}
	for range 3 {
		if pong := df(1500); pong.Error == nil || *pong.Error != want {
			t.Errorf("1500 bytes from a link of 1500: %s, want %s", &pong, want)
		}
	}
}

// widen gives the pod's link the underlay's MTU, at both ends.
func widen(t *testing.T, lab *labtest.Lab) {
	t.Helper()
	lab.Exec(t, "master", "ip", "link", "set", lab.Plan().Pods[0].HostInterface, "mtu", "1500")
	lab.Exec(t, "master-pod-1", "ip", "link", "set", "eth0", "mtu", "1500")
}

func TestPathMTU(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := open(t, lab, "master-pod-1")
	find := func(limit int) probe.PathMTU {
		m, err := s.PathMTU(t.Context(), nodePod, limit, 50*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := find(0); m.MTU != 1450 || m.Named.IsValid() || m.BlackHole || m.Probes > 2 {
		t.Errorf("%+v, want 1450 named by the own kernel in 2 probes", m)
	}
	widen(t, lab)
	if m := find(0); m.MTU != 1450 || m.Named != localCNI || m.BlackHole {
		t.Errorf("%+v, want 1450 named by %s", m, localCNI)
	}
	// The underlay drops what is above 1400 without a word.
	lab.Exec(t, "master", "nft", "add table ip t; add chain ip t c { type filter hook postrouting priority 0; }; add rule ip t c oif ens3 ip length > 1400 drop")
	if m := find(1460); m.MTU != 1350 || !m.BlackHole {
		t.Errorf("%+v, want 1350, found by search", m)
	}
}

func TestEcho(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	client, server := open(t, lab, "master-pod-1"), open(t, lab, "node-1-pod-1")
	echo := func(tr probe.Transport, dst netip.Addr) probe.EchoReply {
		t.Helper()
		port, err := server.EchoPort(tr)
		if err != nil {
			t.Fatal(err)
		}
		r, err := client.Echo(t.Context(), probe.Echo{
			Transport: tr, Server: netip.AddrPortFrom(dst, port), Wait: 100 * time.Millisecond, Tries: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, tr := range []probe.Transport{probe.UDP, probe.TCP} {
		if r := echo(tr, nodePod); r.Seen.Addr() != masterPod || r.From.Addr() != nodePod {
			t.Errorf("%s: %s, want seen as %s by %s", tr, &r, masterPod, nodePod)
		}
		if r := echo(tr, netip.MustParseAddr("10.244.1.99")); r.Failure == "" {
			t.Errorf("%s to nobody: %s", tr, &r)
		}
	}
	lab.Exec(t, "master", "nft", "add table ip t; add chain ip t c { type nat hook postrouting priority srcnat; }; add rule ip t c oifname flannel.1 masquerade")
	for _, tr := range []probe.Transport{probe.UDP, probe.TCP} {
		if r := echo(tr, nodePod); r.Seen.Addr() != netip.MustParseAddr("10.244.0.0") {
			t.Errorf("%s behind NAT: %s, want seen as flannel.1", tr, &r)
		}
	}
	if _, err := client.Echo(t.Context(), probe.Echo{Transport: "sctp"}); err == nil {
		t.Error("an unknown transport: no error")
	}
	if _, err := client.EchoPort("sctp"); err == nil {
		t.Error("an unknown transport: a port")
	}
}

func TestState(t *testing.T) {
	plan := labtest.Plan(2, 1, 1500)
	lab := labtest.Up(t, plan)
	lab.Exec(t, "master", "ip", "route", "add", "blackhole", "10.244.9.0/24")
	st, err := open(t, lab, "master").State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	vtep := st.Link("flannel.1")
	if vtep == nil || vtep.VXLAN == nil {
		t.Fatalf("no VXLAN device in %+v", st.Links)
	}
	if want := (probe.VXLAN{VNI: 1, Port: 8472, Local: plan.Nodes[0].PublicIP(), Dev: st.Link("ens3").Index}); *vtep.VXLAN != want {
		t.Errorf("flannel.1 is %+v, want %+v", *vtep.VXLAN, want)
	}
	if vtep.MAC != plan.Nodes[0].VtepMAC || vtep.MTU != 1450 || !vtep.Up || vtep.IPv4()[0].String() != "10.244.0.0/32" {
		t.Errorf("flannel.1 is %+v", vtep)
	}
	peer := plan.Nodes[1]
	lists := map[string][]string{}
	for _, r := range st.Routes {
		lists["routes"] = append(lists["routes"], r.String())
	}
	for _, n := range st.NeighboursOn("flannel.1") {
		lists["neighbours"] = append(lists["neighbours"], n.String())
	}
	for _, f := range st.FDBOf("flannel.1") {
		lists["fdb"] = append(lists["fdb"], f.String())
	}
	for list, want := range map[string]string{
		"routes":     "10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
		"neighbours": "10.244.1.0 dev flannel.1 lladdr " + peer.VtepMAC.String() + " PERMANENT",
		"fdb":        peer.VtepMAC.String() + " dev flannel.1 dst 172.16.1.9 self permanent",
	} {
		if !strings.Contains(strings.Join(lists[list], "\n"), want) {
			t.Errorf("%s: %q is not in\n%s", list, want, strings.Join(lists[list], "\n"))
		}
	}
	if !strings.Contains(strings.Join(lists["routes"], "\n"), "blackhole 10.244.9.0/24") {
		t.Errorf("no blackhole route in %v", lists["routes"])
	}

	pod, err := open(t, lab, "master-pod-1").State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	port := st.Link(plan.Pods[0].HostInterface)
	eth0 := pod.Link("eth0")
	if eth0 == nil || port == nil || eth0.Peer != port.Index || port.Peer != eth0.Index || port.Master != st.Link("cni0").Index {
		t.Errorf("eth0 %+v and %+v are not a pair on cni0", eth0, port)
	}
	if port.Kind != "veth" || port.PeerNS < 0 {
		t.Errorf("%+v is no veth to another namespace", port)
	}
}

func TestReadFile(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	b, err := open(t, lab, "node-1").ReadFile(t.Context(), "/run/flannel/subnet.env")
	if err != nil || !strings.Contains(string(b), "FLANNEL_SUBNET=10.244.1.1/24") {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := open(t, lab, "node-1").ReadFile(t.Context(), "/run/nothing"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// elsewhere is a namespace that this process cannot enter.
type elsewhere struct{ topology.Namespace }

func (elsewhere) Name() string { return "far" }

func TestOpenElsewhere(t *testing.T) {
	_, err := probe.Open(t.Context(), elsewhere{})
	if !errors.Is(err, probe.ErrNotLocal) || !strings.Contains(err.Error(), "far") {
		t.Error(err)
	}
}

func TestClosedSession(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	ns, err := lab.Namespace("master")
	if err != nil {
		t.Fatal(err)
	}
	s, err := probe.Open(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ping(t.Context(), probe.Ping{Dst: masterPod}); err == nil {
		t.Error("ping in a closed session: no error")
	}
}

func BenchmarkPing(b *testing.B) {
	lab := labtest.Up(b, labtest.Plan(2, 1, 1500))
	ns, err := lab.Namespace("master-pod-1")
	if err != nil {
		b.Fatal(err)
	}
	s, err := probe.Open(b.Context(), ns)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	for b.Loop() {
		if pong, err := s.Ping(b.Context(), probe.Ping{Dst: nodePod}); err != nil || !pong.Answered() {
			b.Fatal(&pong, err)
		}
	}
}
