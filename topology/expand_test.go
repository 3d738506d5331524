package topology

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// plan expands what stands below spec in a lab file.
func plan(t *testing.T, spec string) *Plan {
	t.Helper()
	return planOf(t, header+spec)
}

// defaultPlan expands a lab file that says nothing but the lab's name.
func defaultPlan(t *testing.T) *Plan {
	t.Helper()
	return planOf(t, "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: default}\nspec: {}\n")
}

func planOf(t *testing.T, file string) *Plan {
	t.Helper()
	s, err := Parse("lab.yaml", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultPlan(t *testing.T) {
	p := defaultPlan(t)
	var got []string
	for i := range p.Nodes {
		n := &p.Nodes[i]
		got = append(got, strings.Join([]string{n.Name, string(n.Role), n.Interfaces[0].Name, n.Interfaces[0].Address.String(), n.PodCIDR.String(), n.Agent.Iface, n.Agent.Underlay}, " "))
		if p.OverlayMTU(n) != 1450 || !n.Agent.IPMasq || len(n.Routes) != 0 {
			t.Errorf("%+v", n)
		}
	}
	for _, x := range p.Pods {
		got = append(got, strings.Join([]string{x.Name, x.Node, x.Address.String()}, " "))
	}
	want := []string{
		"master control-plane eth0 172.16.1.1/24 10.244.0.0/24 eth0 eth0",
		"node-1 worker eth0 172.16.1.2/24 10.244.1.0/24 eth0 eth0",
		"node-2 worker eth0 172.16.1.3/24 10.244.2.0/24 eth0 eth0",
		"pod-1 master 10.244.0.2/24", "pod-2 master 10.244.0.3/24",
		"pod-3 node-1 10.244.1.2/24", "pod-4 node-1 10.244.1.3/24",
		"pod-5 node-2 10.244.2.2/24", "pod-6 node-2 10.244.2.3/24",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantStore := Store{Type: "etcd", Node: "master", Port: 2379, Prefix: "/coreos.com/network"}
	if p.Store != wantStore || p.Provider != "netns" || p.IPv6 != IPv6Off || p.Name != "default" {
		t.Errorf("store %+v, provider %s, IPv6 %s, name %s", p.Store, p.Provider, p.IPv6, p.Name)
	}
	wantNet := NetConf{EnableIPv4: true, Network: netip.MustParsePrefix("10.244.0.0/16"), SubnetLen: 24,
		SubnetMin: netip.MustParseAddr("10.244.0.0"), SubnetMax: netip.MustParseAddr("10.244.255.0"),
		Backend: Backend{Type: "vxlan", VNI: 1, Port: 8472}}
	if p.Network != wantNet {
		t.Errorf("network %+v", p.Network)
	}
}

// TestPlanIsStable pins what is derived, so that a lab's addresses survive
// the next release.
func TestPlanIsStable(t *testing.T) {
	p, again := defaultPlan(t), defaultPlan(t)
	if !reflect.DeepEqual(p, again) {
		t.Error("two expansions differ")
	}
	n, x := p.Node("node-1"), p.Pod("pod-3")
	got := []string{n.Interfaces[0].MAC.String(), n.Interfaces[0].Port, n.BridgeMAC.String(), p.Segments[0].Bridge, x.MAC.String(), x.HostInterface, x.ContainerID[:12], x.SandboxID[:12]}
	want := []string{"ca:45:5d:41:50:47", "node-1.eth0", "06:89:05:01:93:f1", "br-lan", "32:b6:3a:e4:ae:94", "veth64c82497", "64c82497b34a", "8f4f60e7755a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestPlanSurvivesJSON(t *testing.T) {
	for _, spec := range []string{"  {}\n", "  network: {EnableIPv6: true}\n", twoRouters} {
		p := plan(t, spec)
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var back Plan
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(p, &back) {
			t.Errorf("%s comes back different", data)
		}
	}
}

// The cluster of anilkreddyr's article (000): the addresses are OpenStack's,
// and the MTU of 1450 leaves 1400 to the pods.
func TestSeed000(t *testing.T) {
	p := plan(t, `
  network: {Network: 10.244.0.0/16}
  underlay: [{name: lan, cidr: 172.16.1.0/24, mtu: 1450, gateway: 172.16.1.1}]
  nodes:
  - {name: k8s-master, role: control-plane, interfaces: [{name: ens3, address: 172.16.1.8}]}
  - {name: k8s-node1, interfaces: [{name: ens3, address: 172.16.1.14}], bridgeMAC: da:54:dc:f2:f3:fe, vtepMAC: 26:62:24:f0:61:01}
  - {name: k8s-node2, interfaces: [{name: ens3, address: 172.16.1.13, mac: fa:16:3e:cc:78:67}], vtepMAC: 52:17:43:ba:2e:56}
  pods:
  - {name: ubuntu-1, node: k8s-node1, address: 10.244.1.96, mac: 2a:77:20:40:d1:bf, hostInterface: vethae159e77}
  - {name: ubuntu-2, node: k8s-node2, address: 10.244.2.66}
`)
	for name, want := range map[string]string{"k8s-master": "172.16.1.8 10.244.0.0/24", "k8s-node1": "172.16.1.14 10.244.1.0/24", "k8s-node2": "172.16.1.13 10.244.2.0/24"} {
		n := p.Node(name)
		if got := n.PublicIP().String() + " " + n.PodCIDR.String(); got != want || p.OverlayMTU(n) != 1400 || n.Agent.Iface != "" || n.Agent.Underlay != "ens3" {
			t.Errorf("%s: %s, MTU %d, agent %+v", name, got, p.OverlayMTU(n), n.Agent)
		}
		if diff := cmp.Diff([]Route{{Via: netip.MustParseAddr("172.16.1.1"), Dev: "ens3"}}, n.Routes, cmp.Comparer(func(a, b Route) bool { return a == b })); diff != "" {
			t.Errorf("%s: routes %s", name, diff)
		}
	}
	if x := p.Pod("ubuntu-1"); len(p.Pods) != 2 || x.Address.String() != "10.244.1.96/24" || x.HostInterface != "vethae159e77" || x.MAC.String() != "2a:77:20:40:d1:bf" {
		t.Errorf("pods %+v", p.Pods)
	}
}

// The Vagrant machines of tangfeixiong's notes (001):
//
//	        10.0.2.15/24 on every machine, each behind its own NAT
//	  nat-master01        nat-worker-1        nat-worker-2
//	       |enp0s3             |enp0s3             |enp0s3
//	   master01            worker-1            worker-2
//	       |enp0s8             |enp0s8             |enp0s8
//	-------+-------------------+-------------------+------ private
func TestSeed001(t *testing.T) {
	const spec = `
  network: {Network: 10.10.0.0/16}
  underlay:
  - {name: nat, cidr: 10.0.2.0/24, gateway: 10.0.2.2, perNode: true}
  - {name: private, cidr: 172.28.128.0/24}
  nodes:
  - {name: master01, role: control-plane, interfaces: [{name: enp0s3, segment: nat, address: 10.0.2.15}, {name: enp0s8, segment: private, address: 172.28.128.4}]}
  - {name: worker, count: 2, interfaces: [{name: enp0s3, segment: nat, address: 10.0.2.15}, {name: enp0s8, segment: private}]}
`
	p := plan(t, spec+"  agent: {iface: enp0s8}\n")
	var segments []string
	for _, s := range p.Segments {
		segments = append(segments, s.Name)
	}
	if diff := cmp.Diff([]string{"nat-master01", "nat-worker-1", "nat-worker-2", "private"}, segments); diff != "" {
		t.Error(diff)
	}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		nat := n.Interface("enp0s3")
		if nat.Segment != "nat-"+n.Name || nat.Address.String() != "10.0.2.15/24" || n.Agent.Underlay != "enp0s8" || n.Routes[0].Dev != "enp0s3" {
			t.Errorf("%+v", n)
		}
	}
	trap := plan(t, spec)
	for i := range trap.Nodes {
		if n := &trap.Nodes[i]; n.PublicIP().String() != "10.0.2.15" || n.Agent.Iface != "" {
			t.Errorf("without iface, %s's agent uses %s", n.Name, n.PublicIP())
		}
	}
	// The same, spelt out as segments of their own.
	same := plan(t, `
  underlay:
  - {name: nat-a, cidr: 10.0.2.0/24}
  - {name: nat-b, cidr: 10.0.2.0/24}
  - {name: private, cidr: 172.28.128.0/24}
  nodes:
  - {name: a, interfaces: [{segment: nat-a, address: 10.0.2.15}, {segment: private}]}
  - {name: b, interfaces: [{segment: nat-b, address: 10.0.2.15}, {segment: private}]}
`)
	if same.Nodes[0].Interfaces[0].Address != same.Nodes[1].Interfaces[0].Address {
		t.Errorf("%+v", same.Nodes)
	}
}

// The Hyper-V machines of Sathish's article (002).
func TestSeed002(t *testing.T) {
	p := plan(t, `
  underlay: [{name: lan, cidr: 172.28.147.32/28}]
  nodes:
  - {name: sathish-vm2, role: control-plane, interfaces: [{address: 172.28.147.38, mac: "00:15:5d:db:46:5b"}]}
  - {name: sathish-vm1, interfaces: [{address: 172.28.147.44, mac: "00:15:5d:db:46:5a"}]}
  pods:
  - {name: busybox1, node: sathish-vm1, address: 10.244.1.36}
  - {name: busybox2, node: sathish-vm1, address: 10.244.1.37}
  - {name: busybox3, node: sathish-vm2, address: 10.244.0.4}
`)
	if i := p.Node("sathish-vm2").Underlay(); i.Name != "eth0" || i.MAC.String() != "00:15:5d:db:46:5b" || i.Address.String() != "172.28.147.38/28" {
		t.Errorf("%+v", i)
	}
}

// twoRouters is three segments in a row:
//
//	a --- left --- r1 --- right --- r2 --- far --- c
//	                        |
//	                        b
const twoRouters = `
  underlay:
  - {name: left, cidr: 10.1.0.0/24, gateway: 10.1.0.1}
  - {name: right, cidr: 10.2.0.0/24}
  - {name: far, cidr: 10.3.0.0/24}
  routers:
  - {name: r1, interfaces: [{segment: left}, {segment: right, mtu: 1400}]}
  - {name: r2, interfaces: [{segment: right}, {segment: far, address: 10.3.0.254}]}
  nodes:
  - {name: a, role: control-plane, interfaces: [{segment: left}]}
  - {name: b, interfaces: [{segment: right, name: a-very-long-interface-name}]}
  - {name: c, interfaces: [{segment: far}], routes: [{via: 10.3.0.254}, {dst: 192.0.2.0/24, via: 10.3.0.9, dev: eth0}]}
`

func TestRouters(t *testing.T) {
	p := plan(t, twoRouters)
	routes := map[string][]string{}
	add := func(name string, all []Route) {
		for _, r := range all {
			dst := "default"
			if r.Dst.IsValid() {
				dst = r.Dst.String()
			}
			routes[name] = append(routes[name], dst+" via "+r.Via.String()+" dev "+r.Dev)
		}
	}
	for _, r := range p.Routers {
		add(r.Name, r.Routes)
	}
	for _, n := range p.Nodes {
		add(n.Name, n.Routes)
	}
	want := map[string][]string{
		"r1": {"10.3.0.0/24 via 10.2.0.2 dev eth1"},
		"r2": {"10.1.0.0/24 via 10.2.0.1 dev eth0"},
		"a":  {"default via 10.1.0.1 dev eth0"},
		"b":  {"10.1.0.0/24 via 10.2.0.1 dev a-very-5bfa2196", "10.3.0.0/24 via 10.2.0.2 dev a-very-5bfa2196"},
		"c":  {"default via 10.3.0.254 dev eth0", "192.0.2.0/24 via 10.3.0.9 dev eth0"},
	}
	if diff := cmp.Diff(want, routes); diff != "" {
		t.Errorf("routes (-want +got):\n%s", diff)
	}
	r1 := p.Routers[0].Interfaces
	if r1[0].Address.String() != "10.1.0.1/24" || r1[1].MTU != 1400 {
		t.Errorf("r1 %+v", r1)
	}
	if i := p.Node("b").Interfaces[0]; i.AltName != "a-very-long-interface-name" || len(i.Name) > 15 || len(i.Port) > 15 {
		t.Errorf("%+v", i)
	}
}

// Two interfaces on two segments that a router joins, in a dual-stack lab.
func TestRoutesOfBothFamilies(t *testing.T) {
	p := plan(t, `
  network: {EnableIPv6: true}
  underlay:
  - {name: left, cidr: 10.1.0.0/24, cidr6: "fd00:1::/64"}
  - {name: right, cidr: 10.2.0.0/24, cidr6: "fd00:2::/64"}
  routers: [{name: r, interfaces: [{segment: left}, {segment: right, address6: "fd00:2::ff"}]}]
  nodes:
  - {name: a, interfaces: [{segment: left}]}
  - {name: b, interfaces: [{segment: right}]}
`)
	want := []Route{
		{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParseAddr("10.2.0.1"), "eth0"},
		{netip.MustParsePrefix("fd00:1::/64"), netip.MustParseAddr("fd00:2::ff"), "eth0"},
	}
	if got := p.Node("b").Routes; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDualStack(t *testing.T) {
	p := plan(t, "  network: {EnableIPv6: true}\n  pods: [{name: p, node: node-1, address6: \"fd00:10:244:1::99\"}]\n  podsPerNode: 1\n")
	n := p.Node("node-1")
	if n.PodCIDR6.String() != "fd00:10:244:1::/64" || n.Underlay().Address6.String() != "fd00:172:16:1::2/64" || p.IPv6 != IPv6Dual {
		t.Errorf("%+v", n)
	}
	if got := p.Pod("p").Address6.String() + " " + p.Pod("pod-1").Address6.String(); got != "fd00:10:244:1::99/64 fd00:10:244::2/64" {
		t.Error(got)
	}
	if c := p.Network; c.IPv6SubnetLen != 64 || c.IPv6SubnetMin.String() != "fd00:10:244::" || c.IPv6SubnetMax.String() != "fd00:10:244:ffff::" {
		t.Errorf("%+v", c)
	}
}

func TestNetConfDefaults(t *testing.T) {
	for _, tt := range []struct{ network, want string }{
		{"Network: 10.5.0.1/16", "10.5.0.0/16 24 10.5.0.0 10.5.255.0"},
		{"Network: 10.0.0.0/8", "10.0.0.0/8 24 10.0.0.0 10.255.255.0"},
		{"Network: 10.5.0.0/22", "10.5.0.0/22 24 10.5.0.0 10.5.3.0"},
		{"Network: 10.5.0.0/23", "10.5.0.0/23 25 10.5.0.0 10.5.1.128"},
		{"Network: 10.5.0.0/28", "10.5.0.0/28 30 10.5.0.0 10.5.0.12"},
		{"Network: 10.5.0.0/16, SubnetLen: 18", "10.5.0.0/16 18 10.5.0.0 10.5.192.0"},
		{"Network: 10.5.0.0/16, SubnetMin: 10.5.16.0, SubnetMax: 10.5.31.0", "10.5.0.0/16 24 10.5.16.0 10.5.31.0"},
		{"SubnetMax: 10.244.9.0", "10.244.0.0/16 24 10.244.0.0 10.244.9.0"},
	} {
		p := plan(t, "  podsPerNode: 1\n  network: {"+tt.network+"}\n")
		c := p.Network
		got := fmt.Sprintln(c.Network, c.SubnetLen, c.SubnetMin, c.SubnetMax)
		if got != tt.want+"\n" {
			t.Errorf("%s: %s, want %s", tt.network, got, tt.want)
		}
	}
}

// Without a node on the network's first subnet, SubnetMin is flannel's own
// default, the second.
func TestSubnetMinStaysWhereNothingLowersIt(t *testing.T) {
	p := plan(t, "  nodes: [{name: a, podCIDR: 10.244.7.0/24}]\n")
	if got := p.Network.SubnetMin.String(); got != "10.244.1.0" {
		t.Error(got)
	}
}

func TestPodCIDRs(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"by position", "  nodes: [{name: a}, {name: b, podCIDR: 10.244.9.0/24}, {name: c}]\n", "10.244.0.0/24 10.244.9.0/24 10.244.2.0/24"},
		{"a fixed one in the way", "  nodes: [{name: a}, {name: b}, {name: c, podCIDR: 10.244.0.0/24}]\n", "10.244.2.0/24 10.244.1.0/24 10.244.0.0/24"},
		{"from SubnetMin", "  network: {SubnetMin: 10.244.64.0}\n  nodes: [{name: a}, {name: b}]\n", "10.244.64.0/24 10.244.65.0/24"},
		{"all of them", "  network: {Network: 10.244.0.0/28}\n  podsPerNode: 1\n  nodes: [{name: n, count: 4}]\n", "10.244.0.0/30 10.244.0.4/30 10.244.0.8/30 10.244.0.12/30"},
	} {
		var got []string
		for _, n := range plan(t, tt.spec).Nodes {
			got = append(got, n.PodCIDR.String())
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
	}
}

func TestPods(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"none", "  podsPerNode: 0\n", ""},
		{"an empty list", "  pods: []\n", ""},
		{"named ones alone", "  pods: [{name: p, node: node-2}]\n", "p/node-2/10.244.2.2"},
		{"filled up", "  podsPerNode: 1\n  pods: [{name: pod-1, node: node-2}, {name: q, node: node-2, address: 10.244.2.2}]\n",
			"pod-1/node-2/10.244.2.3 q/node-2/10.244.2.2 pod-2/master/10.244.0.2 pod-3/node-1/10.244.1.2"},
		{"a node has a pod's name", "  nodes: [{name: pod, count: 1}]\n", "pod-2/pod-1/10.244.0.2 pod-3/pod-1/10.244.0.3"},
	} {
		var got []string
		for _, x := range plan(t, tt.spec).Pods {
			got = append(got, x.Name+"/"+x.Node+"/"+x.Address.Addr().String())
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, s, tt.want)
		}
	}
}

// flannel.md's section h: which interface flanneld picks.
func TestAgentInterface(t *testing.T) {
	const nodes = `
  underlay:
  - {name: one, cidr: 10.1.0.0/24}
  - {name: two, cidr: 10.2.0.0/24, gateway: 10.2.0.254}
  nodes:
  - {name: a, interfaces: [{name: ens1, segment: one, address: 10.1.0.20}, {name: ens2, segment: two, address: 10.2.0.10}, {name: a-rather-long-name, segment: one, address: 10.1.0.30}]`
	for _, tt := range []struct{ name, agent, underlay, iface string }{
		{"default route", "", "ens2", ""},
		{"another default route", "routes: [{via: 10.1.0.9}]", "ens1", ""},
		{"public IP", "agent: {publicIP: 10.1.0.20}", "ens1", ""},
		{"name", "agent: {iface: ens1}", "ens1", "ens1"},
		{"address", "agent: {iface: 10.1.0.20}", "ens1", "10.1.0.20"},
		{"hashed name", "agent: {iface: a-rather-long-name}", "a-rath-4f45d050", "a-rath-4f45d050"},
		{"name and a public IP elsewhere", "agent: {iface: ens1, publicIP: 192.0.2.1}", "ens1", "ens1"},
		{"expression for an address", "agent: {ifaceRegex: '^10\\.2\\.'}", "ens2", ""},
		{"expression for a name", "agent: {ifaceRegex: 's2$'}", "ens2", ""},
		{"addresses before names", "agent: {ifaceRegex: '30|ens1'}", "a-rath-4f45d050", ""},
		{"expression after a name that fails", "agent: {iface: ens9, ifaceRegex: ens2}", "ens2", "ens9"},
	} {
		sep := ""
		if tt.agent != "" {
			sep = ", "
		}
		p := plan(t, nodes[:len(nodes)-1]+"]"+sep+tt.agent+"}\n")
		if a := p.Nodes[0].Agent; a.Underlay != tt.underlay || a.Iface != tt.iface {
			t.Errorf("%s: underlay %s, iface %q", tt.name, a.Underlay, a.Iface)
		}
	}
}

func TestAgentKeysAreLaidOver(t *testing.T) {
	p := plan(t, "  agent: {command: [flanneld], args: [-v=5], ipMasq: false}\n  nodes: [{name: a}, {name: b, agent: {command: [], args: [-v=6], ipMasq: true}}]\n")
	a, b := p.Nodes[0].Agent, p.Nodes[1].Agent
	if a.Command[0] != "flanneld" || a.Args[0] != "-v=5" || a.IPMasq || len(b.Command) != 0 || b.Args[0] != "-v=6" || !b.IPMasq {
		t.Errorf("%+v %+v", a, b)
	}
}

func TestLegacyRecords(t *testing.T) {
	if !plan(t, "  cni: {legacyRecords: true}\n").CNI.LegacyRecords || plan(t, "  {}\n").CNI.LegacyRecords {
		t.Error("cni.legacyRecords does not reach the plan")
	}
}

func TestStoreNode(t *testing.T) {
	for spec, want := range map[string]string{
		"  nodes: [{name: a}, {name: b}]\n":                                 "a",
		"  nodes: [{name: a}, {name: b, role: control-plane}]\n":            "b",
		"  nodes: [{name: a}, {name: b}]\n  store: {node: b, port: 4001}\n": "b",
	} {
		if got := plan(t, spec).Store.Node; got != want {
			t.Errorf("%s: %s, want %s", spec, got, want)
		}
	}
}

func TestAnchorsAndMerges(t *testing.T) {
	p := plan(t, `
  nodes:
  - &worker {name: a, agent: &agent {args: [-v=5]}}
  - <<: *worker
    name: b
  - {<<: [{name: x, role: control-plane}, *worker], name: c}
  agent: *agent
`)
	if p.Nodes[1].Name != "b" || p.Nodes[1].Agent.Args[0] != "-v=5" || p.Nodes[2].Role != ControlPlane || p.Nodes[2].Agent.Args[0] != "-v=5" {
		t.Errorf("%+v", p.Nodes)
	}
}

func TestBackends(t *testing.T) {
	for spec, want := range map[string]Backend{
		"{}":                     {Type: "vxlan", VNI: 1, Port: 8472},
		"{Type: VXLAN, VNI: 42}": {Type: "vxlan", VNI: 42, Port: 8472},
		"{Type: host-gw}":        {Type: "host-gw"},
		"{Type: udp}":            {Type: "udp", Port: 8285},
		"{Type: wireguard}":      {Type: "wireguard", ListenPort: 51820},
		"{Type: wireguard, ListenPort: 4242, PersistentKeepaliveInterval: 25, Mode: ipv4, PSK: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=}": {
			Type: "wireguard", ListenPort: 4242, PersistentKeepaliveInterval: 25, Mode: "ipv4", PSK: "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",
		},
		"{Type: ipsec, UDPEncap: true, PSK: " + strings.Repeat("0123456789abcdef", 6) + "}": {
			Type: "ipsec", UDPEncap: true, PSK: strings.Repeat("0123456789abcdef", 6),
		},
		"{Type: ipip, DirectRouting: true}":                                        {Type: "ipip", DirectRouting: true},
		"{Type: extension, SubnetAddCommand: ip route add $SUBNET via $PUBLIC_IP}": {Type: "extension", SubnetAddCommand: "ip route add $SUBNET via $PUBLIC_IP"},
		"{MTU: 1400, Learning: true, GBP: true, Port: 4789}":                       {Type: "vxlan", VNI: 1, Port: 4789, MTU: 1400, Learning: true, GBP: true},
	} {
		if got := plan(t, "  network: {Backend: "+spec+"}\n").Network.Backend; got != want {
			t.Errorf("%s: %+v", spec, got)
		}
	}
}

// TestOverlayMTU: what pods have on an underlay of 1500, and whether nodes are
// connected at all.
func TestOverlayMTU(t *testing.T) {
	for spec, want := range map[string]struct {
		mtu      int
		connects bool
	}{
		"{}":                         {1450, true},
		"{MTU: 1400}":                {1350, true},
		"{MTU: 9000}":                {1450, true}, // the underlay has no room for it
		"{DirectRouting: true}":      {1450, true},
		"{Type: host-gw}":            {1500, true},
		"{Type: host-gw, MTU: 1400}": {1500, true}, // flannel's host-gw does not know the key
		"{Type: ipip}":               {1480, true},
		"{Type: ipip, MTU: 1400}":    {1480, true},
		"{Type: udp}":                {1472, true},
		"{Type: wireguard}":          {1420, true},
		"{Type: alloc}":              {1500, false},
		"{Type: extension}":          {1500, false},
		"{Type: extension, MTU: 1450, SubnetAddCommand: do}": {1450, true},
	} {
		p := plan(t, "  network: {Backend: "+spec+"}\n")
		if got := p.OverlayMTU(&p.Nodes[0]); got != want.mtu || p.Network.Backend.Connects() != want.connects {
			t.Errorf("%s: MTU %d, connects %t", spec, got, p.Network.Backend.Connects())
		}
	}
}

// TestKeysOfAnotherBackend: what the chosen backend cannot heed is refused.
func TestKeysOfAnotherBackend(t *testing.T) {
	for spec, want := range map[string]string{
		"  network: {Backend: {Type: vxlan, SubnetAddCommand: do}}\n":                                              "spec.network.Backend.SubnetAddCommand: is a command of the backend extension, and the backend is vxlan",
		"  network: {Backend: {Type: udp, ListenPort: 1}}\n":                                                       "spec.network.Backend.ListenPort: is of the backend wireguard, and the backend is udp; leave it out",
		"  network: {Backend: {UDPEncap: true}}\n":                                                                 "spec.network.Backend.UDPEncap: is of the backend ipsec, and the backend is vxlan; leave it out",
		"  network: {Backend: {Type: ipsec}}\n":                                                                    "spec.network.Backend.PSK: has 0 characters; ipsec needs 96 at least: `openssl rand -hex 48` makes a key",
		"  network: {Backend: {Type: ipsec, PSK: a}}\n":                                                            "spec.network.Backend.PSK: has 1 characters",
		"  network: {Backend: {Mode: auto}}\n":                                                                     "spec.network.Backend.Mode: is of the backend wireguard, and the backend is vxlan",
		"  network: {Backend: {Type: wireguard, PSK: AQE=}}\n":                                                     "spec.network.Backend.PSK: is not 32 bytes in base64",
		"  network: {Backend: {Type: wireguard, Mode: both}}\n":                                                    "spec.network.Backend.Mode: is \"both\"; write separate, auto, ipv4 or ipv6",
		"  network: {Backend: {Type: wireguard, ListenPort: 0}}\n":                                                 "spec.network.Backend.ListenPort: is 0",
		"  network: {Backend: {Type: wireguard, PersistentKeepaliveInterval: 70000}}\n":                            "spec.network.Backend.PersistentKeepaliveInterval: is 70000",
		"  network: {Backend: {Type: host-gw}}\n  nodes: [{name: n, vtepMAC: \"02:00:00:00:00:01\"}, {name: m}]\n": "spec.nodes[0].vtepMAC: is the MAC address of a VXLAN device, and the backend is host-gw",
	} {
		s, err := Parse("lab.yaml", []byte(header+spec))
		if err == nil {
			_, err = s.Plan()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", spec, err)
		}
	}
}

func TestLargeLab(t *testing.T) {
	p := plan(t, "  network: {Network: 10.0.0.0/8}\n  nodes: [{name: n, count: 1000}]\n  podsPerNode: 9\n  underlay: [{name: lan, cidr: 192.168.0.0/16}]\n")
	if len(p.Nodes) != 1000 || len(p.Pods) != 9000 {
		t.Errorf("%d nodes, %d pods", len(p.Nodes), len(p.Pods))
	}
	checkPlan(t, p)
}

func BenchmarkPlan64x2(b *testing.B) {
	data := []byte(header + "  nodes: [{name: n, count: 64}]\n")
	for b.Loop() {
		s, err := Parse("lab.yaml", data)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Plan(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestHardened(t *testing.T) {
	for _, c := range []struct {
		agent Agent
		want  bool
	}{
		{Agent{}, false},
		{Agent{Args: []string{"-v=1", "--harden"}}, true},
		{Agent{Args: []string{"-harden=true"}}, true},
		{Agent{Args: []string{"--harden=false"}}, false},
		{Agent{Args: []string{"--harden=maybe"}}, false},
		{Agent{Args: []string{"--harden"}, ByHand: true}, false},
		{Agent{Args: []string{"--harden"}, Command: []string{"flanneld"}}, false},
	} {
		if got := c.agent.Hardened(); got != c.want {
			t.Errorf("%+v: hardened %v", c.agent, got)
		}
	}
}
