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

// The lab of these tests, three nodes of two pods:
//
//	master-pod-1 .0.2   node-1-pod-1 .1.2   node-2-pod-1 .2.2
//	master-pod-2 .0.3   node-1-pod-2 .1.3   node-2-pod-2 .2.3
//	   cni0 .0.1           cni0 .1.1           cni0 .2.1
//	 flannel.1 .0.0      flannel.1 .1.0      flannel.1 .2.0
//	   ens3 .8             ens3 .9             ens3 .10
//	     +------------------ lan ----------------+        172.16.1.0/24, MTU 1500

// fault is one way to break the lab. Commands are "NAMESPACE: COMMAND", where a
// command is a program's, "rewire", which makes the namespace's VXLAN device
// anew, or "solicitable DEV ADDRESS", which waits until an IPv6 address answers.
type fault struct {
	name  string
	check string
	// backend is that of the lab, where it is not vxlan. The lab is dual stack
	// for a check of IPv6.
	backend topology.Backend
	// setup makes a lab that passes of one that does not; brk and mend break the
	// lab and repair it.
	setup, brk, mend []string
	// rewire, where set, breaks the VXLAN device of node-1, that of IPv6 for a
	// check of IPv6; it is mended by making it anew.
	rewire func(*rtnl.Vxlan)
	// plan changes the lab's plan before it is built.
	plan func(*topology.Plan)
	// both says of a fault of IPv6 that IPv4 suffers too.
	both bool
	// want is what the check's findings must say.
	want string
}

var (
	vtep1 = topology.DeriveMAC("node-1", "vtep").String()
	vtep2 = topology.DeriveMAC("node-2", "vtep").String()
)

const (
	table   = "nft add table ip t"
	noTable = "nft delete table ip t"
)

func filterChain(hook string) string {
	return "nft add chain ip t c { type filter hook " + hook + " priority 0 ; }"
}

var (
	hostGW = topology.Backend{Type: "host-gw"}
	direct = topology.Backend{Type: "vxlan", VNI: 1, Port: 8472, DirectRouting: true}
	nic0   = topology.DeriveMAC("master", "ens3").String()
	nic2   = topology.DeriveMAC("node-2", "ens3").String()
)

// wireguardFaults are those of a lab that encrypts.
func wireguardFaults() []fault {
	wireguard := topology.Backend{Type: "wireguard", ListenPort: 51820}
	return []fault{
		{
			name: "packets go in the clear", check: "BE-04", backend: wireguard,
			brk:  []string{"node-1: ip route add 10.244.2.0/24 via 172.16.1.10 dev ens3"},
			mend: []string{"node-1: ip route del 10.244.2.0/24"},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected WireGuard 172.16.1.9 > 172.16.1.10.51820, seen bare ICMP 10.244.1.2 > 10.244.2.2, ttl 63",
		},
		{
			name: "packets do not leave", check: "BE-04", backend: wireguard,
			brk:  []string{"node-1: ip route add blackhole 10.244.2.0/24"},
			mend: []string{"node-1: ip route del blackhole 10.244.2.0/24"},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected WireGuard data leaving ens3, seen none, and the capture dropped nothing",
		},
		{
			name: "something else is on the port", check: "BE-04", backend: wireguard,
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c udp dport 51820 @th,64,8 set 9"},
			mend: []string{"node-1: " + noTable},
			want: "node-1:ens3: expected WireGuard 172.16.1.9 > 172.16.1.10.51820, seen WireGuard type 9, length",
		},
		{
			name: "the device has the underlay's MTU", check: "BE-04", backend: wireguard,
			brk:  []string{"node-1: ip link set flannel-wg mtu 1500"},
			mend: []string{"node-1: ip link set flannel-wg mtu 1420"},
			want: "node-1 flannel-wg: expected mtu 1420, seen flannel-wg has mtu 1500",
		},
		{
			name: "the route is missing", check: "BE-04", backend: wireguard,
			brk:  []string{"node-1: ip route del 10.244.0.0/16"},
			mend: []string{"node-1: ip route add 10.244.0.0/16 dev flannel-wg"},
			want: "node-1: expected route 10.244.0.0/16 dev flannel-wg, seen no route to 10.244.0.0/16",
		},
	}
}

// udpFaults are those of a lab with proxies.
func udpFaults() []fault {
	udp := topology.Backend{Type: "udp", Port: 8285}
	return []fault{
		{
			name: "packets go bare", check: "BE-02", backend: udp,
			brk:  []string{"node-1: ip route add 10.244.2.0/24 via 172.16.1.10 dev ens3"},
			mend: []string{"node-1: ip route del 10.244.2.0/24"},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected IPv4 in UDP 172.16.1.9.8285 > 172.16.1.10.8285, seen bare ICMP 10.244.1.2 > 10.244.2.2, ttl 63",
		},
		{
			name: "another port", check: "BE-02", backend: udp,
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c udp dport 8285 udp dport set 8286"},
			mend: []string{"node-1: " + noTable},
			want: "expected IPv4 in UDP 172.16.1.9.8285 > 172.16.1.10.8285, seen IPv4 in UDP 172.16.1.9.8285 > 172.16.1.10.8286",
		},
		{
			name: "an extra hop on the way to the proxy", check: "BE-02", backend: udp,
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c oifname flannel0 ip ttl set 62"},
			mend: []string{"node-1: " + noTable},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected inner ttl 62, seen inner ttl 61",
		},
		{
			name: "the device has the underlay's MTU", check: "BE-02", backend: udp,
			brk:  []string{"node-1: ip link set flannel0 mtu 1500"},
			mend: []string{"node-1: ip link set flannel0 mtu 1472"},
			want: "node-1 flannel0: expected mtu 1472, seen flannel0 has mtu 1500",
		},
		{
			name: "the route is missing", check: "BE-02", backend: udp,
			brk:  []string{"node-1: ip route del 10.244.0.0/16"},
			mend: []string{"node-1: ip route add 10.244.0.0/16 dev flannel0 scope global"},
			want: "node-1: expected route 10.244.0.0/16 dev flannel0, seen no route to 10.244.0.0/16",
		},
		{
			name: "an extra hop", check: "TTL-04", backend: udp,
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c oifname flannel0 ip ttl set 62"},
			mend: []string{"node-1: " + noTable},
			want: "node-1-pod-2 (node-1) 10.244.1.3: expected a reply with ttl=60, seen ttl=59",
		},
		{
			name: "a device with vxlan's MTU", check: "MTU-01", backend: udp,
			brk:  []string{"node-1: ip link set flannel0 mtu 1450"},
			mend: []string{"node-1: ip link set flannel0 mtu 1472"},
			want: "1472 bytes with DF: expected a reply, seen ICMP 3/4 fragmentation needed, mtu 1450, from 10.244.1.1",
		},
		{
			name: "a pod with the underlay's MTU", check: "MTU-02", backend: udp,
			brk:  []string{"node-1-pod-1: ip link set eth0 mtu 1500"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1472"},
			want: "1473 bytes with DF: expected EMSGSIZE, mtu 1472, seen ICMP 3/4 fragmentation needed, mtu 1472, from 10.244.1.1",
		},
	}
}

// ipipFaults are those of a lab with IP in IP.
func ipipFaults() []fault {
	ipip := topology.Backend{Type: "ipip"}
	bare := []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.10 dev ens3"}
	tunnelled := []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.10 dev flannel.ipip onlink"}
	return []fault{
		{
			name: "packets go bare", check: "BE-03", backend: ipip, brk: bare, mend: tunnelled,
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected IP in IP 172.16.1.9 > 172.16.1.10, seen bare ICMP 10.244.1.2 > 10.244.2.2, ttl 63",
		},
		{
			name: "a TTL of its own", check: "BE-03", backend: ipip,
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c ip protocol 4 ip ttl set 64"},
			mend: []string{"node-1: " + noTable},
			want: "expected outer ttl 63, seen outer ttl 64",
		},
		{
			name: "the device has the underlay's MTU", check: "BE-03", backend: ipip,
			brk:  []string{"node-1: ip link set flannel.ipip mtu 1500"},
			mend: []string{"node-1: ip link set flannel.ipip mtu 1480"},
			want: "node-1 flannel.ipip: expected mtu 1480, seen flannel.ipip has mtu 1500",
		},
		{
			name: "a device with vxlan's MTU", check: "MTU-01", backend: ipip,
			brk:  []string{"node-1: ip link set flannel.ipip mtu 1450"},
			mend: []string{"node-1: ip link set flannel.ipip mtu 1480"},
			want: "1480 bytes with DF: expected a reply, seen ICMP 3/4 fragmentation needed, mtu 1450, from 10.244.1.1",
		},
		{
			name: "a pod with the underlay's MTU", check: "MTU-02", backend: ipip,
			brk:  []string{"node-1-pod-1: ip link set eth0 mtu 1500"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1480"},
			want: "1481 bytes with DF: expected EMSGSIZE, mtu 1480, seen ICMP 3/4 fragmentation needed, mtu 1480, from 10.244.1.1",
		},
	}
}

// backendFaults are those of labs with another backend than vxlan's full mesh.
func backendFaults() []fault {
	return []fault{
		{
			name: "a route has a wrong gateway", check: "BE-01", backend: hostGW,
			brk:  []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.8"},
			mend: []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.10"},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected next hop " + nic2 + ", seen next hop " + nic0,
		},
		{
			name: "a route is missing", check: "BE-01", backend: hostGW,
			brk:  []string{"node-1: ip route del 10.244.2.0/24"},
			mend: []string{"node-1: ip route add 10.244.2.0/24 via 172.16.1.10"},
			want: "node-1, peer node-2: expected route 10.244.2.0/24 via 172.16.1.10 dev ens3, seen no route to 10.244.2.0/24",
		},
		{
			name: "packets are encapsulated", check: "BE-01", backend: hostGW,
			brk: []string{
				"node-1: ip link add flannel.1 mtu 1450 type vxlan id 1 local 172.16.1.9 dev ens3 dstport 8472 nolearning", "node-1: ip link set flannel.1 up",
				"node-1: ip neigh add 10.244.2.0 lladdr " + vtep2 + " dev flannel.1 nud permanent",
				"node-1: bridge fdb add " + vtep2 + " dev flannel.1 dst 172.16.1.10",
				"node-1: ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
				// Nobody takes it out of the tunnel on the other side.
			},
			mend: []string{"node-1: ip link del flannel.1", "node-1: ip route add 10.244.2.0/24 via 172.16.1.10"},
			want: "echo request of node-1-pod-1 > 10.244.2.2: expected bare ICMP, seen UDP 172.16.1.9 > 172.16.1.10.8472, VXLAN",
		},
		{
			name: "an extra hop", check: "BE-01", backend: hostGW,
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c oifname ens3 ip ttl set 62"},
			mend: []string{"node-1: " + noTable},
			want: "expected outer ttl 63, seen outer ttl 62",
		},
		{
			name: "a pod has a VXLAN's MTU", check: "BE-01", backend: hostGW,
			brk:  []string{"node-1-pod-1: ip link set eth0 mtu 1450"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1500"},
			want: "node-1-pod-1 eth0: expected mtu 1500, seen eth0 has mtu 1450",
		},
		{
			name: "a peer of the segment is served by VXLAN", check: "BE-06", backend: direct,
			brk: []string{
				"node-1: ip neigh add 10.244.2.0 lladdr " + vtep2 + " dev flannel.1 nud permanent",
				"node-1: bridge fdb add " + vtep2 + " dev flannel.1 dst 172.16.1.10",
				"node-1: ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
			},
			mend: []string{"node-1: rewire"},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected bare ICMP, seen UDP 172.16.1.9 > 172.16.1.10.8472, VXLAN, flags [I] (0x08), vni 1",
		},
		{
			name: "packets do not leave", check: "BE-06", backend: direct,
			brk:  []string{"node-1: ip route replace blackhole 10.244.2.0/24"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected route 10.244.2.0/24 via 172.16.1.10 dev ens3, seen blackhole 10.244.2.0/24",
		},
	}
}

func faults() []fault {
	return append(slices.Concat(wireguardFaults(), udpFaults(), ipipFaults(), backendFaults(), dualFaults(),
		hostFaults(), outerFaults(), securityFaults(), natFaults(), pathFaults()), []fault{
		{
			name: "a node's output changes the TTL", check: "TTL-01",
			brk:  []string{"node-1-pod-2: " + table, "node-1-pod-2: " + filterChain("output"), "node-1-pod-2: nft add rule ip t c ip ttl set 60"},
			mend: []string{"node-1-pod-2: " + noTable},
			want: "node-1-pod-1 (node-1) > node-1-pod-2 (node-1) 10.244.1.3: expected a reply with ttl=64, seen ttl=60",
		},
		{
			name: "a pod's veth is in no bridge", check: "TTL-01",
			brk:  []string{"node-1: ip link set veth00000100 nomaster"},
			mend: []string{"node-1: ip link set veth00000100 master cni0"},
			want: "node-1-pod-1 (node-1) > node-1-pod-2 (node-1) 10.244.1.3: expected a reply with ttl=64, seen no answer to 2 requests",
		},
		{
			name: "the remote node answers with another TTL", check: "TTL-02",
			brk:  []string{"node-2: " + table, "node-2: " + filterChain("output"), "node-2: nft add rule ip t c icmp type echo-reply ip ttl set 32"},
			mend: []string{"node-2: " + noTable},
			want: "> cni0 of node-2 10.244.2.1: expected a reply with ttl=63, seen ttl=31",
		},
		{
			name: "an extra hop", check: "TTL-03",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c oifname flannel.1 ip ttl set 62"},
			mend: []string{"node-1: " + noTable},
			want: "> node-1-pod-1 (node-1) 10.244.1.2: expected a reply with ttl=62, seen ttl=61",
		},
		{
			name: "forwarding is off", check: "TTL-03",
			brk:  []string{"node-1: sysctl -q net.ipv4.ip_forward=0"},
			mend: []string{"node-1: sysctl -q net.ipv4.ip_forward=1"},
			want: "node-1-pod-1 (node-1) > master-pod-1 (master) 10.244.0.2: expected a reply with ttl=62, seen no answer to 2 requests",
		},
		{
			name: "the underlay drops VXLAN", check: "TTL-03",
			brk:  []string{"node-2: " + table, "node-2: " + filterChain("input"), "node-2: nft add rule ip t c udp dport 8472 drop"},
			mend: []string{"node-2: " + noTable},
			want: "node-2-pod-1 (node-2) 10.244.2.2: expected a reply with ttl=62, seen no answer",
		},
		{
			name: "the VTEP's MTU is too small", check: "MTU-01",
			brk:  []string{"node-1: ip link set flannel.1 mtu 1400"},
			mend: []string{"node-1: ip link set flannel.1 mtu 1450"},
			want: "1450 bytes with DF: expected a reply, seen ICMP 3/4 fragmentation needed, mtu 1400, from 10.244.1.1",
		},
		{
			name: "a black hole for large packets", check: "MTU-01",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("postrouting"), "node-1: nft add rule ip t c oif ens3 ip length > 1400 drop"},
			mend: []string{"node-1: " + noTable},
			want: "1450 bytes with DF: expected a reply, seen no answer",
		},
		{
			name: "a pod believes in a larger MTU", check: "MTU-02",
			brk:  []string{"node-1: ip link set veth00000100 mtu 1500", "node-1-pod-1: ip link set eth0 mtu 1500"},
			mend: []string{"node-1: ip link set veth00000100 mtu 1450", "node-1-pod-1: ip link set eth0 mtu 1450"},
			want: "1451 bytes with DF: expected EMSGSIZE, mtu 1450, seen ICMP 3/4 fragmentation needed, mtu 1450, from 10.244.1.1",
		},
		{
			name: "a pod believes in a smaller MTU", check: "MTU-02",
			brk:  []string{"node-1-pod-1: ip link set eth0 mtu 1400"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1450"},
			want: "expected EMSGSIZE, mtu 1450, seen EMSGSIZE, mtu 1400",
		},
		{
			name: "a pod speaks from another address", check: "NM-01",
			brk:  []string{"node-1-pod-1: ip addr add 10.244.1.77/24 dev eth0", "node-1-pod-1: ip route replace 10.244.1.0/24 dev eth0 src 10.244.1.77"},
			mend: []string{"node-1-pod-1: ip addr del 10.244.1.77/24 dev eth0", "node-1-pod-1: ip route replace 10.244.1.0/24 dev eth0 proto kernel scope link src 10.244.1.2"},
			want: "10.244.1.3 over tcp: expected seen as 10.244.1.2, answered by 10.244.1.3, seen seen as 10.244.1.77",
		},
		{
			name: "a node masquerades what crosses", check: "NM-02",
			brk:  []string{"node-1: " + table, "node-1: nft add chain ip t c { type nat hook postrouting priority srcnat ; }", "node-1: nft add rule ip t c oifname flannel.1 masquerade"},
			mend: []string{"node-1: " + noTable},
			want: "over udp: expected seen as 10.244.1.2, answered by 10.244.0.2, seen seen as 10.244.1.0",
		},
		{
			name: "a node filters TCP", check: "NM-02",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c oifname flannel.1 meta l4proto tcp drop"},
			mend: []string{"node-1: " + noTable},
			want: "over tcp: expected seen as 10.244.1.2, answered by 10.244.0.2, seen connecting failed",
		},
		{
			name: "cni0 has another MTU", check: "DP-01",
			brk:  []string{"node-1: ip link set cni0 mtu 1400"},
			mend: []string{"node-1: ip link set cni0 mtu 1450"},
			want: "node-1 cni0: expected mtu 1450, seen cni0 has mtu 1400",
		},
		{
			name: "cni0 is down", check: "DP-01",
			brk:  []string{"node-1: ip link set cni0 down"},
			mend: []string{"node-1: ip link set cni0 up"},
			want: "node-1 cni0: expected up, seen cni0 is down",
		},
		{
			name: "cni0 has another address", check: "DP-01",
			brk:  []string{"node-1: ip addr del 10.244.1.1/24 dev cni0", "node-1: ip addr add 10.244.1.254/24 dev cni0"},
			mend: []string{"node-1: ip addr del 10.244.1.254/24 dev cni0", "node-1: ip addr add 10.244.1.1/24 dev cni0"},
			want: "node-1 cni0: expected address 10.244.1.1/24, seen cni0 has 10.244.1.254/24",
		},
		{
			name: "cni0 has another name", check: "DP-01",
			brk:  []string{"node-1: ip link set cni0 down", "node-1: ip link set cni0 name br0"},
			mend: []string{"node-1: ip link set br0 name cni0", "node-1: ip link set cni0 up"},
			want: "node-1 cni0: expected a bridge, seen no such link",
		},
		{
			name: "a pod's veth is in no bridge", check: "DP-02",
			brk:  []string{"node-1: ip link set veth00000100 nomaster"},
			mend: []string{"node-1: ip link set veth00000100 master cni0"},
			want: "node-1-pod-1 eth0@if30 on node-1: expected veth00000100 with master cni0, seen veth00000100 with no master",
		},
		{
			name: "a pod's eth0 is down", check: "DP-02",
			brk:  []string{"node-1-pod-1: ip link set eth0 down"},
			mend: []string{"node-1-pod-1: ip link set eth0 up", "node-1-pod-1: ip route add default via 10.244.1.1", "node-1-pod-1: ip route add 10.244.0.0/16 via 10.244.1.1"},
			want: "node-1-pod-1 eth0: expected up, seen eth0 is down",
		},
		{
			name: "a pod has no default route", check: "DP-03",
			brk:  []string{"node-1-pod-1: ip route del default"},
			mend: []string{"node-1-pod-1: ip route add default via 10.244.1.1"},
			want: "node-1-pod-1: expected route default via 10.244.1.1 dev eth0, seen no route to 0.0.0.0/0",
		},
		{
			name: "a pod's cluster route has another next hop", check: "DP-03",
			brk:  []string{"node-1-pod-1: ip route replace 10.244.0.0/16 via 10.244.1.3"},
			mend: []string{"node-1-pod-1: ip route replace 10.244.0.0/16 via 10.244.1.1"},
			want: "node-1-pod-1: expected route 10.244.0.0/16 via 10.244.1.1 dev eth0, seen 10.244.0.0/16 via 10.244.1.3 dev eth0",
		},
		{
			name: "another VNI", check: "DP-04", rewire: func(v *rtnl.Vxlan) { v.VNI = 2 },
			want: "node-1 flannel.1: expected vni 1, seen vni 2",
		},
		{
			name: "another port", check: "DP-04", rewire: func(v *rtnl.Vxlan) { v.Port = 4789 },
			want: "node-1 flannel.1: expected dstport 8472, seen dstport 4789",
		},
		{
			name: "another local address", check: "DP-04", rewire: func(v *rtnl.Vxlan) { v.Local = netip.MustParseAddr("10.0.2.15") },
			want: "node-1 flannel.1: expected local 172.16.1.9, seen local 10.0.2.15",
		},
		{
			name: "learning", check: "DP-04", rewire: func(v *rtnl.Vxlan) { v.Learning = true },
			want: "node-1 flannel.1: expected learning false, seen learning true",
		},
		{
			name: "a multicast group", check: "DP-04",
			brk:  []string{"node-1: ip link del flannel.1", "node-1: ip link add flannel.1 index 3 mtu 1450 type vxlan id 1 local 172.16.1.9 dev ens3 dstport 8472 nolearning group 239.1.1.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1 flannel.1: expected no group, seen group 239.1.1.1",
		},
		{
			name: "the VTEP has another MTU", check: "DP-04",
			brk:  []string{"node-1: ip link set flannel.1 mtu 1400"},
			mend: []string{"node-1: ip link set flannel.1 mtu 1450"},
			want: "node-1 flannel.1: expected mtu 1450, seen flannel.1 has mtu 1400",
		},
		{
			name: "the VTEP has a second address", check: "DP-04",
			brk:  []string{"node-1: ip addr add 10.244.7.0/32 dev flannel.1"},
			mend: []string{"node-1: ip addr del 10.244.7.0/32 dev flannel.1"},
			want: "expected address 10.244.1.0/32 and no other, seen flannel.1 has 10.244.1.0/32; 10.244.7.0/32",
		},
		{
			name: "no VTEP", check: "DP-04",
			brk:  []string{"node-1: ip link del flannel.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1 flannel.1: expected a VXLAN device, seen no such device",
		},
		{
			name: "a neighbour is missing", check: "CP-01",
			brk:  []string{"node-1: ip neigh del 10.244.2.0 dev flannel.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected neighbour 10.244.2.0 dev flannel.1 lladdr " + vtep2 + " PERMANENT, seen no entry for 10.244.2.0 on flannel.1",
		},
		{
			name: "a neighbour is not permanent", check: "CP-01",
			brk:  []string{"node-1: ip neigh replace 10.244.2.0 dev flannel.1 lladdr " + vtep2 + " nud stale"},
			mend: []string{"node-1: rewire"},
			want: "seen 10.244.2.0 dev flannel.1 lladdr " + vtep2 + " STALE",
		},
		{
			name: "a neighbour has another MAC", check: "CP-01",
			brk:  []string{"node-1: ip neigh replace 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:99 nud permanent"},
			mend: []string{"node-1: rewire"},
			want: "seen 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:99 PERMANENT",
		},
		{
			name: "a neighbour too many", check: "CP-01",
			brk:  []string{"node-1: ip neigh add 10.244.9.0 dev flannel.1 lladdr 02:00:00:00:00:99 nud permanent"},
			mend: []string{"node-1: ip neigh del 10.244.9.0 dev flannel.1"},
			want: "node-1: expected no PERMANENT neighbour but the peers', seen 10.244.9.0 dev flannel.1 lladdr 02:00:00:00:00:99 PERMANENT",
		},
		{
			name: "an FDB entry is missing", check: "CP-02",
			brk:  []string{"node-1: bridge fdb del " + vtep2 + " dev flannel.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected FDB entry " + vtep2 + " dev flannel.1 dst 172.16.1.10 self permanent, seen no entry",
		},
		{
			name: "an FDB entry leads elsewhere", check: "CP-02",
			brk:  []string{"node-1: bridge fdb replace " + vtep2 + " dev flannel.1 dst 172.16.1.8 self permanent"},
			mend: []string{"node-1: rewire"},
			want: "seen " + vtep2 + " dev flannel.1 dst 172.16.1.8 self permanent",
		},
		{
			name: "an FDB entry ages", check: "CP-02",
			brk:  []string{"node-1: bridge fdb replace " + vtep2 + " dev flannel.1 dst 172.16.1.10 self dynamic"},
			mend: []string{"node-1: rewire"},
			want: "seen " + vtep2 + " dev flannel.1 dst 172.16.1.10 self",
		},
		{
			name: "an all-zero FDB entry", check: "CP-02",
			brk:  []string{"node-1: bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 172.16.1.8 self permanent"},
			mend: []string{"node-1: bridge fdb del 00:00:00:00:00:00 dev flannel.1 dst 172.16.1.8 self"},
			want: "node-1: expected no all-zero FDB entry, which floods, seen 00:00:00:00:00:00 dev flannel.1 dst 172.16.1.8 self permanent",
		},
		{
			name: "an FDB entry too many", check: "CP-02",
			brk:  []string{"node-1: bridge fdb add 02:00:00:00:00:99 dev flannel.1 dst 172.16.1.77 self permanent"},
			mend: []string{"node-1: bridge fdb del 02:00:00:00:00:99 dev flannel.1"},
			want: "node-1: expected no FDB entry but the peers', seen 02:00:00:00:00:99 dev flannel.1 dst 172.16.1.77 self permanent",
		},
		{
			name: "a route is missing", check: "CP-03",
			brk:  []string{"node-1: ip route del 10.244.2.0/24"},
			mend: []string{"node-1: rewire"},
			want: "node-1, peer node-2: expected route 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink, seen no route to 10.244.2.0/24",
		},
		{
			name: "a route leads to another peer", check: "CP-03",
			brk:  []string{"node-1: ip route replace 10.244.2.0/24 via 10.244.0.0 dev flannel.1 onlink"},
			mend: []string{"node-1: rewire"},
			want: "seen 10.244.2.0/24 via 10.244.0.0 dev flannel.1 onlink",
		},
		{
			name: "a stale route", check: "CP-03",
			brk:  []string{"node-1: ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink"},
			mend: []string{"node-1: ip route del 10.244.9.0/24"},
			want: "node-1: expected no route into the overlay but the peers' and its own, seen 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
		},
		{
			name: "a more specific route leads away", check: "CP-03",
			brk:  []string{"node-1: ip route add blackhole 10.244.2.0/25"},
			mend: []string{"node-1: ip route del blackhole 10.244.2.0/25"},
			want: "seen blackhole 10.244.2.0/25",
		},
		{
			name: "no VTEP", check: "CP-03",
			brk:  []string{"node-1: ip link del flannel.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1 flannel.1: expected a VXLAN device, seen no such device",
		},
		{
			name: "another port", check: "WF-01", rewire: func(v *rtnl.Vxlan) { v.Port = 4789 },
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected UDP 172.16.1.9 > 172.16.1.10.8472, seen UDP 172.16.1.9 > 172.16.1.10.4789, VXLAN, flags [I] (0x08), vni 1",
		},
		{
			name: "an FDB entry leads elsewhere", check: "WF-01",
			brk:  []string{"node-1: bridge fdb replace " + vtep2 + " dev flannel.1 dst 172.16.1.8 self permanent"},
			mend: []string{"node-1: rewire"},
			want: "expected UDP 172.16.1.9 > 172.16.1.10.8472, seen UDP 172.16.1.9 > 172.16.1.8.8472",
		},
		{
			name: "packets go bare", check: "WF-01",
			brk:  []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.10 dev ens3"},
			mend: []string{"node-1: rewire"},
			want: "expected UDP 172.16.1.9 > 172.16.1.10.8472, seen bare ICMP 10.244.1.2 > 10.244.2.2, ttl 63",
		},
		{
			name: "packets do not leave", check: "WF-01",
			brk:  []string{"node-1: bridge fdb del " + vtep2 + " dev flannel.1"},
			mend: []string{"node-1: rewire"},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected a packet leaving ens3, seen none, and the capture dropped nothing",
		},
		{
			name: "another VNI", check: "WF-02", rewire: func(v *rtnl.Vxlan) { v.VNI = 0x123456 },
			want: "expected VXLAN, flags [I] (0x08), vni 1, seen VXLAN, flags [I] (0x08), vni 1193046",
		},
		{
			name: "a group policy in the header", check: "WF-02",
			brk: []string{
				"node-1: ip link del flannel.1",
				"node-1: ip link add flannel.1 index 3 mtu 1450 address " + vtep1 + " type vxlan id 1 local 172.16.1.9 dev ens3 dstport 8472 nolearning gbp",
				"node-1: ip link set flannel.1 up", "node-1: ip addr add 10.244.1.0/32 dev flannel.1",
				"node-1: ip neigh add 10.244.2.0 lladdr " + vtep2 + " dev flannel.1 nud permanent",
				"node-1: bridge fdb add " + vtep2 + " dev flannel.1 dst 172.16.1.10",
				"node-1: ip route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
				"node-1: " + table, "node-1: " + filterChain("postrouting"), "node-1: nft add rule ip t c oifname flannel.1 meta mark set 7",
			},
			mend: []string{"node-1: " + noTable, "node-1: rewire"},
			want: "expected VXLAN, flags [I] (0x08), vni 1, seen VXLAN, flags [I] (0x88), vni 1, reserved 0x000007 0x00",
		},
		{
			name: "a neighbour has another MAC", check: "WF-03",
			brk: []string{
				"node-1: ip neigh replace 10.244.2.0 dev flannel.1 lladdr 02:00:00:00:00:99 nud permanent",
				"node-1: bridge fdb add 02:00:00:00:00:99 dev flannel.1 dst 172.16.1.10 self permanent",
			},
			mend: []string{"node-1: rewire"},
			want: "expected inner " + vtep1 + " > " + vtep2 + ", untagged, seen inner " + vtep1 + " > 02:00:00:00:00:99",
		},
		{
			name: "an inner TTL is changed", check: "WF-04",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c oifname flannel.1 ip ttl set 60"},
			mend: []string{"node-1: " + noTable},
			want: "node-1:ens3: echo request of node-1-pod-1 > 10.244.2.2: expected inner ttl 63, seen inner ttl 60",
		},
		{
			name: "an outer TTL is changed", check: "WF-04",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c udp dport 8472 ip ttl set 5"},
			mend: []string{"node-1: " + noTable},
			want: "expected outer ttl 64, seen outer ttl 5",
		},
	}...)
}

// quick makes unanswered pings give up soon.
func quick() suite.Options {
	t := suite.DefaultTimeouts()
	t.Tries = 2
	return suite.Options{Timeouts: t}
}

func TestEveryFaultIsFound(t *testing.T) {
	for _, f := range faults() {
		t.Run(f.check+" "+f.name, func(t *testing.T) {
			t.Parallel() // each has a lab of its own, and mostly waits
			twin, again := strings.CutPrefix(f.check, "DS-01/")
			plan := labtest.Plan(3, 2, 1500)
			if again || f.check == "MTU-07" {
				plan = labtest.DualPlan(3, 2, 1500)
			}
			if f.backend.Type != "" {
				plan.Network.Backend = f.backend
			}
			if f.plan != nil {
				f.plan(plan)
			}
			lab := labtest.Up(t, plan)
			rewire := lab.Rewire
			if plan.Network.EnableIPv6 {
				rewire = lab.Rewire6
			}
			expect := func(when string, v suite.Verdict) string {
				t.Helper()
				o := quick()
				o.Select.Levels = []suite.Level{suite.Core, suite.Extended, suite.Hardening, suite.Strict}
				r := run(t, lab, o, f.check+"$")
				if len(r.Results) != 1 || r.Results[0].Verdict != v {
					t.Fatalf("%s: %s", when, text(r.Results[0]))
				}
				return text(r.Results[0])
			}
			do := func(commands []string) {
				for _, c := range commands {
					ns, cmd, _ := strings.Cut(c, ": ")
					switch words := strings.Split(cmd, " "); words[0] {
					case "rewire":
						rewire(t, ns)
					case "solicitable":
						lab.Solicitable(t, ns, words[1], netip.MustParseAddr(words[2]))
					default:
						lab.Exec(t, ns, strings.Split(cmd, " ")...)
					}
				}
			}
			do(f.setup)
			expect("before the fault", suite.Pass)
			if f.rewire != nil {
				rewire(t, "node-1", f.rewire)
			}
			do(f.brk)
			if got := expect("with the fault", suite.Fail); !strings.Contains(got, f.want) {
				t.Errorf("the findings do not say %q:\n%s", f.want, got)
			}
			if again && !f.both {
				if r := run(t, lab, quick(), twin); r.Results[0].Verdict != suite.Pass {
					t.Errorf("IPv4 suffers too: %s", text(r.Results[0]))
				}
			}
			if f.rewire != nil {
				rewire(t, "node-1")
			}
			do(f.mend)
			expect("after the repair", suite.Pass)
		})
	}
}
