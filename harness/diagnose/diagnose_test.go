package diagnose

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/internal/labtest"
)

// healthy is what is seen of a lab in which nothing is wrong.
func healthy() *Seen {
	plan := labtest.Plan(3, 2, 1500)
	seen := &Seen{
		Plan: plan, Diff: &oracle.Diff{}, Agents: map[string]Agent{}, Store: map[string]string{},
		Sysctls: map[string]map[string]string{}, Rulesets: map[string]string{}, Grown: map[string]map[string]int{},
	}
	for _, n := range plan.Nodes {
		seen.Agents[n.Name] = Agent{PID: 7, State: "S"}
		seen.Store[n.Name] = ""
		seen.Sysctls[n.Name] = map[string]string{
			"net/ipv4/ip_default_ttl": "64", "net/ipv4/icmp_echo_ignore_all": "0",
			"net/ipv4/conf/cni0/forwarding": "1", "net/ipv4/conf/cni0/arp_ignore": "0", "net/ipv4/conf/cni0/rp_filter": "0",
		}
	}
	return seen
}

func differ(seen *Seen, entries ...oracle.Entry) {
	seen.Diff.Entries = append(seen.Diff.Entries, entries...)
}

// TestRules: what is seen is called by its name, what follows from something
// else comes after it, and what was seen is the evidence.
func TestRules(t *testing.T) {
	entry := func(kind oracle.Kind, verb oracle.Verb, changed ...string) oracle.Entry {
		e := oracle.Entry{Kind: kind, Verb: verb, Node: "node-1", Dev: "flannel.1", Want: "wanted", Have: "had", Mend: "mend it"}
		for _, c := range changed {
			e.Changes = append(e.Changes, oracle.Change{Name: c, Want: "a", Have: "b"})
		}
		return e
	}
	ruleset := func(rule string) string {
		return "table ip filter {\n\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\tdrop\n\t}\n}\n" +
			"table ip site {\n\tchain c {\n\t\ttype filter hook forward priority filter; policy accept;\n\t\t" + rule + "\n\t}\n}\n"
	}
	for _, c := range []struct {
		name string
		see  func(*Seen)
		want []string
	}{
		{"nothing", func(*Seen) {}, nil},
		{"a link takes its routes with it", func(s *Seen) {
			differ(s, entry(oracle.KindRoute, oracle.Missing), entry(oracle.KindLink, oracle.Wrong, "state", "carrier"))
		}, []string{"link-down", "route-missing"}},
		{"a lease that the others follow", func(s *Seen) {
			fdb := entry(oracle.KindFDB, oracle.Wrong, "dst")
			fdb.Node = "node-2"
			differ(s, fdb, entry(oracle.KindLease, oracle.Wrong, "PublicIP"))
		}, []string{"lease-address", "fdb-wrong"}},
		{"an agent that is stopped comes last", func(s *Seen) {
			s.Agents["node-1"] = Agent{PID: 7, State: "T"}
			differ(s, entry(oracle.KindFDB, oracle.Missing))
		}, []string{"fdb-missing", "agent-stopped"}},
		{"an agent that is stopped", func(s *Seen) { s.Agents["node-1"] = Agent{PID: 7, State: "T"} }, []string{"agent-stopped"}},
		{"an agent that is dead", func(s *Seen) { s.Agents["node-1"] = Agent{Last: "killed"} }, []string{"agent-dead"}},
		{"the store is gone", func(s *Seen) {
			for n := range s.Store {
				s.Store[n] = "refused"
			}
		}, []string{"store-gone"}},
		{"the store is not reached by one", func(s *Seen) { s.Store["node-1"] = "refused" }, []string{"store-unreached"}},
		{"a VNI", func(s *Seen) { differ(s, entry(oracle.KindLink, oracle.Wrong, "id")) }, []string{"vxlan-id"}},
		{"a flooding entry", func(s *Seen) {
			e := entry(oracle.KindFDB, oracle.Extra)
			e.Have = "00:00:00:00:00:00 dev flannel.1 dst 172.16.1.8 self permanent"
			differ(s, e)
		}, []string{"fdb-flood"}},
		{"an address that another pod has", func(s *Seen) {
			e := entry(oracle.KindAddress, oracle.Wrong, "address")
			e.Pod, e.Have = "node-1-pod-2", "10.244.1.2/24 dev eth0"
			differ(s, e)
		}, []string{"address-twice"}},
		{"an address of nobody", func(s *Seen) {
			e := entry(oracle.KindAddress, oracle.Wrong, "address")
			e.Pod, e.Have = "node-1-pod-2", "10.244.1.200/24 dev eth0"
			differ(s, e)
		}, []string{"address-wrong"}},
		{"a neighbour on the underlay", func(s *Seen) {
			e := entry(oracle.KindNeighbour, oracle.Wrong, "lladdr")
			e.Dev = "ens3"
			differ(s, e)
		}, []string{"neighbour-underlay"}},
		{"a lease of nobody", func(s *Seen) {
			e := entry(oracle.KindLease, oracle.Extra)
			e.Have = "10.244.255.0/24 PublicIP 172.16.1.99"
			differ(s, e)
		}, []string{"lease-extra"}},
		{"a second lease", func(s *Seen) {
			e := entry(oracle.KindLease, oracle.Extra)
			e.Have = "10.244.255.0/24 PublicIP 172.16.1.9"
			differ(s, e)
		}, []string{"lease-twice"}},
		{"no lease", func(s *Seen) {
			e := entry(oracle.KindLease, oracle.Extra)
			e.Have = "/coreos.com/network/subnets/hello: no subnet"
			differ(s, e)
		}, []string{"lease-malformed"}},
		{"a switch's port", func(s *Seen) {
			s.Ports = []string{"node-1"}
			differ(s, entry(oracle.KindLink, oracle.Wrong, "carrier"))
		}, []string{"switch", "link-unplugged"}},
		{"a reverse path", func(s *Seen) {
			s.Grown["node-1"] = map[string]int{"TcpExt IPReversePathFilter": 3}
			s.Sysctls["node-1"]["net/ipv4/conf/flannel.1/rp_filter"] = "1"
			differ(s, entry(oracle.KindPolicy, oracle.Extra))
		}, []string{"reverse-path", "policy"}},
		{"a checksum", func(s *Seen) {
			s.Grown["node-2-pod-1"] = map[string]int{"Tcp InCsumErrors": 3}
			s.Probes = []Probed{{From: "node-1-pod-1", To: "node-2-pod-1", FromNode: "node-1", ToNode: "node-2", What: "TCP", Port: 7}}
		}, []string{"checksum"}},
		{"a counter that grew without harm", func(s *Seen) {
			s.Grown["node-2-pod-1"] = map[string]int{"Tcp InCsumErrors": 3}
			s.Probes = []Probed{{From: "node-1-pod-1", To: "node-2-pod-1", FromNode: "node-1", ToNode: "node-2", What: "TCP", Port: 7, OK: true}}
		}, nil},
		{"a device that does not forward", func(s *Seen) { s.Sysctls["node-1"]["net/ipv4/conf/cni0/forwarding"] = "0" }, []string{"forwarding-device"}},
		{"a node that does not forward", func(s *Seen) {
			s.Sysctls["node-1"]["net/ipv4/conf/cni0/forwarding"] = "0"
			differ(s, entry(oracle.KindSysctl, oracle.Wrong, "value"))
		}, []string{"forwarding"}},
		{"arp_ignore", func(s *Seen) { s.Sysctls["node-1"]["net/ipv4/conf/cni0/arp_ignore"] = "8" }, []string{"arp-ignore"}},
		{"a filter", func(s *Seen) { s.Rulesets["node-1"] = ruleset("ip saddr 10.244.0.0/16 drop") }, []string{"filter"}},
		{"a filter of the tunnel", func(s *Seen) { s.Rulesets["node-1"] = ruleset("udp dport 8472 drop") }, []string{"filter-tunnel"}},
		{"a filter in the network", func(s *Seen) { s.Rulesets[underlay] = ruleset("ether type ip udp dport 8472 drop") }, []string{"filter-tunnel"}},
		{"a filter of sizes", func(s *Seen) { s.Rulesets["node-1"] = ruleset("ip length > 1400 drop") }, []string{"filter-size"}},
		{"NAT of another", func(s *Seen) { s.Rulesets["node-1"] = ruleset("ip saddr 10.244.1.0/24 masquerade") }, []string{"masquerade"}},
		{"a rule that counts", func(s *Seen) { s.Rulesets["node-1"] = ruleset("counter packets 3 bytes 9") }, nil},
		{"lost packets that nothing explains", func(s *Seen) { s.Symptoms = []string{"ping: no answer"} }, []string{"unknown"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			c.see(seen)
			r := Judge(seen)
			var got []string
			for _, x := range r.Causes {
				got = append(got, x.ID)
				if x.Title == "" || len(x.Evidence) == 0 {
					t.Errorf("%s says nothing: %+v", x.ID, x)
				}
				if !slices.Contains(IDs(), x.ID) {
					t.Errorf("%s is in no list", x.ID)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestWrongInterface: an agent whose lease has the address of another of its
// node's interfaces.
func TestWrongInterface(t *testing.T) {
	seen := healthy()
	n := seen.Plan.Node("node-1")
	other := n.Interfaces[0]
	other.Name, other.Address = "nat", seen.Plan.Node("node-2").Interfaces[0].Address
	n.Interfaces = append(n.Interfaces, other)
	differ(seen, oracle.Entry{Kind: oracle.KindLease, Verb: oracle.Wrong, Node: "node-1", Changes: []oracle.Change{{Name: "PublicIP", Want: "172.16.1.9", Have: other.Address.Addr().String()}}})
	c := Judge(seen).Causes
	if len(c) == 0 || c[0].ID != "agent-interface" || !strings.Contains(c[0].Title, "has chosen nat") {
		t.Errorf("%+v", c)
	}
}

// TestCounters: the kernel's formats, a line of names above a line of values, a
// name and a value a line, and a line an interface.
func TestCounters(t *testing.T) {
	c := tally{telling(), map[string]int{}}
	c.protocols("Ip: Forwarding InAddrErrors\nIp: 1 4\nTcp: InSegs InCsumErrors\nTcp: 8 3\n")
	c.protocols6("Ip6InReceives                  \t9\nIp6OutNoRoutes                 \t2\n")
	c.devices("Inter-|   Receive  | Transmit\n face |bytes    packets|bytes\n flannel.1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n")
	want := map[string]int{
		"Ip InAddrErrors": 4, "Tcp InCsumErrors": 3, "Ip6 OutNoRoutes": 2,
		"flannel.1 rx_dropped": 4, "flannel.1 tx_errors": 11, "flannel.1 tx_dropped": 12, "flannel.1 tx_carrier": 15,
	}
	if !maps.Equal(c.values, want) {
		t.Errorf("%v, want %v", c.values, want)
	}
}
