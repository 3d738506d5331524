package predict_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk/predict"
	"github.com/overlab/overlab/topology"
)

func mac(last byte) topology.MAC { return topology.MAC{2, 0, 0, 0, 0, last} }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefixes(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// Ids of namespaces, the same in all: the kernel's differ, and nothing hangs
// on it.
var spaces = map[int]string{1: "n1", 2: "n2", 3: "p1", 4: "p2", 5: "underlay"}

// veth is one end; peer and ns are the index and the namespace of the other.
func veth(index int, name string, m byte, peer, ns, master int, a ...string) probe.Link {
	return probe.Link{Index: index, Name: name, Kind: "veth", MAC: mac(m), MTU: 1450, Up: true, Oper: "up", Peer: peer, PeerNS: ns, Master: master, Addresses: prefixes(a...)}
}

func bridge(index int, name string, m byte, a ...string) probe.Link {
	return probe.Link{Index: index, Name: name, Kind: "bridge", MAC: mac(m), MTU: 1450, Up: true, Oper: "up", Addresses: prefixes(a...)}
}

func vtep(m byte, own, local string) probe.Link {
	return probe.Link{
		Index: 4, Name: "flannel.1", Kind: "vxlan", MAC: mac(m), MTU: 1450, Up: true, Oper: "unknown", PeerNS: -1, Addresses: prefixes(own),
		VXLAN: &probe.VXLAN{VNI: 1, Port: 8472, Local: addr(local), Dev: 2},
	}
}

func route(dst, via, dev string) probe.Route {
	r := probe.Route{Dst: netip.MustParsePrefix(dst), Dev: dev}
	if via != "" {
		r.Via, r.Onlink = addr(via), dev == "flannel.1"
	}
	return r
}

func neighbour(ip, dev string, m byte) probe.Neighbour {
	return probe.Neighbour{IP: addr(ip), Dev: dev, MAC: mac(m), State: "PERMANENT"}
}

// network is two nodes with a pod each.
//
//	p1 eth0 .1.2 (03)        p2 eth0 .2.2 (04)
//	   vp1                      vp2
//	n1 cni0 .1.1 (13)        n2 cni0 .2.1 (23)
//	   flannel.1 .1.0 (14)      flannel.1 .2.0 (24)
//	   eth0 172.16.1.1 (11)     eth0 172.16.1.2 (21)
//	        +-------- lan ----------+
func network() *predict.Network {
	state := func(name string, links []probe.Link, routes []probe.Route, neighbours []probe.Neighbour, fdb ...probe.FDBEntry) *predict.Space {
		return &predict.Space{
			State:      &probe.State{Namespace: name, Links: links, Routes: routes, Neighbours: neighbours, FDB: fdb},
			Namespaces: spaces, Sysctls: map[string]string{},
		}
	}
	eth := func(l probe.Link) probe.Link { l.MTU = 1500; return l }
	lan := bridge(2, "lan", 0x50)
	lan.MTU = 1500
	return &predict.Network{
		Overlay: netip.MustParsePrefix("10.244.0.0/16"),
		Spaces: map[string]*predict.Space{
			"p1": state("p1", []probe.Link{veth(2, "eth0", 0x03, 5, 1, 0, "10.244.1.2/24")},
				[]probe.Route{route("0.0.0.0/0", "10.244.1.1", "eth0"), route("10.244.1.0/24", "", "eth0")},
				[]probe.Neighbour{neighbour("10.244.1.1", "eth0", 0x13)}),
			"p2": state("p2", []probe.Link{veth(2, "eth0", 0x04, 5, 2, 0, "10.244.2.2/24")},
				[]probe.Route{route("0.0.0.0/0", "10.244.2.1", "eth0"), route("10.244.2.0/24", "", "eth0")}, nil),
			"n1": state("n1",
				[]probe.Link{eth(veth(2, "eth0", 0x11, 3, 5, 0, "172.16.1.1/24")), bridge(3, "cni0", 0x13, "10.244.1.1/24"), vtep(0x14, "10.244.1.0/32", "172.16.1.1"), veth(5, "vp1", 0x15, 2, 3, 3)},
				[]probe.Route{route("10.244.1.0/24", "", "cni0"), route("10.244.2.0/24", "10.244.2.0", "flannel.1"), route("172.16.1.0/24", "", "eth0")},
				[]probe.Neighbour{neighbour("10.244.2.0", "flannel.1", 0x24), neighbour("172.16.1.2", "eth0", 0x21)},
				probe.FDBEntry{MAC: mac(0x24), Dev: "flannel.1", Dst: addr("172.16.1.2"), Self: true, State: "permanent"}),
			"n2": state("n2",
				[]probe.Link{eth(veth(2, "eth0", 0x21, 4, 5, 0, "172.16.1.2/24")), bridge(3, "cni0", 0x23, "10.244.2.1/24"), vtep(0x24, "10.244.2.0/32", "172.16.1.2"), veth(5, "vp2", 0x25, 2, 4, 3)},
				[]probe.Route{route("10.244.2.0/24", "", "cni0"), route("10.244.1.0/24", "10.244.1.0", "flannel.1"), route("172.16.1.0/24", "", "eth0")},
				[]probe.Neighbour{neighbour("10.244.1.0", "flannel.1", 0x14)},
				probe.FDBEntry{MAC: mac(0x14), Dev: "flannel.1", Dst: addr("172.16.1.1"), Self: true, State: "permanent"},
				probe.FDBEntry{MAC: mac(0x04), Dev: "vp2"}),
			"underlay": state("underlay", []probe.Link{lan, eth(veth(3, "to-n1", 0x51, 2, 1, 2)), eth(veth(4, "to-n2", 0x52, 2, 2, 2))}, nil, nil,
				probe.FDBEntry{MAC: mac(0x21), Dev: "to-n2"}),
		},
	}
}

func ping() predict.Packet { return predict.Packet{Dst: addr("10.244.2.2"), TTL: 64, Size: 84} }

func hops(p *predict.Path) string {
	var out []string
	for _, h := range p.Hops {
		out = append(out, h.Tap()+" "+string(h.Direction))
	}
	return strings.Join(out, ", ")
}

const whole = "p1:eth0 out, n1:vp1 in, n1:cni0 in, n1:flannel.1 out, n1:eth0 out, underlay:to-n1 in, underlay:to-n2 out, " +
	"n2:eth0 in, n2:flannel.1 in, n2:cni0 out, n2:vp2 out, p2:eth0 in"

// TestPath: the whole way and back, with what decides and the headers.
func TestPath(t *testing.T) {
	n := network()
	there := n.Predict("p1", ping())
	if there.Drop != nil || hops(there) != whole {
		t.Fatalf("%s\n%+v", hops(there), there.Drop)
	}
	if a := there.Arrived; there.End != "p2" || a.Src != addr("10.244.1.2") || a.TTL != 62 {
		t.Errorf("at %s: %+v", there.End, a)
	}
	out := there.Hops[4]
	var kinds, entries []string
	for _, d := range out.Decisions {
		kinds, entries = append(kinds, d.Kind), append(entries, d.Entry)
	}
	if want := []string{"fdb", "vxlan", "route", "neighbour"}; !slices.Equal(kinds, want) {
		t.Errorf("decided by %v, not %v", kinds, want)
	}
	if want := "02:00:00:00:00:24 dev flannel.1 dst 172.16.1.2 self permanent"; entries[0] != want {
		t.Errorf("FDB entry %q, not %q", entries[0], want)
	}
	f := out.Frame
	if f.SrcMAC != mac(0x11) || f.DstMAC != mac(0x21) || f.Dst != addr("172.16.1.2") || f.TTL != 64 || f.Size != 134 ||
		*f.Encap != (predict.Encap{Kind: "vxlan", Port: 8472, VNI: 1}) {
		t.Errorf("outer %+v", f)
	}
	if i := f.Inner; i.SrcMAC != mac(0x14) || i.DstMAC != mac(0x24) || i.TTL != 63 || i.Size != 84 {
		t.Errorf("inner %+v", i)
	}
	back := n.Reply(there)
	if back.Drop != nil || back.End != "p1" || len(back.Hops) != 12 || back.Arrived.TTL != 62 {
		t.Errorf("%s\n%+v", hops(back), back.Drop)
	}
}

// TestDrops: each fault ends the way where the kernel would, and is named.
func TestDrops(t *testing.T) {
	for _, test := range []struct {
		name     string
		spoil    func(*predict.Network)
		packet   predict.Packet
		hops     int
		cause    string
		on, mend string
	}{
		{"no FDB entry", func(n *predict.Network) { n.Spaces["n1"].State.FDB = nil }, ping(), 4,
			"n1 has no FDB entry for 02:00:00:00:00:24 on flannel.1: vxlan_xmit has no address to send to, and drops the packet",
			"n1", "bridge fdb replace 02:00:00:00:00:24 dev flannel.1 dst 172.16.1.2 self permanent"},
		{"an FDB entry to nobody", func(n *predict.Network) { n.Spaces["n1"].State.FDB[0].Dst = addr("172.16.1.99") }, ping(), 4,
			"n1's FDB entry for 02:00:00:00:00:24 on flannel.1 leads to 172.16.1.99, nobody's address, and the MAC is that of n2's flannel.1; so n1 has no neighbour entry for 172.16.1.99 on eth0, and nobody there answers ARP: the kernel drops the packet",
			"n1", "bridge fdb replace 02:00:00:00:00:24 dev flannel.1 dst 172.16.1.2 self permanent"},
		{"no neighbour", func(n *predict.Network) { n.Spaces["n1"].State.Neighbours = nil }, ping(), 3,
			"n1 has no neighbour entry for 10.244.2.0 on flannel.1: ARP has no way through the tunnel, and the kernel drops the packet",
			"n1", "ip neigh replace 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:24 nud permanent"},
		{"a failed neighbour", func(n *predict.Network) { n.Spaces["n1"].State.Neighbours[0].State = "FAILED" }, ping(), 3,
			"n1 has only `10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:24 FAILED` for the next hop on flannel.1: ARP has no way through the tunnel, and the kernel drops the packet",
			"n1", "ip neigh replace 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:24 nud permanent"},
		{"a neighbour's MAC that is wrong", func(n *predict.Network) {
			n.Spaces["n1"].State.Neighbours[0].MAC = mac(0x99)
			n.Spaces["n1"].State.FDB[0].MAC = mac(0x99)
		}, ping(), 9,
			"n1's neighbour entry for 10.244.2.0 on flannel.1 has 02:00:00:00:00:99, and n2's flannel.1 is 02:00:00:00:00:24; so the frame is for 02:00:00:00:00:99 and n2's flannel.1 is 02:00:00:00:00:24: the kernel drops it (OTHERHOST)",
			"n1", "ip neigh replace 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:24 nud permanent"},
		{"no route", func(n *predict.Network) { n.Spaces["n1"].State.Routes = n.Spaces["n1"].State.Routes[:1] }, ping(), 3,
			"n1 has no route to 10.244.2.0/24, the pods of n2; so the kernel finds no route to 10.244.2.2 (ENETUNREACH)",
			"n1", "ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"},
		{"a blackhole", func(n *predict.Network) {
			n.Spaces["n1"].State.Routes[1] = probe.Route{Dst: netip.MustParsePrefix("10.244.2.0/24"), Kind: "blackhole"}
		}, ping(), 3,
			"n1 has a route that refuses: blackhole 10.244.2.0/24; so the kernel drops what is for 10.244.2.2", "n1", "ip route del 10.244.2.0/24"},
		{"the other VNI", func(n *predict.Network) { n.Spaces["n2"].State.Links[2].VXLAN.VNI = 7 }, ping(), 8,
			"the packet has VNI 1 and n2's flannel.1 has VNI 7: the kernel drops it (VXLAN_VNI_NOT_FOUND)",
			"n1", "ip link del flannel.1; ip link add flannel.1 type vxlan id 7 dev eth0 local 172.16.1.1 dstport 8472 nolearning, or start the agent again"},
		{"a local address of somebody else", func(n *predict.Network) { n.Spaces["n1"].State.Links[2].VXLAN.Local = addr("10.0.2.15") }, ping(), 4,
			"flannel.1's local address 10.0.2.15 is not an address of n1: the kernel finds no route for it, and drops the packet", "n1", ""},
		{"no forwarding", func(n *predict.Network) { n.Spaces["n2"].Sysctls["net/ipv4/ip_forward"] = "0" }, ping(), 9,
			"n2 does not forward: net/ipv4/ip_forward is 0, and the kernel drops what is for others", "n2", "sysctl -w net/ipv4/ip_forward=1"},
		{"rp_filter", func(n *predict.Network) {
			n.Spaces["n2"].Sysctls["net/ipv4/conf/all/rp_filter"] = "1"
			n.Spaces["n2"].State.Routes[1] = route("10.244.1.0/24", "172.16.1.1", "eth0")
		}, ping(), 9,
			"rp_filter=1 on n2's flannel.1, and the way back to 10.244.1.2 is by eth0: the kernel drops the packet",
			"n2", "sysctl -w net/ipv4/conf/all/rp_filter=0 net/ipv4/conf/flannel.1/rp_filter=0"},
		{"the underlay's MTU", func(n *predict.Network) { n.Spaces["n2"].State.Links[0].MTU = 1000 },
			predict.Packet{Dst: addr("10.244.2.2"), TTL: 64, Size: 1200}, 7,
			"n2's eth0 has mtu 1000 and takes no packet of 1250 bytes: the kernel drops it without a word", "n2", "ip link set eth0 mtu 1500"},
		{"a bridge that is down", func(n *predict.Network) { n.Spaces["n2"].State.Links[1].Up = false }, ping(), 9,
			"cni0 is down on n2", "n2", "ip link set cni0 up"},
		{"a TTL of 1", func(*predict.Network) {}, predict.Packet{Dst: addr("10.244.2.2"), TTL: 1, Size: 84}, 3,
			"the TTL is used up on n1, which answers with ICMP time exceeded", "", "send with a greater TTL"},
		{"DF", func(*predict.Network) {}, predict.Packet{Dst: addr("10.244.2.2"), TTL: 64, Size: 1451, DF: true}, 0,
			"the packet of 1451 bytes may not be fragmented and eth0 has mtu 1450: the kernel refuses to send it (EMSGSIZE)", "", "send at most 1450 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := network()
			test.spoil(n)
			p := n.Predict("p1", test.packet)
			d := p.Drop
			if d == nil {
				t.Fatalf("it arrives at %s: %s", p.End, hops(p))
			}
			if d.Cause != test.cause || d.On != test.on || d.Mend != test.mend {
				t.Errorf("cause %s\nmend %s: %s, not\n      %s\nmend %s: %s", d.Cause, d.On, d.Mend, test.cause, test.on, test.mend)
			}
			if len(p.Hops) != test.hops || !strings.HasPrefix(whole, hops(p)) {
				t.Errorf("%d hops, not %d: %s", len(p.Hops), test.hops, hops(p))
			}
		})
	}
}

// TestOtherWays: what is not VXLAN between pods.
func TestOtherWays(t *testing.T) {
	lease := func(kind string, port int) *predict.Tunnels {
		return &predict.Tunnels{Kind: kind, Port: port, Ends: []predict.TunnelEnd{
			{Space: "n1", Subnet: netip.MustParsePrefix("10.244.1.0/24"), Address: addr("172.16.1.1")},
			{Space: "n2", Subnet: netip.MustParsePrefix("10.244.2.0/24"), Address: addr("172.16.1.2")},
		}}
	}
	tunnel := func(n *predict.Network, kind, dev string, t *predict.Tunnels) {
		n.Tunnels = t
		for _, name := range []string{"n1", "n2"} {
			s := n.Spaces[name].State
			s.Links[2] = probe.Link{Index: 4, Name: dev, Kind: kind, MTU: 1400, Up: true, Oper: "unknown"}
			s.Routes[1] = route("10.244.0.0/16", "", dev)
		}
	}
	for _, test := range []struct {
		name  string
		make  func(*predict.Network)
		from  string
		dst   string
		way   string
		ttl   int
		encap string
	}{
		{"host-gw", func(n *predict.Network) {
			n.Spaces["n1"].State.Routes[1] = route("10.244.2.0/24", "172.16.1.2", "eth0")
		}, "p1", "10.244.2.2", strings.NewReplacer("n1:flannel.1 out, ", "", "n2:flannel.1 in, ", "").Replace(whole), 62, ""},
		{"udp", func(n *predict.Network) { tunnel(n, "tuntap", "flannel0", lease("udp", 8285)) },
			"p1", "10.244.2.2", strings.ReplaceAll(whole, "flannel.1", "flannel0"), 60, "udp, UDP port 8285"},
		{"ipip", func(n *predict.Network) {
			tunnel(n, "ipip", "flannel.ipip", lease("ipip", 0))
			n.Spaces["n1"].State.Routes[1] = route("10.244.2.0/24", "172.16.1.2", "flannel.ipip")
		}, "p1", "10.244.2.2", strings.ReplaceAll(whole, "flannel.1", "flannel.ipip"), 62, "IP in IP"},
		{"wireguard", func(n *predict.Network) { tunnel(n, "wireguard", "flannel-wg", lease("wireguard", 51820)) },
			"p1", "10.244.2.2", strings.ReplaceAll(whole, "flannel.1", "flannel-wg"), 62, "wireguard, UDP port 51820"},
		{"a node", func(*predict.Network) {}, "n1", "172.16.1.2", "n1:eth0 out, underlay:to-n1 in, underlay:to-n2 out, n2:eth0 in", 64, ""},
		{"itself", func(n *predict.Network) {
			s := n.Spaces["p1"].State
			s.Links = append(s.Links, probe.Link{Index: 1, Name: "lo", Kind: "device", MTU: 65536, Up: true, Oper: "unknown", Addresses: prefixes("127.0.0.1/8")})
		}, "p1", "10.244.1.2", "p1:lo out, p1:lo in", 64, ""},
		{"a wire that nobody sees", func(n *predict.Network) { delete(n.Spaces, "underlay") },
			"p1", "10.244.2.2", strings.Replace(whole, "underlay:to-n1 in, underlay:to-n2 out, ", "", 1), 62, "VXLAN vni 1, UDP port 8472"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := network()
			test.make(n)
			p := n.Predict(test.from, predict.Packet{Dst: addr(test.dst), TTL: 64, Size: 84})
			if p.Drop != nil || hops(p) != test.way {
				t.Fatalf("%s, not\n%s\n%+v", hops(p), test.way, p.Drop)
			}
			if p.Arrived.TTL != test.ttl {
				t.Errorf("ttl %d, not %d", p.Arrived.TTL, test.ttl)
			}
			encap := ""
			for _, h := range p.Hops {
				if h.Frame.Encap != nil {
					encap = h.Frame.Encap.String()
				}
			}
			if encap != test.encap {
				t.Errorf("encapsulated as %q, not %q", encap, test.encap)
			}
		})
	}
}

// TestMasquerade: what leaves the overlay has its node's address, and the
// answer finds the pod.
func TestMasquerade(t *testing.T) {
	n := network()
	n.Spaces["n1"].Masquerade = true
	p := n.Predict("p1", predict.Packet{Dst: addr("172.16.1.2"), TTL: 64, Size: 84})
	if p.Arrived == nil || p.Arrived.Src != addr("172.16.1.1") {
		t.Fatalf("%+v, %+v", p.Arrived, p.Drop)
	}
	back := n.Reply(p)
	if back.Arrived == nil || back.End != "p1" || back.Arrived.Dst != addr("10.244.1.2") {
		t.Errorf("the answer ends at %s: %+v", back.End, back.Drop)
	}
}
