package checks_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/topology"
)

// TestSoundDualStack: a lab of both families passes in both.
func TestSoundDualStack(t *testing.T) {
	for name, c := range map[string]struct {
		backend string
		passed  int
	}{
		"vxlan":   {"vxlan", 66},
		"host-gw": {"host-gw", 35},
	} {
		t.Run(name, func(t *testing.T) {
			plan := labtest.DualPlan(3, 2, 1500)
			plan.Network.Backend.Type = c.backend
			lab := labtest.Up(t, plan)
			startStore(t, lab)
			r := run(t, lab, suite.Options{}, append(slices.Clone(withoutAgents), "MTU-07", "DS-01/(NM|TTL|DP|CP|WF|MTU|BE)")...)
			for _, res := range r.Results {
				t.Log(res.ID, res.Verdict, res.Evidence, res.Reason)
				if res.Verdict != suite.Pass && res.Verdict != suite.NotApplicable {
					t.Error(text(res))
				}
			}
			if passed := r.Count(suite.Pass); passed != c.passed {
				t.Errorf("%d checks passed, want %d", passed, c.passed)
			}
		})
	}
}

// The lab of the faults in IPv6, which has the IPv4 of faults_test.go besides;
// N is 0 for master, 1 for node-1, 2 for node-2:
//
//	pods          fd00:10:244:N::2, fd00:10:244:N::3
//	cni0          fd00:10:244:N::1/64
//	flannel-v6.1  fd00:10:244:N::/128
//	ens3          fd00:172:16:1::8, ::9, ::a       the underlay's MTU is 1500
var (
	vtep62 = topology.DeriveMAC("node-2", "vtep6").String()
	vtep61 = topology.DeriveMAC("node-1", "vtep6").String()
)

const (
	table6   = "nft add table ip6 t"
	noTable6 = "nft delete table ip6 t"
)

func filterChain6(hook string) string {
	return "nft add chain ip6 t c { type filter hook " + hook + " priority 0 ; }"
}

// dualFaults break IPv6 and, but where they say so, leave IPv4 whole.
func dualFaults() []fault {
	return append(dualBackendFaults(), []fault{
		{
			name: "a pod speaks from another address", check: "DS-01/NM-01",
			brk:  []string{"node-1-pod-1: ip addr add fd00:10:244:1::77/64 dev eth0 nodad", "node-1-pod-1: solicitable eth0 fd00:10:244:1::77", "node-1-pod-1: ip -6 route add fd00:10:244:1::/64 dev eth0 src fd00:10:244:1::77 metric 5"},
			mend: []string{"node-1-pod-1: ip -6 route del fd00:10:244:1::/64 dev eth0 metric 5", "node-1-pod-1: ip addr del fd00:10:244:1::77/64 dev eth0"},
			want: "fd00:10:244:1::3 over tcp: expected seen as fd00:10:244:1::2, answered by fd00:10:244:1::3, seen seen as fd00:10:244:1::77",
		},
		{
			name: "a node masquerades what crosses", check: "DS-01/NM-02",
			brk:  []string{"node-1: " + table6, "node-1: nft add chain ip6 t c { type nat hook postrouting priority srcnat ; }", "node-1: nft add rule ip6 t c oifname flannel-v6.1 masquerade"},
			mend: []string{"node-1: " + noTable6},
			want: "over udp: expected seen as fd00:10:244:1::2, answered by fd00:10:244::2, seen seen as fd00:10:244:1::,",
		},
		{
			name: "a pod's output changes the hop limit", check: "DS-01/TTL-01",
			brk:  []string{"node-1-pod-2: " + table6, "node-1-pod-2: " + filterChain6("output"), "node-1-pod-2: nft add rule ip6 t c icmpv6 type echo-reply ip6 hoplimit set 60"},
			mend: []string{"node-1-pod-2: " + noTable6},
			want: "node-1-pod-1 (node-1) > node-1-pod-2 (node-1) fd00:10:244:1::3: expected a reply with ttl=64, seen ttl=60",
		},
		{
			name: "the remote node answers with another hop limit", check: "DS-01/TTL-02",
			brk:  []string{"node-2: " + table6, "node-2: " + filterChain6("output"), "node-2: nft add rule ip6 t c icmpv6 type echo-reply ip6 hoplimit set 32"},
			mend: []string{"node-2: " + noTable6},
			want: "> cni0 of node-2 fd00:10:244:2::1: expected a reply with ttl=63, seen ttl=31",
		},
		{
			name: "forwarding is off", check: "DS-01/TTL-03",
			brk:  []string{"node-1: sysctl -q net.ipv6.conf.all.forwarding=0"},
			mend: []string{"node-1: sysctl -q net.ipv6.conf.all.forwarding=1"},
			want: "node-1-pod-1 (node-1) > master-pod-1 (master) fd00:10:244::2: expected a reply with ttl=62, seen no answer to 2 requests",
		},
		{
			name: "the underlay drops VXLAN over IPv6", check: "DS-01/TTL-03",
			brk:  []string{"node-2: " + table6, "node-2: " + filterChain6("input"), "node-2: nft add rule ip6 t c udp dport 8472 drop"},
			mend: []string{"node-2: " + noTable6},
			want: "node-2-pod-1 (node-2) fd00:10:244:2::2: expected a reply with ttl=62, seen no answer",
		},
		{
			name: "cni0 has another address", check: "DS-01/DP-01",
			brk:  []string{"node-1: ip addr del fd00:10:244:1::1/64 dev cni0", "node-1: ip addr add fd00:10:244:1::fe/64 dev cni0 nodad"},
			mend: []string{"node-1: ip addr del fd00:10:244:1::fe/64 dev cni0", "node-1: ip addr add fd00:10:244:1::1/64 dev cni0 nodad"},
			want: "node-1 cni0: expected address fd00:10:244:1::1/64, seen cni0 has fd00:10:244:1::fe/64",
		},
		{
			name: "a pod has no default route", check: "DS-01/DP-03",
			brk:  []string{"node-1-pod-1: ip -6 route del default"},
			mend: []string{"node-1-pod-1: ip -6 route add default via fd00:10:244:1::1"},
			want: "node-1-pod-1: expected route default via fd00:10:244:1::1 dev eth0, seen no route to ::/0",
		},
		{
			name: "another VNI", check: "DS-01/DP-04", rewire: func(v *rtnl.Vxlan) { v.VNI = 2 },
			want: "node-1 flannel-v6.1: expected vni 1, seen vni 2",
		},
		{
			name: "another local address", check: "DS-01/DP-04", rewire: func(v *rtnl.Vxlan) { v.Local = netip.MustParseAddr("fd00:172:16:1::99") },
			want: "node-1 flannel-v6.1: expected local fd00:172:16:1::9, seen local fd00:172:16:1::99",
		},
		{
			name: "the VTEP has a second address", check: "DS-01/DP-04",
			brk:  []string{"node-1: ip addr add fd00:10:244:7::/128 dev flannel-v6.1 nodad"},
			mend: []string{"node-1: ip addr del fd00:10:244:7::/128 dev flannel-v6.1"},
			want: "node-1 flannel-v6.1: expected address fd00:10:244:1::/128 and no other, seen flannel-v6.1 has",
		},
		{
			name: "a neighbour is missing", check: "DS-01/CP-01",
			brk:  []string{"node-1: ip neigh del fd00:10:244:2:: dev flannel-v6.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected neighbour fd00:10:244:2:: dev flannel-v6.1 lladdr " + vtep62 + " PERMANENT, seen no entry for fd00:10:244:2:: on flannel-v6.1",
		},
		{
			name: "a neighbour too many", check: "DS-01/CP-01",
			brk:  []string{"node-1: ip neigh add fd00:10:244:9:: dev flannel-v6.1 lladdr 02:00:00:00:00:99 nud permanent"},
			mend: []string{"node-1: ip neigh del fd00:10:244:9:: dev flannel-v6.1"},
			want: "node-1: expected no PERMANENT neighbour but the peers', seen fd00:10:244:9:: dev flannel-v6.1 lladdr 02:00:00:00:00:99 PERMANENT",
		},
		{
			name: "an FDB entry leads elsewhere", check: "DS-01/CP-02",
			brk:  []string{"node-1: bridge fdb replace " + vtep62 + " dev flannel-v6.1 dst fd00:172:16:1::8 self permanent"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected FDB entry " + vtep62 + " dev flannel-v6.1 dst fd00:172:16:1::a self permanent, seen " + vtep62 + " dev flannel-v6.1 dst fd00:172:16:1::8 self permanent",
		},
		{
			name: "a route is missing", check: "DS-01/CP-03",
			brk:  []string{"node-1: ip -6 route del fd00:10:244:2::/64"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected route fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink, seen no route to fd00:10:244:2::/64",
		},
		{
			name: "a more specific route leads away", check: "DS-01/CP-03",
			brk:  []string{"node-1: ip -6 route add blackhole fd00:10:244:2:8000::/65"},
			mend: []string{"node-1: ip -6 route del blackhole fd00:10:244:2:8000::/65"},
			want: "seen blackhole fd00:10:244:2:8000::/65",
		},
		{
			name: "a route of the VTEP's to another's address", check: "DS-01/CP-03",
			brk:  []string{"node-1: ip -6 route add fd00:10:244:9::/128 dev flannel-v6.1"},
			mend: []string{"node-1: ip -6 route del fd00:10:244:9::/128 dev flannel-v6.1"},
			want: "node-1: expected no route into the overlay but the peers' and its own, seen fd00:10:244:9::/128 dev flannel-v6.1",
		},
		{
			name: "another port", check: "DS-01/WF-01", rewire: func(v *rtnl.Vxlan) { v.Port = 4789 },
			want: "node-1:ens3: echo request of node-1-pod-1 > fd00:10:244:2::2: expected UDP fd00:172:16:1::9 > fd00:172:16:1::a.8472, seen UDP fd00:172:16:1::9 > fd00:172:16:1::a.4789, VXLAN, flags [I] (0x08), vni 1",
		},
		{
			name: "packets go bare", check: "DS-01/WF-01",
			brk:  []string{"node-1: ip -6 route replace fd00:10:244:2::/64 via fd00:172:16:1::a dev ens3"},
			mend: []string{"node-1: ip -6 route del fd00:10:244:2::/64 dev ens3", "node-1: rewire"},
			want: "expected UDP fd00:172:16:1::9 > fd00:172:16:1::a.8472, seen bare ICMP fd00:10:244:1::2 > fd00:10:244:2::2, ttl 63",
		},
		{
			name: "packets do not leave", check: "DS-01/WF-01",
			brk:  []string{"node-1: bridge fdb del " + vtep62 + " dev flannel-v6.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1:ens3: echo request of node-1-pod-1 > fd00:10:244:2::2: expected a packet leaving ens3, seen none, and the capture dropped nothing",
		},
		{
			name: "another VNI", check: "DS-01/WF-02", rewire: func(v *rtnl.Vxlan) { v.VNI = 0x123456 },
			want: "expected VXLAN, flags [I] (0x08), vni 1, seen VXLAN, flags [I] (0x08), vni 1193046",
		},
		{
			name: "a neighbour has another MAC", check: "DS-01/WF-03",
			brk: []string{
				"node-1: ip neigh replace fd00:10:244:2:: dev flannel-v6.1 lladdr 02:00:00:00:00:99 nud permanent",
				"node-1: bridge fdb add 02:00:00:00:00:99 dev flannel-v6.1 dst fd00:172:16:1::a self permanent",
			},
			mend: []string{"node-1: rewire"},
			want: "expected inner " + vtep61 + " > " + vtep62 + ", untagged, seen inner " + vtep61 + " > 02:00:00:00:00:99",
		},
		{
			name: "an inner hop limit is changed", check: "DS-01/WF-04",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("forward"), "node-1: nft add rule ip6 t c oifname flannel-v6.1 ip6 hoplimit set 60"},
			mend: []string{"node-1: " + noTable6},
			want: "node-1:ens3: echo request of node-1-pod-1 > fd00:10:244:2::2: expected inner ttl 63, seen inner ttl 60",
		},
		{
			name: "an outer hop limit is changed", check: "DS-01/WF-04",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("output"), "node-1: nft add rule ip6 t c udp dport 8472 ip6 hoplimit set 5"},
			mend: []string{"node-1: " + noTable6},
			want: "expected outer ttl 64, seen outer ttl 5",
		},
		{
			name: "a black hole for large packets", check: "DS-01/MTU-01",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("postrouting"), "node-1: nft add rule ip6 t c oif ens3 ip6 length > 1400 drop"},
			mend: []string{"node-1: " + noTable6},
			want: "1430 bytes with DF: expected a reply, seen no answer",
		},
		{
			name: "a pod believes in a smaller MTU", check: "DS-01/MTU-02", both: true,
			brk:  []string{"node-1-pod-1: ip link set eth0 mtu 1400"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1430"},
			want: "1431 bytes with DF: expected EMSGSIZE, mtu 1430, seen EMSGSIZE, mtu 1400",
		},
		{
			name: "pods have the MTU of IPv4's VXLAN", check: "MTU-07",
			brk:  []string{"node-1: ip link set cni0 mtu 1450", "node-1: ip link set veth00000100 mtu 1450", "node-1-pod-1: ip link set eth0 mtu 1450"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1430", "node-1: ip link set veth00000100 mtu 1430", "node-1: ip link set cni0 mtu 1430"},
			want: "fd00:10:244:2::2: expected a path MTU of 1430 bytes, named by its own kernel, seen 1430 bytes, named by fd00:10:244:1::1",
		},
		{
			name: "the VTEP's MTU is too small", check: "MTU-07",
			brk:  []string{"node-1: ip link set flannel-v6.1 mtu 1400"},
			mend: []string{"node-1: ip link set flannel-v6.1 mtu 1430"},
			want: "node-1 flannel-v6.1: expected mtu 1430, seen flannel-v6.1 has mtu 1400",
		},
		{
			name: "a node speaks to its pods from its underlay address", check: "DS-01/NM-03",
			brk:  []string{"node-1: ip -6 route add fd00:10:244:1::/64 dev cni0 src fd00:172:16:1::9 metric 5"},
			mend: []string{"node-1: ip -6 route del fd00:10:244:1::/64 dev cni0 metric 5"},
			want: "node-1 > node-1-pod-1 (node-1) fd00:10:244:1::2: expected seen as fd00:10:244:1::1, answered by fd00:10:244:1::2, seen seen as fd00:172:16:1::9",
		},
		{
			name: "a node has no overlay address", check: "DS-01/NM-04",
			brk:  []string{"node-1: ip -6 route add fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink src fd00:172:16:1::9 metric 5"},
			mend: []string{"node-1: ip -6 route del fd00:10:244:2::/64 dev flannel-v6.1 metric 5"},
			want: "fd00:10:244:2::3: expected seen as fd00:10:244:1::, answered by fd00:10:244:2::3, seen seen as fd00:172:16:1::9",
		},
		{
			name: "a node's own packets do not leave", check: "DS-01/NM-05",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("output"), "node-1: nft add rule ip6 t c oifname flannel-v6.1 drop"},
			mend: []string{"node-1: " + noTable6},
			want: "node-1 > master-pod-1 (master) fd00:10:244::2: expected a reply, seen ",
		},
		{
			name: "a node masquerades what pods say", check: "DS-01/NM-06",
			brk:  []string{"node-1: " + table6, "node-1: nft add chain ip6 t c { type nat hook postrouting priority 100 ; }", "node-1: nft add rule ip6 t c oifname flannel-v6.1 masquerade"},
			mend: []string{"node-1: " + noTable6},
			want: "node-1-pod-1 > master-pod-1 fd00:10:244::2: expected seen as fd00:10:244:1::2, answered by fd00:10:244::2, seen seen as fd00:10:244:1::,",
		},
		{
			// The NIC that would finish the checksum, over a wrong beginning here,
			// is not there: the kernel does it before the packet is seen.
			name: "a wrong checksum", check: "DS-01/WF-06",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("output"), "node-1: nft add rule ip6 t c udp dport 8472 udp checksum set 0x1234", "node-1: ethtool -K ens3 tx off"},
			mend: []string{"node-1: " + noTable6, "node-1: ethtool -K ens3 tx on"},
			want: "expected outer UDP checksum none",
		},
		{
			name: "ICMP errors are dropped", check: "DS-01/MTU-03",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("output"), "node-1: nft add rule ip6 t c icmpv6 type packet-too-big drop"},
			mend: []string{"node-1: " + noTable6},
			want: "node-1-pod-1 (node-1) > fd00:10:244:2::2, 1500 bytes with DF: expected ICMPv6 2/0 packet too big, mtu 1430, seen no answer",
		},
		{
			name: "a node masquerades between pods", check: "DS-01/NT-01",
			brk:  []string{"node-1: " + table6, "node-1: nft add chain ip6 t c { type nat hook postrouting priority srcnat ; }", "node-1: nft add rule ip6 t c oifname flannel-v6.1 masquerade"},
			mend: []string{"node-1: " + noTable6},
			want: "node-1-pod-1 (node-1) > node-2-pod-1 (node-2) fd00:10:244:2::2: expected source fd00:10:244:1::2, seen source fd00:10:244:1::",
		},
		{
			name: "a rule is missing", check: "DS-01/NT-02", plan: masquerading, setup: masqueradeRules6("ip6 saddr fd00:10:244::/48 ip6 daddr != fd00:10:244::/48 masquerade"),
			brk:  []string{"node-1: nft flush chain ip6 m c"},
			mend: masqueradeRules6("ip6 saddr fd00:10:244::/48 ip6 daddr != fd00:10:244::/48 masquerade"), both: true,
			want: "node-1-pod-1 (node-1) > master fd00:172:16:1::8: expected seen as fd00:172:16:1::9, answered by fd00:172:16:1::8, seen ",
		},
		{
			name: "large packets vanish", check: "MTU-07",
			brk:  []string{"node-1: " + table6, "node-1: " + filterChain6("postrouting"), "node-1: nft add rule ip6 t c oif ens3 ip6 length > 1400 drop"},
			mend: []string{"node-1: " + noTable6},
			want: "seen 1370 bytes, and more vanishes",
		},
	}...)
}

func dualBackendFaults() []fault {
	return []fault{
		{
			name: "a route has a wrong gateway", check: "DS-01/BE-01", backend: hostGW,
			brk:  []string{"node-1: ip -6 route replace fd00:10:244:2::/64 via fd00:172:16:1::8 dev ens3"},
			mend: []string{"node-1: ip -6 route replace fd00:10:244:2::/64 via fd00:172:16:1::a dev ens3"},
			want: "node-1:ens3: echo request of node-1-pod-1 > fd00:10:244:2::2: expected next hop " + nic2 + ", seen next hop " + nic0,
		},
		{
			name: "a peer of the segment is served by VXLAN", check: "DS-01/BE-06", backend: direct,
			brk: []string{
				"node-1: ip neigh add fd00:10:244:2:: lladdr " + vtep62 + " dev flannel-v6.1 nud permanent",
				"node-1: bridge fdb add " + vtep62 + " dev flannel-v6.1 dst fd00:172:16:1::a",
				"node-1: ip -6 route del fd00:10:244:2::/64",
				"node-1: ip -6 route add fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 onlink",
			},
			mend: []string{"node-1: rewire"},
			want: "node-1:ens3: echo request of node-1-pod-1 > fd00:10:244:2::2: expected bare ICMP, seen UDP fd00:172:16:1::9 > fd00:172:16:1::a.8472, VXLAN, flags [I] (0x08), vni 1",
		},
	}
}

// masqueradeRules6 are those of masqueradeRules for IPv6.
func masqueradeRules6(rules ...string) []string {
	var out []string
	for _, c := range masqueradeRules(rules...) {
		out = append(out, strings.Replace(c, "ip m", "ip6 m", 1))
	}
	return out
}
