package topology

import (
	"fmt"
	"strings"
	"testing"
)

func TestNetworkRules(t *testing.T) {
	testBad(t, header, []badSpec{
		{"too small", "  network: {Network: 10.244.0.0/29}\n", []string{
			"4:22: spec.network.Network: is a /29; the network is too small: the minimum useful network prefix is /28"}},
		{"SubnetLen too long", "  network: {SubnetLen: 31}\n", []string{
			"4:24: spec.network.SubnetLen: is 31; SubnetLen must be less than /31"}},
		{"SubnetLen too short", "  network: {Network: 10.244.0.0/20, SubnetLen: 21}\n", []string{
			"4:48: spec.network.SubnetLen: is 21; the network, a /20, must be able to accommodate at least four subnets: write 22 to 30, or widen Network"}},
		{"SubnetMin off the boundary, SubnetMax outside", "  network: {SubnetMin: 10.244.3.4, SubnetMax: 10.245.0.0}\n", []string{
			"4:24: spec.network.SubnetMin: is 10.244.3.4, which is not on a SubnetLen boundary; 10.244.3.0 is",
			"4:47: spec.network.SubnetMax: is 10.245.0.0; SubnetMax is not in the range of the network 10.244.0.0/16"}},
		{"SubnetMin beyond SubnetMax", "  network: {SubnetMin: 10.244.9.0, SubnetMax: 10.244.3.0}\n", []string{
			"4:24: spec.network.SubnetMin: is 10.244.9.0, beyond SubnetMax 10.244.3.0, which leaves no subnet; swap them"}},
		{"wrong family", "  network: {Network: fd00::/48, SubnetMin: \"::1\"}\n", []string{
			"4:22: spec.network.Network: is fd00::, of IPv6; an IPv4 one belongs here"}},
		{"loopback", "  network: {Network: 127.0.0.0/16}\n", []string{
			"4:22: spec.network.Network: is 127.0.0.0/16, which overlaps loopback, 127.0.0.0/8; choose a private one such as 10.244.0.0/16"}},
		{"over the default segment", "  network: {Network: 172.16.0.0/12}\n", []string{
			"4:22: spec.network.Network: is 172.16.0.0/12, which overlaps the default segment's 172.16.1.0/24; choose another, or name a segment outside it in spec.underlay"}},
		{"over a segment", "  network: {Network: 10.244.0.0/16}\n  underlay: [{name: lan, cidr: 10.244.9.0/24}]\n", []string{
			"5:32: spec.underlay[0].cidr: is 10.244.9.0/24, which overlaps the overlay's network 10.244.0.0/16; choose one outside it"}},
		{"no family", "  network: {EnableIPv4: false}\n", []string{
			"4:25: spec.network.EnableIPv4: is false and EnableIPv6 is not true, which leaves no address family; leave EnableIPv4 out"}},
		{"IPv6 alone", "  network: {EnableIPv4: false, EnableIPv6: true}\n", []string{
			"4:25: spec.network.EnableIPv4: is false; an overlay of IPv6 alone is not supported: leave EnableIPv4 out for dual stack"}},
		{"backend", "  network: {Backend: {Type: vxlna, VNI: 16777215, Port: 0, MTU: 500}}\n", []string{
			`4:29: spec.network.Backend.Type: is "vxlna"; write vxlan, host-gw, udp, ipip, wireguard, ipsec, alloc or extension; did you mean "vxlan"?`,
			"4:41: spec.network.Backend.VNI: is 16777215; it must be 1 to 9999999: the name of the device, flannel.VNI, has room for seven digits",
			"4:57: spec.network.Backend.Port: is 0; it must be 1 to 65535",
			"4:65: spec.network.Backend.MTU: is 500; it must be 576 to 65535 bytes"}},
		{"IPv6 too small", "  network: {EnableIPv6: true, IPv6Network: fd00::/125}\n", []string{
			"4:44: spec.network.IPv6Network: is a /125; the network is too small: the minimum useful network prefix is /124"}},
		{"IPv6SubnetLen too long", "  network: {EnableIPv6: true, IPv6SubnetLen: 127}\n", []string{
			"4:46: spec.network.IPv6SubnetLen: is 127; IPv6SubnetLen must be less than /127"}},
		{"IPv6 below 1280 bytes", "  network: {EnableIPv6: true}\n  underlay: [{name: lan, cidr: 10.0.0.0/24, cidr6: \"fd00:1::/64\", mtu: 1300}]\n", []string{
			"5:72: spec.underlay[0].mtu: leaves master an overlay MTU of 1230 bytes; IPv6 needs 1280: write 1350 at least"}},
		{"IPv6 below 1280 bytes by the backend", "  network: {EnableIPv6: true, Backend: {MTU: 1300}}\n", []string{
			"4:46: spec.network.Backend.MTU: leaves master an overlay MTU of 1230 bytes; IPv6 needs 1280: write 1350 at least"}},
		{"dual stack and a mode", "  network: {EnableIPv6: true}\n  ipv6: off\n", []string{
			"5:9: spec.ipv6: is off, but network.EnableIPv6 makes the lab dual stack; leave one of the two out"}},
		{"no cidr6", "  network: {EnableIPv6: true}\n  underlay: [{name: lan, cidr: 10.0.0.0/24}]\n", []string{
			"5:14: spec.underlay[0]: has no cidr6, but the agent of master needs an IPv6 address on its eth0; add cidr6"}},
		{"IPv6 keys in a lab of IPv4", "  underlay: [{name: lan, cidr: 10.0.0.0/24, cidr6: \"fd00:1::/64\"}]\n  nodes: [{name: a, podCIDR6: \"fd00:2::/64\"}]\n  pods: [{name: p, node: a, address6: \"fd00:2::9\"}]\n", []string{
			"4:52: spec.underlay[0].cidr6: is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out",
			"5:31: spec.nodes[0].podCIDR6: is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out",
			"6:39: spec.pods[0].address6: is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out"}},
		{"an IPv6 network in a lab of IPv4", "  network: {IPv6Network: \"fd00:9::/48\", IPv6SubnetLen: 64, IPv6SubnetMin: \"fd00:9::\"}\n", []string{
			"4:26: spec.network.IPv6Network: is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out",
			"4:56: spec.network.IPv6SubnetLen: is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out",
			"4:75: spec.network.IPv6SubnetMin: is given, but the lab is not dual stack; set spec.network.EnableIPv6: true, or leave this out"}},
		{"legacy records of two families", "  network: {EnableIPv6: true}\n  cni: {legacyRecords: true}\n", []string{
			"5:24: spec.cni.legacyRecords: is true, but the lab is dual stack, and the old form has room for one subnet; leave it out"}},
		{"words", "  provider: Netns\n  ipv6: on\n", []string{
			`4:13: spec.provider: is "Netns"; write netns, kind, vagrant or kubernetes; did you mean "netns"?`,
			`5:9: spec.ipv6: is "on"; write off or link-local`}},
	})
}

func TestUnderlayRules(t *testing.T) {
	two := "  underlay:\n  - {name: lan, cidr: 172.16.1.0/24}\n  - {name: wan, cidr: 172.16.2.0/24}\n"
	testBad(t, header, []badSpec{
		{"segments", "  underlay:\n  - {name: lan, cidr: 172.16.1.0/24, mtu: 575}\n  - {name: wan, cidr: 172.16.1.128/25, mtu: 65536}\n  - {name: lan, cidr: 172.16.2.1/24}\n  - {name: x}\n  - {name: y, cidr: 10.0.0.1/32}\n  - {name: z, cidr: 10.0.0.0/24, gateway: 10.0.1.1}\n", []string{
			"5:43: spec.underlay[0].mtu: is 575; it must be 576 to 65535 bytes",
			"6:23: spec.underlay[1].cidr: is 172.16.1.128/25, which overlaps the 172.16.1.0/24 of segment lan; choose one outside it",
			"6:45: spec.underlay[1].mtu: is 65536; it must be 576 to 65535 bytes",
			"7:12: spec.underlay[2].name: is lan, as is spec.underlay[0].name; choose another name",
			"7:23: spec.underlay[2].cidr: is 172.16.2.1/24, an address within a segment; write 172.16.2.0/24",
			"8:5: spec.underlay[3].cidr: is missing; write a CIDR such as 172.16.1.0/24",
			"9:21: spec.underlay[4].cidr: is 10.0.0.1/32, a single address; a segment has two at least",
			"10:43: spec.underlay[5].gateway: is 10.0.1.1, outside the segment's 10.0.0.0/24"}},
		{"no segments, no nodes", "  underlay: []\n  nodes: []\n", []string{
			"4:13: spec.underlay: is empty; name a segment, or leave underlay out for one called lan",
			"5:10: spec.nodes: is empty; a lab has one node at least: leave nodes out for a master and two workers"}},
		{"the same network twice, unused", "  underlay:\n  - {name: nat1, cidr: 10.0.2.0/24}\n  - {name: nat2, cidr: 10.0.2.0/24}\n", []string{
			"6:24: spec.underlay[1].cidr: is 10.0.2.0/24, which overlaps the 10.0.2.0/24 of segment nat1; choose one outside it"}},
		{"the same network twice on one node", "  underlay:\n  - {name: nat1, cidr: 10.0.2.0/24}\n  - {name: nat2, cidr: 10.0.2.0/24}\n  nodes: [{name: a, interfaces: [{segment: nat1}, {segment: nat2}]}]\n", []string{
			"6:24: spec.underlay[1].cidr: is 10.0.2.0/24, as is that of segment nat1, and a reaches both; choose another"}},
		{"addresses and MACs", "  nodes:\n  - {name: a, interfaces: [{address: 172.16.1.8, mac: 02:00:00:00:00:01}]}\n  - {name: b, interfaces: [{address: 172.16.1.8, mac: 02:00:00:00:00:01}]}\n  - {name: c, interfaces: [{address: 172.16.2.8, mac: 01:00:5e:00:00:01}]}\n  - {name: d, interfaces: [{address: 172.16.1.0}, {address: 172.16.1.255}, {address: \"fd00::1\"}]}\n", []string{
			"6:38: spec.nodes[1].interfaces[0].address: is 172.16.1.8, as is spec.nodes[0].interfaces[0].address on the same segment lan; choose another",
			"6:55: spec.nodes[1].interfaces[0].mac: is 02:00:00:00:00:01, as is spec.nodes[0].interfaces[0].mac on the same segment lan; choose another",
			"7:38: spec.nodes[2].interfaces[0].address: is 172.16.2.8, outside the segment's 172.16.1.0/24",
			`7:55: spec.nodes[2].interfaces[0].mac: is "01:00:5e:00:00:01"; a unicast MAC address such as 02:00:5e:10:00:01 belongs here`,
			"8:38: spec.nodes[3].interfaces[0].address: is 172.16.1.0, the network address of 172.16.1.0/24; choose one after it",
			"8:61: spec.nodes[3].interfaces[1].address: is 172.16.1.255, the broadcast address of 172.16.1.0/24; choose one before it",
			"8:86: spec.nodes[3].interfaces[2].address: is fd00::1, of IPv6; an IPv4 one belongs here"}},
		{"a gateway's address", "  underlay: [{name: lan, cidr: 10.0.0.0/24, gateway: 10.0.0.1}]\n  nodes: [{name: a, interfaces: [{address: 10.0.0.1}]}]\n", []string{
			"5:44: spec.nodes[0].interfaces[0].address: is 10.0.0.1, the gateway of segment lan; choose another"}},
		{"one address for many", "  nodes: [{name: a, count: 2, vtepMAC: 02:00:00:00:00:02, podCIDR: 10.244.9.0/24, interfaces: [{address: 172.16.1.9, mac: 02:00:00:00:00:01}]}]\n", []string{
			"4:40: spec.nodes[0].vtepMAC: is fixed, but the entry makes 2 nodes, which cannot share it; give each node an entry of its own",
			"4:68: spec.nodes[0].podCIDR: is fixed, but the entry makes 2 nodes, which cannot share it; give each node an entry of its own",
			"4:106: spec.nodes[0].interfaces[0].address: is 172.16.1.9 for every node that the entry makes, all on segment lan; give each node an entry of its own, or leave the address out",
			"4:123: spec.nodes[0].interfaces[0].mac: is 02:00:00:00:00:01 for every node that the entry makes, all on segment lan; give each node an entry of its own, or leave the MAC out"}},
		{"references", two + "  nodes:\n  - {name: a, interfaces: [{segment: lam}, {name: eth1}, {segment: dmz}]}\n", []string{
			`8:38: spec.nodes[0].interfaces[0].segment: is "lam", and no segment is called that; did you mean "lan"?`,
			"8:44: spec.nodes[0].interfaces[1].segment: is missing; there are lan, wan",
			`8:68: spec.nodes[0].interfaces[2].segment: is "dmz", and no segment is called that; there are lan, wan`}},
		{"interface names", "  nodes:\n  - {name: a, interfaces: [{name: lo}, {name: a/b}, {name: x}, {name: x}, {name: flannel.1}, {name: " + strings.Repeat("n", 128) + "}]}\n", []string{
			`5:35: spec.nodes[0].interfaces[0].name: is "lo", which the kernel or the overlay itself uses; choose another name`,
			`5:47: spec.nodes[0].interfaces[1].name: is "a/b"; write letters, digits, dots, hyphens and underscores`,
			"5:71: spec.nodes[0].interfaces[3].name: is x, as is spec.nodes[0].interfaces[2].name; choose another name",
			`5:82: spec.nodes[0].interfaces[4].name: is "flannel.1", which the kernel or the overlay itself uses; choose another name`,
			`5:101: spec.nodes[0].interfaces[5].name: is "` + strings.Repeat("n", 60) + `"…, 128 bytes long; at most 127`}},
		{"no interfaces", "  nodes: [{name: a, interfaces: []}]\n  routers: [{name: r, interfaces: []}]\n", []string{
			"4:33: spec.nodes[0].interfaces: is empty; name one interface at least",
			"5:35: spec.routers[0].interfaces: is empty; name one interface at least"}},
		{"a router behind everybody's NAT", "  underlay: [{name: nat, cidr: 10.0.2.0/24, perNode: true}]\n  routers: [{name: r, interfaces: [{segment: nat}]}]\n", []string{
			"5:46: spec.routers[0].interfaces[0].segment: is nat, of which every node has its own copy (perNode); a router joins shared segments"}},
		{"full segment", "  underlay: [{name: lan, cidr: 10.0.0.0/30}]\n  podsPerNode: 0\n", []string{
			"4:14: spec.underlay[0]: has 3 interfaces on it, but 10.0.0.0/30 does not have as many addresses to give; write a wider one"}},
		{"routes", "  nodes:\n  - {name: a, interfaces: [{address: 172.16.1.1}], routes: [{via: 10.9.9.9}, {via: 172.16.1.1}, {dst: 10.0.0.1/8, via: 172.16.1.9},\n" +
			"      {dst: 10.0.0.0/8, via: 172.16.1.9, dev: eth1}, {dst: 172.16.1.0/24, via: 172.16.1.9}, {via: 172.16.1.9}, {via: 172.16.1.10}, {dst: \"fd00::/8\", via: 172.16.1.9}, {dst: 10.0.0.0/8}]}\n", []string{
			"5:67: spec.nodes[0].routes[0].via: is 10.9.9.9, which is on no segment of a; a next hop is one link away",
			"5:84: spec.nodes[0].routes[1].via: is 172.16.1.1, a's own address; write that of another machine",
			"5:103: spec.nodes[0].routes[2].dst: is 10.0.0.1/8, an address within a network; write 10.0.0.0/8",
			`6:47: spec.nodes[0].routes[3].dev: is "eth1", and a has no interface of that name; did you mean "eth0"?`,
			"6:60: spec.nodes[0].routes[4].dst: is 172.16.1.0/24, the segment of eth0, which needs no route; leave it out",
			"6:112: spec.nodes[0].routes[6]: leads to 0.0.0.0/0, as does spec.nodes[0].routes[5]; a node has one route to a place",
			"6:138: spec.nodes[0].routes[7].dst: is fd00::/8, and via is 172.16.1.9, of the other address family",
			"6:168: spec.nodes[0].routes[8].via: is missing; write the address of the next hop"}},
		{"too many", "  underlay:\n" + "  - {name: lan, cidr: 10.0.0.0/16}\n  nodes: [{name: n, count: 1024}]\n  podsPerNode: 0\n  network: {Network: 10.128.0.0/9}\n", []string{
			"5:5: spec.underlay[0]: has 1024 interfaces on it; a bridge of the kernel has at most 1023 ports: spread the nodes over segments"}},
	})
}

func TestNodeRules(t *testing.T) {
	testBad(t, header, []badSpec{
		{"names", "  nodes:\n  - {name: Node/1}\n  - {name: " + strings.Repeat("a", 80) + "}\n  - {name: -a}\n  - {name: \"\"}\n  - {name: 12}\n  - {name: a_b}\n", []string{
			`5:12: spec.nodes[0].name: is "Node/1"; write lower-case letters, digits and hyphens, with no hyphen first or last`,
			`6:12: spec.nodes[1].name: is "` + strings.Repeat("a", 60) + `"…, 80 characters long; at most 63`,
			`7:12: spec.nodes[2].name: is "-a"; write lower-case letters, digits and hyphens, with no hyphen first or last`,
			"8:12: spec.nodes[3].name: is empty; write lower-case letters, digits and hyphens",
			"9:12: spec.nodes[4].name: is the number 12; text belongs here: put it in quotes",
			`10:12: spec.nodes[5].name: is "a_b"; write lower-case letters, digits and hyphens, with no hyphen first or last`}},
		{"one name twice", "  nodes:\n  - {name: node, count: 2}\n  - {name: node-1}\n  routers: [{name: node-2, interfaces: [{segment: lan}]}]\n  pods: [{name: node-1, node: node-1}]\n", []string{
			"6:12: spec.nodes[1].name: is node-1, as is spec.nodes[0].name; nodes, routers and pods need different names",
			"7:20: spec.routers[0].name: is node-2, as is spec.nodes[0].name; nodes, routers and pods need different names",
			"8:17: spec.pods[0].name: is node-1, as is spec.nodes[0].name; nodes, routers and pods need different names"}},
		{"role and count", "  nodes: [{name: a, role: master, count: 0}, {name: b, role: control-plan, count: 2000}]\n", []string{
			`4:27: spec.nodes[0].role: is "master"; write worker or control-plane`,
			"4:42: spec.nodes[0].count: is 0; it must be 1 to 1024 nodes",
			`4:62: spec.nodes[1].role: is "control-plan"; write worker or control-plane; did you mean "control-plane"?`,
			"4:83: spec.nodes[1].count: is 2000; it must be 1 to 1024 nodes"}},
		{"too many", "  nodes: [{name: a, count: 1000}, {name: b, count: 1000}]\n  network: {Network: 10.128.0.0/9}\n  underlay: [{name: lan, cidr: 10.0.0.0/16, perNode: true}]\n", []string{
			"4:10: spec.nodes: makes more than 1024 nodes, the most that a lab has"}},
		{"too many for the network", "  network: {Network: 10.244.0.0/26, SubnetLen: 28, SubnetMin: 10.244.0.16}\n  nodes: [{name: n, count: 4}]\n", []string{
			"5:10: spec.nodes: are 4 nodes, but 10.244.0.0/26 has only 3 subnets for them (a /28 each, 10.244.0.16 to 10.244.0.48); widen Network or raise SubnetLen"}},
		{"pod CIDRs", "  network: {SubnetMin: 10.244.4.0}\n  nodes:\n  - {name: a, podCIDR: 10.244.7.0/24}\n  - {name: b, podCIDR: 10.244.7.0/24}\n  - {name: c, podCIDR: 10.244.8.0/25}\n  - {name: d, podCIDR: 10.245.7.0/24}\n  - {name: e, podCIDR: 10.244.9.9/24}\n  - {name: f, podCIDR: 10.244.0.0/24}\n  - {name: g, podCIDR: \"fd00::/64\"}\n", []string{
			"7:24: spec.nodes[1].podCIDR: overlaps a's 10.244.7.0/24; choose 10.244.5.0/24",
			"8:24: spec.nodes[2].podCIDR: is 10.244.8.0/25, a /25; SubnetLen makes every node's subnet a /24: write 10.244.8.0/24",
			"9:24: spec.nodes[3].podCIDR: is 10.245.7.0/24, outside the overlay's network 10.244.0.0/16; choose 10.244.11.0/24",
			"10:24: spec.nodes[4].podCIDR: is 10.244.9.9/24, an address within a subnet; write 10.244.9.0/24",
			"11:24: spec.nodes[5].podCIDR: is 10.244.0.0/24, outside SubnetMin 10.244.4.0 to SubnetMax 10.244.255.0; choose 10.244.9.0/24",
			"12:24: spec.nodes[6].podCIDR: is fd00::, of IPv6; an IPv4 one belongs here"}},
		{"no subnet left to offer", "  network: {Network: 10.244.0.0/28}\n  podsPerNode: 0\n  nodes:\n  - {name: a, podCIDR: 10.244.0.0/30}\n  - {name: b, podCIDR: 10.244.0.4/30}\n  - {name: c, podCIDR: 10.244.0.8/30}\n  - {name: d, podCIDR: 10.244.0.12/30}\n  - {name: e, podCIDR: 10.244.0.12/30}\n", []string{
			"11:24: spec.nodes[4].podCIDR: overlaps d's 10.244.0.12/30; choose a wider network, since every subnet is taken"}},
		{"VTEP and bridge MACs", "  nodes:\n  - {name: a, vtepMAC: 02:00:00:00:00:01, bridgeMAC: 02:00:00:00:00:01}\n  - {name: b, vtepMAC: 02:00:00:00:00:01}\n  pods: [{name: p, node: a, mac: 02:00:00:00:00:01}]\n", []string{
			"6:24: spec.nodes[1].vtepMAC: is 02:00:00:00:00:01, as is spec.nodes[0].vtepMAC on the same overlay; choose another",
			"7:34: spec.pods[0].mac: is 02:00:00:00:00:01, as is spec.nodes[0].bridgeMAC on the same a's cni0; choose another"}},
	})
}

func TestPodRules(t *testing.T) {
	testBad(t, header, []badSpec{
		{"addresses", "  pods:\n  - {name: p1, node: node-1, address: 10.244.1.1}\n  - {name: p2, node: node-1, address: 10.244.2.9}\n  - {name: p3, node: node-1, address: 10.244.1.9}\n  - {name: p4, node: node-1, address: 10.244.1.9}\n  - {name: p5, node: node-1, address: 10.244.1.255}\n  - {name: p6, node: node-1, address: 10.244.1.0}\n", []string{
			"5:39: spec.pods[0].address: is 10.244.1.1, the address of cni0 on node-1; choose one from 10.244.1.2 on",
			"6:39: spec.pods[1].address: is 10.244.2.9, outside the 10.244.1.0/24 of its node node-1; choose one from 10.244.1.2 on, or another node",
			"8:39: spec.pods[3].address: is 10.244.1.9, as is spec.pods[2].address on the same node node-1; choose another",
			"9:39: spec.pods[4].address: is 10.244.1.255, the broadcast address of node-1's 10.244.1.0/24; choose one before it",
			"10:39: spec.pods[5].address: is 10.244.1.0, the network address of node-1's 10.244.1.0/24; choose one from 10.244.1.2 on"}},
		{"names and nodes", "  pods:\n  - {name: p, node: nod-1}\n  - {name: p, node: node-1}\n  - {name: q}\n", []string{
			`5:21: spec.pods[0].node: is "nod-1", and no node is called that; did you mean "node-1"?`,
			"6:12: spec.pods[1].name: is p, as is spec.pods[0].name; nodes, routers and pods need different names",
			"7:5: spec.pods[2].node: is missing; write the name of the node that the pod runs on"}},
		{"host interfaces", "  pods:\n  - {name: p, node: node-1, hostInterface: veth0}\n  - {name: q, node: node-1, hostInterface: veth0}\n  - {name: r, node: node-1, hostInterface: eth0}\n  - {name: s, node: node-1, hostInterface: averylonginterface}\n  - {name: t, node: node-1, hostInterface: cni0}\n", []string{
			"6:44: spec.pods[1].hostInterface: is veth0, as is spec.pods[0].hostInterface on node-1; choose another name",
			"7:44: spec.pods[2].hostInterface: is eth0, as is spec.nodes[1].interfaces[0] on node-1; choose another name",
			`8:44: spec.pods[3].hostInterface: is "averylonginterface", 18 bytes long; at most 15`,
			`9:44: spec.pods[4].hostInterface: is "cni0", which the kernel or the overlay itself uses; choose another name`}},
		{"too many for a subnet", "  podsPerNode: 300\n", []string{
			"4:16: spec.podsPerNode: puts 300 pods on master, but its 10.244.0.0/24 has room for 253; lower the number, or make SubnetLen smaller"}},
		{"too many for a bridge", "  podsPerNode: 1024\n", []string{
			"4:16: spec.podsPerNode: is 1024; it must be 0 to 1023, the ports of a node's bridge"}},
		{"too many for a lab", "  network: {Network: 10.128.0.0/9, SubnetLen: 20}\n  podsPerNode: 1000\n  nodes: [{name: n, count: 11}]\n", []string{
			"4:3: spec.pods: and podsPerNode make more than 10000 pods, the most that a lab has"}},
	})
}

func TestAgentAndStoreRules(t *testing.T) {
	testBad(t, header, []badSpec{
		{"no such interface", "  agent: {iface: enp0s8}\n", []string{
			`4:18: spec.agent.iface: is "enp0s8", and master has no such interface; it has eth0 172.16.1.1`}},
		{"on one node", "  nodes: [{name: a, agent: {iface: enp0s8}}, {name: b, agent: {ifaceRegex: \"^10\\\\.\"}}]\n", []string{
			`4:36: spec.nodes[0].agent.iface: is "enp0s8", and a has no such interface; it has eth0 172.16.1.1`,
			`4:76: spec.nodes[1].agent.ifaceRegex: is "^10\\.", which matches no address and no name of b's interfaces; it has eth0 172.16.1.2`}},
		{"not an expression", "  agent: {ifaceRegex: \"(\"}\n", []string{
			"4:23: spec.agent.ifaceRegex: is \"(\", which is not a regular expression: missing closing ): `(`"}},
		{"nobody's public address", "  agent: {publicIP: 192.0.2.1}\n", []string{
			"4:21: spec.agent.publicIP: is 192.0.2.1, which no interface of master has (eth0 172.16.1.1); name the interface with iface"}},
		{"empty command", "  agent: {command: [\"\"], publicIP: \"::1\"}\n", []string{
			"4:21: spec.agent.command[0]: is empty; write a program, or leave command out for the bundled agent",
			"4:36: spec.agent.publicIP: is ::1, of IPv6; an IPv4 one belongs here"}},
		{"store", "  store: {type: zk, node: mastr, port: 65536, prefix: foo/}\n", []string{
			`4:17: spec.store.type: is "zk"; write etcd`,
			`4:27: spec.store.node: is "mastr", and no node is called that; did you mean "master"?`,
			"4:40: spec.store.port: is 65536; it must be 1 to 65535",
			`4:55: spec.store.prefix: is "foo/"; write a key prefix such as /coreos.com/network, without a slash at its end`}},
		{"store and health check on one port", "  agent: {args: [--healthz-port, \"4001\"]}\n  store: {port: 4001}\n", []string{
			"4:17: spec.agent.args: put the health check of master's agent on port 4001, where the store listens; choose another port"}},
	})
	for _, args := range []string{"-healthz-port=2379", "--healthz-port=2379"} {
		if got := healthzPort([]string{"--healthz-port=1", args}); got != 2379 {
			t.Errorf("healthzPort(%s) = %d", args, got)
		}
	}
}

func TestTooManyEntries(t *testing.T) {
	var segments, routers strings.Builder
	for i := range 300 {
		fmt.Fprintf(&segments, "  - {name: s%d, cidr: 10.%d.%d.0/24}\n", i, i/256, i%256)
		fmt.Fprintf(&routers, "  - {name: r%d, interfaces: [{segment: s0}, {segment: s%d}]}\n", i, 1+i%255)
	}
	testBad(t, header, []badSpec{{"both", "  underlay:\n" + segments.String() + "  routers:\n" + routers.String(), []string{
		"5:3: spec.underlay: has 300 segments; a lab has at most 256",
		"5:5: spec.underlay[0]: has 259 interfaces on it, but 10.0.0.0/24 does not have as many addresses to give; write a wider one",
		"306:3: spec.routers: are 300 routers; a lab has at most 256",
	}}})
}
