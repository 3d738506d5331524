package match_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/match"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func net(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	mac1 = topology.MAC{2, 0, 0, 0, 0, 1}
	mac2 = topology.MAC{2, 0, 0, 0, 0, 2}
)

func encapsulated() capture.Packet {
	p := capture.Packet{VXLAN: capture.VXLAN{Flags: 8, VNI: 1}}
	p.Layers = capture.LayerEthernet | capture.LayerIPv4 | capture.LayerUDP | capture.LayerVXLAN
	p.IP = capture.IP{TTL: 64, Src: ip("172.16.1.8"), Dst: ip("172.16.1.9")}
	p.UDP.Dst = 8472
	p.Inner.Layers = capture.LayerEthernet | capture.LayerIPv4 | capture.LayerICMP
	p.Inner.Eth = capture.Ethernet{Src: mac1, Dst: mac2}
	p.Inner.IP.TTL = 63
	return p
}

func bare() capture.Packet {
	var p capture.Packet
	p.Layers = capture.LayerEthernet | capture.LayerIPv4 | capture.LayerICMP
	p.IP = capture.IP{TTL: 63, Src: ip("10.244.0.2"), Dst: ip("10.244.1.2")}
	return p
}

// inUDP is a packet of flannel's udp backend.
func inUDP(port uint16) capture.Packet {
	p := encapsulated()
	p.Layers = capture.LayerEthernet | capture.LayerIPv4 | capture.LayerUDP | capture.LayerRawIP
	p.UDP.Src, p.UDP.Dst = port, port
	p.Inner.Layers, p.Inner.IP.TTL = capture.LayerIPv4|capture.LayerICMP, 62
	return p
}

func tagged() capture.Packet {
	p := encapsulated()
	p.Inner.Layers |= capture.LayerVLAN
	p.Inner.Eth.VLAN = 7
	return p
}

func TestMatchers(t *testing.T) {
	reply := probe.Pong{Sent: 1, Replies: []probe.Reply{{TTL: 62, RTT: 210 * time.Microsecond}}}
	silence := probe.Pong{Sent: 3, Waited: 1200 * time.Millisecond}
	refused := probe.Pong{Refused: &probe.Refusal{Errno: "EMSGSIZE", MTU: 1450}}
	tooBig := probe.Pong{Sent: 1, Error: &probe.ICMPError{From: ip("10.244.1.1"), Type: 3, Code: 4, MTU: 1400}}
	link := probe.Link{Name: "cni0", MTU: 1450, Up: true, Addresses: []netip.Prefix{net("fe80::1/64"), net("10.244.1.1/24"), net("10.244.1.9/24")}}
	st := probe.State{
		Routes:     []probe.Route{{Dst: net("10.244.2.0/24"), Via: ip("10.244.2.0"), Dev: "flannel.1", Onlink: true, Protocol: "boot"}},
		Neighbours: []probe.Neighbour{{IP: ip("10.244.2.0"), Dev: "flannel.1", MAC: mac2, State: "PERMANENT"}},
		FDB:        []probe.FDBEntry{{MAC: mac2, Dev: "flannel.1", Dst: ip("172.16.1.9"), Self: true, State: "permanent"}},
	}
	offlink := st.Routes[0]
	offlink.Onlink = false
	stale := st.Neighbours[0]
	stale.State = "STALE"
	elsewhere := st.FDB[0]
	elsewhere.Dst = ip("172.16.1.10")
	for _, c := range []struct {
		matcher match.Explainer
		good    any
		bad     any
		message string
	}{
		{match.HaveTTL(62), reply, silence, "expected a reply with ttl=62\nseen     no answer to 3 requests in 1.2s"},
		{match.HaveTTL(64), probe.Pong{Replies: []probe.Reply{{TTL: 64}}}, &reply, "expected a reply with ttl=64\nseen     ttl=62 rtt 0.21ms"},
		{match.BeAnswered(), reply, tooBig, "expected a reply\nseen     ICMP 3/4 fragmentation needed, mtu 1400, from 10.244.1.1"},
		{match.BeRefusedAbove(1450), refused, reply, "expected EMSGSIZE, mtu 1450\nseen     ttl=62 rtt 0.21ms"},
		{match.HavePathMTU(1430), probe.PathMTU{MTU: 1430}, probe.PathMTU{MTU: 1430, Named: ip("fd00::1")},
			"expected a path MTU of 1430 bytes, named by its own kernel\nseen     1430 bytes, named by fd00::1"},
		{match.HavePathMTU(1430), probe.PathMTU{MTU: 1430}, probe.PathMTU{MTU: 1430, BlackHole: true},
			"expected a path MTU of 1430 bytes, named by its own kernel\nseen     1430 bytes, and more vanishes"},
		{match.HaveOnlyAddress(net("fd00::1/128")), probe.Link{Name: "v", Addresses: []netip.Prefix{net("10.0.0.1/8"), net("fd00::1/128"), net("fe80::1/64")}}, link,
			"expected address fd00::1/128 and no other\nseen     cni0 has no address"},
		{match.BeSeenAs(ip("10.0.0.1"), ip("10.0.0.2")),
			probe.EchoReply{Seen: netip.MustParseAddrPort("10.0.0.1:1"), From: netip.MustParseAddrPort("10.0.0.2:2")},
			probe.EchoReply{Seen: netip.MustParseAddrPort("10.0.0.9:1"), From: netip.MustParseAddrPort("10.0.0.2:2")},
			"expected seen as 10.0.0.1, answered by 10.0.0.2\nseen     seen as 10.0.0.9, answered by 10.0.0.2"},
		{match.BeUp(), link, probe.Link{Name: "cni0"}, "expected up\nseen     cni0 is down"},
		{match.HaveMTU(1450), &link, probe.Link{Name: "eth0", MTU: 1500}, "expected mtu 1450\nseen     eth0 has mtu 1500"},
		{match.HaveMTU(1450), &link, (*probe.Link)(nil), "expected mtu 1450\nseen     nothing of the kind"},
		{match.HaveAddress(net("10.244.1.1/24")), link, probe.Link{Name: "cni0"}, "expected address 10.244.1.1/24\nseen     cni0 has no address"},
		{match.HaveOnlyAddress(net("10.244.1.1/24")), probe.Link{Addresses: link.Addresses[:2]}, link,
			"expected address 10.244.1.1/24 and no other\nseen     cni0 has 10.244.1.1/24; 10.244.1.9/24"},
		{match.HaveRoute(st.Routes[0]), st, probe.State{Routes: []probe.Route{offlink}},
			"expected route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink\nseen     10.244.2.0/24 via 10.244.2.0 dev flannel.1"},
		{match.HaveRoute(st.Routes[0]), st, probe.State{},
			"expected route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink\nseen     no route to 10.244.2.0/24"},
		{match.HaveNeighbour(st.Neighbours[0]), st, probe.State{Neighbours: []probe.Neighbour{stale}},
			"expected neighbour 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:02 PERMANENT\nseen     10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:02 STALE"},
		{match.HaveFDB(st.FDB[0]), st, probe.State{FDB: []probe.FDBEntry{elsewhere, st.FDB[0]}},
			"expected FDB entry 02:00:00:00:00:02 dev flannel.1 dst 172.16.1.9 self permanent\n" +
				"seen     02:00:00:00:00:02 dev flannel.1 dst 172.16.1.10 self permanent; 02:00:00:00:00:02 dev flannel.1 dst 172.16.1.9 self permanent"},
		{match.BeEncapsulated(1, 8472), encapsulated(), bare(), "expected VXLAN, vni 1, in UDP to port 8472\nseen     bare ICMP 10.244.0.2 > 10.244.1.2, ttl 63"},
		{match.GoBetween(ip("172.16.1.8"), ip("172.16.1.9"), 8472), encapsulated(), capture.Packet{}, "expected UDP 172.16.1.8 > 172.16.1.9.8472\nseen     Ethernet type 0x0000"},
		{match.HaveVXLANHeader(1), encapsulated(), bare(), "expected VXLAN, flags [I] (0x08), vni 1\nseen     bare ICMP 10.244.0.2 > 10.244.1.2, ttl 63"},
		{match.HaveInnerMACs(mac1, mac2), encapsulated(), tagged(),
			"expected inner 02:00:00:00:00:01 > 02:00:00:00:00:02, untagged\nseen     inner 02:00:00:00:00:01 > 02:00:00:00:00:02, tagged with VLAN 7"},
		{match.HaveInnerTTL(63), encapsulated(), bare(), "expected inner ttl 63\nseen     bare ICMP 10.244.0.2 > 10.244.1.2, ttl 63"},
		{match.CarryIPv4(ip("172.16.1.8"), ip("172.16.1.9"), 8285), inUDP(8285), inUDP(8286),
			"expected IPv4 in UDP 172.16.1.8.8285 > 172.16.1.9.8285\nseen     IPv4 in UDP 172.16.1.8.8286 > 172.16.1.9.8286"},
		{match.HaveInnerTTL(62), inUDP(8285), bare(), "expected inner ttl 62\nseen     bare ICMP 10.244.0.2 > 10.244.1.2, ttl 63"},
		{match.HaveOuterTTL(64), encapsulated(), bare(), "expected outer ttl 64\nseen     outer ttl 63"},
	} {
		if ok, err := c.matcher.Match(c.good); !ok || err != nil {
			t.Errorf("%+v does not match: %s, %v", c.good, c.matcher.FailureMessage(c.good), err)
		}
		if ok, err := c.matcher.Match(c.bad); ok || err != nil {
			t.Errorf("%+v matches, %v", c.bad, err)
		}
		if got := c.matcher.FailureMessage(c.bad); got != c.message {
			t.Errorf("it says\n%s\nwant\n%s", got, c.message)
		}
		if _, err := c.matcher.Match(3.14); err == nil {
			t.Errorf("%T takes a number", c.matcher)
		}
	}
}

// TestWithGomega: the matchers are gomega's.
func TestWithGomega(t *testing.T) {
	g := gomega.NewWithT(t)
	g.Expect(encapsulated()).To(gomega.And(match.BeEncapsulated(1, 8472), match.HaveInnerTTL(63)))
	g.Expect(bare()).NotTo(match.BeEncapsulated(1, 8472))
	want := "expected anything but up\nseen     eth0 is down"
	if got := match.BeUp().NegatedFailureMessage(probe.Link{Name: "eth0"}); got != want {
		t.Error(got)
	}
}
