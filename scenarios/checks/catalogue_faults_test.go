package checks_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/topology"
)

// hostFaults are those of nodes that speak to pods.
func hostFaults() []fault {
	return []fault{
		{
			name: "a node speaks to its pods from its underlay address", check: "NM-03",
			brk:  []string{"node-1: ip route replace 10.244.1.0/24 dev cni0 src 172.16.1.9"},
			mend: []string{"node-1: ip route del 10.244.1.0/24", "node-1: ip route add 10.244.1.0/24 dev cni0 src 10.244.1.1"},
			want: "node-1 > node-1-pod-1 (node-1) 10.244.1.2: expected seen as 10.244.1.1, answered by 10.244.1.2, seen seen as 172.16.1.9, answered by 10.244.1.2",
		},
		{
			name: "a node has no overlay address", check: "NM-04",
			brk:  []string{"node-1: ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink src 172.16.1.9"},
			mend: []string{"node-1: rewire"},
			want: "node-1 > node-2-pod-2 (node-2) 10.244.2.3: expected seen as 10.244.1.0, answered by 10.244.2.3, seen seen as 172.16.1.9",
		},
		{
			name: "a node's own packets do not leave", check: "NM-05",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c oifname flannel.1 drop"},
			mend: []string{"node-1: " + noTable},
			want: "node-1 > master-pod-1 (master) 10.244.0.2: expected a reply, seen ",
		},
		{
			name: "a node's packets are translated", check: "NM-05",
			brk: []string{"node-1: " + table, "node-1: nft add chain ip t c { type nat hook postrouting priority 100 ; }",
				"master: " + table, "master: nft add chain ip t c { type nat hook postrouting priority 100 ; }",
				"master: nft add rule ip t c oifname flannel.1 snat to 10.244.9.9",
				"master: ip addr add 10.244.9.9/32 dev lo",
				"node-1: ip route add 10.244.9.9/32 via 10.244.0.0 dev flannel.1 onlink",
				"master: ip addr del 10.244.9.9/32 dev lo",
				"master: ip route add local 10.244.9.9/32 dev lo table local"},
			mend: []string{"node-1: " + noTable, "master: " + noTable, "node-1: ip route del 10.244.9.9/32", "master: ip route del local 10.244.9.9/32 dev lo table local"},
			want: "master > node-1-pod-1: expected one of the node's own addresses, seen 10.244.9.9",
		},
		{
			name: "a node masquerades what pods say", check: "NM-06",
			brk:  []string{"node-1: " + table, "node-1: nft add chain ip t c { type nat hook postrouting priority 100 ; }", "node-1: nft add rule ip t c oifname flannel.1 masquerade"},
			mend: []string{"node-1: " + noTable},
			want: "node-1-pod-1 > master-pod-1 10.244.0.2: expected seen as 10.244.1.2, answered by 10.244.0.2, seen seen as 10.244.1.0",
		},
		{
			name: "subnet.env has another MTU", check: "CP-05",
			brk:  []string{"node-1: sed -i s/MTU=1450/MTU=1500/ /run/flannel/subnet.env"},
			mend: []string{"node-1: sed -i s/MTU=1500/MTU=1450/ /run/flannel/subnet.env"},
			want: "node-1 /run/flannel/subnet.env: expected FLANNEL_MTU=1450, seen FLANNEL_MTU=1500",
		},
		{
			name: "subnet.env lacks a key", check: "CP-05",
			brk:  []string{"node-1: sed -i s/FLANNEL_SUBNET/SUBNET/ /run/flannel/subnet.env"},
			mend: []string{"node-1: sed -i s/SUBNET/FLANNEL_SUBNET/ /run/flannel/subnet.env"},
			want: "node-1 /run/flannel/subnet.env: expected FLANNEL_SUBNET=10.244.1.1/24, seen no such key",
		},
		{
			name: "there is no subnet.env", check: "CP-05",
			brk:  []string{"node-1: mv /run/flannel/subnet.env /run/flannel/away"},
			mend: []string{"node-1: mv /run/flannel/away /run/flannel/subnet.env"},
			want: "node-1 /run/flannel/subnet.env: expected a file, seen ",
		},
	}
}

// outerFaults are those of a node's outer headers, and of what the underlay
// must not carry.
func outerFaults() []fault {
	output := func(rule string) []string {
		return []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c udp dport 8472 " + rule}
	}
	mended := []string{"node-1: " + noTable}
	const from = "node-1:ens3, node-1-pod-1 > node-2-pod-1: expected "
	return []fault{
		{
			name: "one source port for all flows", check: "WF-05", brk: output("udp sport set 40000"), mend: mended,
			want: from + "at least 32 outer source ports for 64 flows, seen 1 port",
		},
		{
			name: "a source port for each packet", check: "WF-05", brk: output("udp sport set numgen inc mod 3 map { 0 : 40000 , 1 : 41000 , 2 : 42000 }"), mend: mended,
			want: from + "one outer source port for the flow from port ",
		},
		{
			name: "source ports outside the range", check: "WF-05",
			brk: output("udp sport set symhash mod 64 map { " + lowPorts() + " }"), mend: mended,
			want: from + "outer source ports of 32768 to 60999, seen 1",
		},
		{
			name: "source ports of the kernel's choice", check: "WF-05R",
			brk:  []string{"node-1: sysctl -qw net.ipv4.ip_local_port_range=32768\t40000"},
			mend: []string{"node-1: sysctl -qw net.ipv4.ip_local_port_range=49152\t60999"},
			setup: []string{
				"master: sysctl -qw net.ipv4.ip_local_port_range=49152\t60999",
				"node-1: sysctl -qw net.ipv4.ip_local_port_range=49152\t60999",
				"node-2: sysctl -qw net.ipv4.ip_local_port_range=49152\t60999",
			},
			want: from + "outer source ports of at least 49152, seen port 3",
		},
		{
			name: "a wrong checksum", check: "WF-06", brk: output("udp checksum set 0x1234"), mend: mended,
			want: "expected outer UDP checksum none, seen wrong (0x1234)",
		},
		{
			name: "a checksum", check: "WF-06R", brk: output("udp checksum set 0x1234"), mend: mended,
			want: "expected outer UDP checksum none, seen wrong (0x1234)",
		},
		{
			name: "the underlay's MTU is too small", check: "WF-07",
			brk:  []string{"node-1: ip link set ens3 mtu 1400"},
			mend: []string{"node-1: ip link set ens3 mtu 1500"},
			want: "node-1:ens3: 1450 bytes of node-1-pod-1: expected a whole outer packet, seen a fragment of ",
		},
		{
			name: "packets go bare", check: "WF-08",
			brk:  []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.10 dev ens3"},
			mend: []string{"node-1: rewire"},
			want: "node-1:ens3: echo of node-1-pod-1 > 10.244.2.2: expected no pod's address in an outer header, seen bare, 10.244.1.2 > 10.244.2.2",
		},
		{
			name: "packets within a node are mirrored", check: "WF-08",
			brk: []string{
				"node-1: nft add table netdev t", "node-1: nft add chain netdev t c { type filter hook ingress device veth00000100 priority 0 ; }",
				"node-1: nft add rule netdev t c ip daddr 10.244.1.3 dup to ens3",
			},
			mend: []string{"node-1: nft delete table netdev t"},
			want: "node-1:ens3: echo of node-1-pod-1 > 10.244.1.3: expected nothing of what stays within a node, seen bare, 10.244.1.2 > 10.244.1.3",
		},
		{
			name: "a VTEP asks by ARP", check: "WF-09",
			brk: []string{
				"node-1: bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 172.16.1.10 self permanent",
				"node-1: ip neigh del 10.244.2.0 dev flannel.1",
			},
			mend: []string{"node-1: rewire"},
			want: "node-1:ens3: expected no ARP inside the tunnel, seen ARP, 10.244.1.0 asks for 10.244.2.0",
		},
		{
			name: "a pod believes in a larger MTU", check: "MTU-04",
			brk:  []string{"node-1-pod-1: ip link set eth0 mtu 1500"},
			mend: []string{"node-1-pod-1: ip link set eth0 mtu 1450"},
			want: "node-1-pod-1 (node-1) > node-2-pod-1 (node-2) 10.244.2.2, SYN: expected mss 1410, seen mss 1460",
		},
	}
}

// lowPorts maps 64 hashes to as many ports.
func lowPorts() string {
	var out []string
	for i := range 64 {
		out = append(out, fmt.Sprintf("%d : %d", i, 1024+i))
	}
	return strings.Join(out, " , ")
}

// TestLeases: CP-06 finds what the store has wrong.
func TestLeases(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(3, 1, 1500))
	startStore(t, lab)
	expect := func(v suite.Verdict, want string) {
		t.Helper()
		res := run(t, lab, suite.Options{}, "CP-06").Results[0]
		if got := text(res); res.Verdict != v || !strings.Contains(got, want) {
			t.Errorf("want %s, %q:\n%s", v, want, got)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(suite.Pass, "3 leases, as 10.244.0.0-24 of 172.16.1.8, vxlan")
	check(lab.PutLease(t.Context(), "node-1", topology.MAC{2, 0, 0, 0, 0, 0x99}))
	expect(suite.Fail, "node-1, lease 10.244.1.0-24: expected VtepMAC "+vtep1+", seen VtepMAC 02:00:00:00:00:99")
	check(lab.DeleteLease(t.Context(), "node-1"))
	expect(suite.Fail, "node-1: expected a lease for 10.244.1.0/24, seen none in the store")
	check(lab.PutLease(t.Context(), "node-1", lab.Plan().Node("node-1").VtepMAC))
	wide := netip.MustParsePrefix("10.244.0.0/23")
	check(lease.Put(t.Context(), lab, lease.Lease{Subnet: wide, Key: lease.Key(wide), PublicIP: netip.MustParseAddr("172.16.1.77"), BackendType: "vxlan"}))
	expect(suite.Fail, "the store: expected disjoint subnets, seen 10.244.0.0-23 and 10.244.0.0-24")
}

// securityFaults are those of a node that takes what it should not. Forgeries
// go from master to a pod of node-1.
func securityFaults() []fault {
	rewrite := func(change string) []string {
		return []string{"node-1: " + table, "node-1: " + filterChain("prerouting"), "node-1: nft add rule ip t c udp dport 8472 " + change}
	}
	// Only nodes may send VXLAN, and no pod may.
	guard := []string{
		"node-1: nft add table ip g", "node-1: nft add chain ip g c { type filter hook input priority 0 ; }",
		"node-1: nft add rule ip g c udp dport 8472 ip saddr != { 172.16.1.8, 172.16.1.9, 172.16.1.10 } drop",
	}
	const where = "master > node-1-pod-1 (node-1), "
	return []fault{
		{
			name: "a node puts every VNI right", check: "SE-01", brk: rewrite("@th,96,24 set 1"), mend: []string{"node-1: " + noTable},
			want: where + "another VNI: expected dropped, seen 3 of 3 frames arrived in the pod",
		},
		{
			name: "a node puts the flags right", check: "SE-02", brk: rewrite("@th,64,8 set 8"), mend: []string{"node-1: " + noTable},
			want: where + "no I flag: expected dropped, seen 3 of 3 frames arrived in the pod",
		},
		{
			name: "a VTEP learns", check: "SE-03", rewire: func(v *rtnl.Vxlan) { v.Learning = true },
			want: "node-1 flannel.1: expected the FDB of before, seen also 02:00:de:ad:00:01 dev flannel.1 dst 172.16.1.8 self",
		},
		{
			name: "no guard", check: "SE-05", setup: guard,
			brk:  []string{"node-1: nft delete table ip g"},
			mend: guard,
			want: where + "the source 172.16.1.254: expected dropped, seen 3 of 3 frames arrived in the pod",
		},
		{
			name: "no guard", check: "SE-06", setup: guard,
			brk:  []string{"node-1: nft delete table ip g"},
			mend: guard,
			want: where + "a pod as its sender: expected dropped, seen 3 of 3 frames arrived in the pod",
		},
	}
}

// TestReservedBits: what a kernel does with reserved bits is recorded.
func TestReservedBits(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	if res := run(t, lab, suite.Options{}, "SE-04").Results[0]; res.Verdict != suite.Pass || !strings.Contains(res.Evidence, "dropped, as Linux does") {
		t.Error(text(res))
	}
	lab.Exec(t, "node-1", strings.Fields(table)...)
	lab.Exec(t, "node-1", strings.Fields(filterChain("prerouting"))...)
	lab.Exec(t, "node-1", strings.Fields("nft add rule ip t c udp dport 8472 @th,64,32 set 0x08000000 @th,120,8 set 0")...)
	if res := run(t, lab, suite.Options{}, "SE-04").Results[0]; res.Verdict != suite.Pass || !strings.Contains(res.Evidence, "accepted, as the RFC asks") {
		t.Error(text(res))
	}
}

// TestNoControlIsInconclusive: where not even what is right arrives, nothing is
// said of what is wrong.
func TestNoControlIsInconclusive(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	lab.Exec(t, "node-1", strings.Fields(table)...)
	lab.Exec(t, "node-1", strings.Fields(filterChain("input"))...)
	lab.Exec(t, "node-1", strings.Fields("nft add rule ip t c udp dport 8472 drop")...)
	o := quick()
	o.Select.Levels = []suite.Level{suite.Core, suite.Hardening, suite.Information}
	for _, res := range run(t, lab, o, "SE").Results {
		if res.Verdict != suite.Inconclusive || !strings.Contains(res.Reason, "did not reach node-1-pod-1") {
			t.Error(text(res))
		}
	}
}

// masquerading is a plan whose agents masquerade; the rules are by
// masqueradeRules.
func masquerading(p *topology.Plan) {
	for i := range p.Nodes {
		p.Nodes[i].Agent.IPMasq = true
	}
}

// masqueradeRules are a node's, such as flannel's.
func masqueradeRules(rules ...string) []string {
	var out []string
	for _, n := range []string{"master", "node-1", "node-2"} {
		out = append(out, n+": nft add table ip m", n+": nft add chain ip m c { type nat hook postrouting priority 100 ; }", n+": nft flush chain ip m c")
		for _, r := range rules {
			out = append(out, n+": nft add rule ip m c "+r)
		}
	}
	return out
}

// natFaults are those of translation and of filters.
func natFaults() []fault {
	const (
		marked     = "meta mark & 0x4000 == 0x4000 return"
		within     = "ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return"
		masquerade = "ip saddr 10.244.0.0/16 masquerade"
	)
	sound := masqueradeRules(marked, within, masquerade)
	return []fault{
		{
			name: "a node masquerades between pods", check: "NT-01", plan: masquerading, setup: sound,
			brk: masqueradeRules(marked, masquerade), mend: sound,
			want: "node-1-pod-1 (node-1) > node-2-pod-1 (node-2) 10.244.2.2: expected source 10.244.1.2, seen source 10.244.2.1",
		},
		{
			name: "a rule is missing", check: "NT-02", plan: masquerading, setup: sound,
			brk: masqueradeRules(marked, within), mend: sound,
			want: "node-1-pod-1 (node-1) > master 172.16.1.8: expected seen as 172.16.1.9, answered by 172.16.1.8, seen seen as 10.244.1.2",
		},
		{
			name: "everything is masqueraded", check: "NT-03", plan: masquerading, setup: sound,
			brk: masqueradeRules("masquerade"), mend: sound,
			want: "master > node-1-pod-1 (node-1): expected source 172.16.1.8, seen source 10.244.1.1",
		},
		{
			name: "the mark is not heeded", check: "NT-04", plan: masquerading, setup: sound,
			brk: masqueradeRules(within, masquerade), mend: sound,
			want: "node-1, from 10.244.1.1 with mark 0x4000 > 172.16.1.8: expected seen as 10.244.1.1, seen seen as 172.16.1.9, answered by 172.16.1.8",
		},
		{
			name: "nothing accepts what is forwarded", check: "FW-01",
			setup: forwardRules("-A"), brk: forwardRules("-D")[2:4], mend: forwardRules("-A")[2:4],
			want: "node-1-pod-1 (node-1) > node-2-pod-1 (node-2) 10.244.2.2, policy DROP: expected a reply, seen no answer",
		},
	}
}

// forwardRules are the nodes' that accept what pods send and receive.
func forwardRules(verb string) []string {
	var out []string
	for _, n := range []string{"master", "node-1", "node-2"} {
		out = append(out, n+": iptables -w "+verb+" FORWARD -s 10.244.0.0/16 -j ACCEPT", n+": iptables -w "+verb+" FORWARD -d 10.244.0.0/16 -j ACCEPT")
	}
	return out
}

// pathFaults are those of MTUs, and of what is slow.
func pathFaults() []fault {
	onForward := func(rule string) []string {
		return []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c " + rule}
	}
	mended := []string{"node-1: " + noTable}
	return []fault{
		{
			name: "ICMP errors are dropped", check: "MTU-03",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("output"), "node-1: nft add rule ip t c icmp type destination-unreachable drop"},
			mend: mended,
			want: "node-1-pod-1 (node-1) > 10.244.2.2, 1500 bytes with DF: expected ICMP 3/4 fragmentation needed, mtu 1450, seen no answer",
		},
		{
			name: "fragments and ICMP errors are dropped", check: "MTU-05",
			brk: []string{"master: " + table, "master: " + filterChain("output"), "master: nft add rule ip t c icmp type destination-unreachable drop",
				"node-1: nft add table ip r", "node-1: nft add chain ip r c { type filter hook prerouting priority -450 ; }", "node-1: nft add rule ip r c ip frag-off & 0x3fff != 0 drop"},
			mend: []string{"master: " + noTable, "node-1: nft delete table ip r"},
			want: "10.244.1.2, 1450 bytes with DF, a link of 1400 bytes on the way: expected an answer, or the MTU, seen no answer",
		},
		{
			name: "the underlay's MTU has changed", check: "MTU-06",
			brk:  []string{"node-1: ip link set ens3 mtu 9000"},
			mend: []string{"node-1: ip link set ens3 mtu 1500"},
			want: "node-1 flannel.1, over ens3 of 9000 bytes: expected mtu 8950, seen flannel.1 has mtu 1450",
		},
		{
			name: "the overlay is slow", check: "PF-01",
			brk:  []string{"node-1: " + table, "node-1: " + filterChain("forward"), "node-1: nft add rule ip t c iifname flannel.1 limit rate over 20 mbytes/second burst 2 mbytes drop"},
			mend: mended,
			want: "master-pod-1 (master) > node-1-pod-1 (node-1) 10.244.1.2: expected at least 20 % of the underlay's throughput, seen ",
		},
		{
			name: "every first SYN is lost", check: "PF-02",
			brk:  onForward("oifname flannel.1 tcp flags & ( syn | ack ) == syn numgen inc mod 2 == 0 drop"),
			mend: mended,
			want: "node-1-pod-1 (node-1) > service 198.18.0.1:80 > node-2-pod-1 (node-2): expected a connection within 1 s, seen one after 1.",
		},
	}
}
