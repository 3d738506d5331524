package labs

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// volatile are the fields of which two runs, or two versions of one tool,
// print different values. Each is replaced on both sides before comparing.
var volatile = []struct {
	pattern, replacement, why string
}{
	{`\s+`, " ", "older iproute2 prints two spaces between some fields, and columns move"},
	{`^ | $`, "", "as above"},
	{`^\d+: (\S+ <)`, "$1", "an interface's number depends on what else the machine has"},
	{`@if\d+`, "@ifN", "as above"},
	{`peer_ifindex: \d+`, "peer_ifindex: N", "as above"},
	{`link-netns(id)? \S+`, "link-netnsid N", "as above, for namespaces, which have names in the lab"},
	{`port_id 0x\w+ port_no 0x\w+ designated_port \d+`, "port", "as above, for a bridge's ports"},
	{`\bqlen \d+`, "qlen N", "the default length of a queue changed in Linux 4.3"},
	{`qdisc (fq_codel|mq|pfifo_fast)\b`, "qdisc noqueue", "a network card has a queue, a veth has none"},
	{`\bttl inherit\b`, "ttl auto", "iproute2 renamed it in 4.20"},
	{`\b(STALE|REACHABLE|DELAY|PROBE)\b`, "USED", "how recently a neighbour was heard of"},
	{`\buid \d+`, "uid N", "who asks"},
	{`^\d\d:\d\d:\d\d\.\d{6}`, "TIME", "the time of day"},
	{`time=[0-9.]+ ms`, "time=T ms", "a duration"},
	{`\btime \d+ms`, "time Tms", "a duration"},
	{`(rtt|round-trip) min/avg/max(/mdev)? = .* ms`, "$1", "durations"},
	{`\bid \d+\b, offset`, "id N, offset", "the IP header's identification"},
	{`(echo (request|reply)), id \d+`, "$1, id N", "ping's identifier"},
	{`(\.)\d{4,5} > (\S+\.8472:)`, "${1}PORT > $2", "VXLAN's source port is a hash of the inner packet"},
	{`\[(no cksum|udp sum ok|bad udp cksum [^]]*)\]`, "[cksum]", "Linux has had UDP checksums on VXLAN since 4.0, and a veth leaves them to the card"},
	{`(capture size|snapshot length) \d+ bytes`, "snapshot length", "tcpdump 4.99 renamed it"},
	{`\d+ packets? received by filter`, "N packets received by filter", "a capture ends while packets arrive"},
	{`-[0-9a-f]{8,10}-[a-z0-9]{5}\b`, "", "the suffix that a Deployment gives its pods' names"},
	{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "UUID", "a pod's identifier"},
	{`\b[0-9a-f]{64}\b`, "ID", "a container's or sandbox's identifier"},
	{`netns/[0-9a-f]{12}\b`, "netns/ID", "as above, shortened"},
	{`^[0-9a-f]{12} `, "ID ", "as above"},
	{`\b(\d+ (second|minute|hour|day)s? ago Up) \d+ \w+`, "AGE", "how long a container runs"},
	{`\b(1/1 Running) \d+ [0-9a-z]+\b`, "$1 0 AGE", "how often a container was started, and how long it runs"},
	{`(Ready \S+) [0-9a-z]+ overlab`, "$1 AGE overlab", "how long a node runs"},
	{`([RT]X packets|[RT]X bytes|overruns|carrier|txqueuelen):.*`, "$1", "counters"},
	{`\b(gc|hello|tcn|topology_change|hold|message_age|forward_delay)_timer [0-9.]+`, "${1}_timer T", "a bridge's clock"},
	{`mcast_hash_elasticity \d+ mcast_hash_max \d+`, "mcast_hash", "the kernel's defaults changed in 5.0"},
	{`mcast_startup_query_interval 312[45]`, "mcast_startup_query_interval 3125", "the kernel counts ticks, 250 or 1000 a second"},
	{`group_fwd_mask 0x0\b`, "group_fwd_mask 0", "iproute2 prints it in decimal since 5.0"},
	{`num([rt])xqueues \d+`, "num${1}xqueues N", "one for each processor"},
	{`gso_max_size \d+`, "gso_max_size N", "the most that the machine's network card takes"},
	{`8000\.([0-9a-f]+:){5}[0-9a-f]+`, "ID", "printed without leading zeros by some versions; the MAC is compared elsewhere"},
	{`\bspi 0x[0-9a-f]{8}\b`, "spi SPI", "IPsec's keys and numbers follow from random ones"},
	{`ESP\(spi=0x[0-9a-f]+,seq=0x[0-9a-f]+\)`, "ESP(spi,seq)", "as above, and how much was sent before"},
	{`promiscuity \d+`, "promiscuity N", "a capture that runs counts"},
	{`\.{5,}.*$`, "", "where an article cuts a line short"},
	{`^port (vlan ids|vlan-id)$`, "port vlan-id", "iproute2 renamed it in 5.10"},
	{`PID/Program name$`, "", "a column's width"},
	{`(:8472 0\.0\.0\.0:\*).*$`, "$1", "as above"},
}

// optional are fields that some versions of the tools print, or kernels have,
// and others do not. One that only one side has is dropped; one that both
// have is compared. names are words with a value after them, words stand
// alone, pattern is anything else.
var optional = []struct {
	names, words, pattern, why string
}{
	{pattern: `@ifN`, why: "a network card has no other end, a veth has"},
	{names: "link-netnsid", why: "as above"},
	{names: "qlen", why: "printed for every interface since iproute2 4.15, and a veth has had one since Linux 4.3"},
	{pattern: ` brd \d+\.\d+\.\d+\.\d+`, why: "the CNI plugins have set a broadcast address since 0.8"},
	{pattern: ` proto kernel_(ll|lo)`, why: "printed since iproute2 6.1, by Linux 5.18 and later"},
	{words: "dynamic", why: "an address given by DHCP"},
	{pattern: ` proto dhcp src \S+`, why: "a route given by DHCP"},
	{names: "metric", why: "as above"},
	{names: "uid", why: "printed since iproute2 4.10"},
	{pattern: ` dev flannel\.1`, why: "left out, where asked for by name, since iproute2 5.0"},
	{names: "promiscuity minmtu maxmtu allmulti", why: "printed since iproute2 4.0, 5.1 and 5.15"},
	{words: "udpcsum noudpcsum noudp6zerocsumtx noudp6zerocsumrx localbypass", why: "printed since iproute2 4.3 and 6.5"},
	{pattern: ` ttl auto`, why: "printed since iproute2 4.20"},
	{names: "addrgenmode", why: "printed since iproute2 3.16"},
	{names: "numtxqueues numrxqueues gso_max_size gso_max_segs", why: "printed since iproute2 4.12"},
	{names: "tso_max_size tso_max_segs gro_max_size gso_ipv4_max_size gro_ipv4_max_size", why: "printed since iproute2 6.0 and 6.3"},
	{names: "vlan_protocol vlan_default_pvid vlan_stats_enabled vlan_stats_per_port", why: "needs a kernel with CONFIG_BRIDGE_VLAN_FILTERING"},
	{
		names: "bridge_id designated_root root_port root_path_cost topology_change topology_change_detected " +
			"hello_timer tcn_timer topology_change_timer gc_timer group_fwd_mask group_address " +
			"mcast_snooping mcast_router mcast_query_use_ifaddr mcast_querier mcast_last_member_count " +
			"mcast_startup_query_count mcast_last_member_interval mcast_membership_interval mcast_querier_interval " +
			"mcast_query_interval mcast_query_response_interval mcast_startup_query_interval mcast_stats_enabled " +
			"mcast_igmp_version mcast_mld_version nf_call_iptables nf_call_ip6tables nf_call_arptables",
		words: "mcast_hash",
		why:   "a bridge's details, printed since iproute2 4.6",
	},
	{
		names: "no_linklocal_learn mcast_vlan_snooping mst_enabled fdb_n_learned fdb_max_learned mdb_offload_fail_notification fdb_local_vlan_0",
		why:   "a bridge's details that later kernels have",
	},
	{
		names: "designated_cost designated_bridge hold_timer message_age_timer forward_delay_timer topology_change_ack " +
			"config_pending proxy_arp proxy_arp_wifi mcast_fast_leave mcast_flood neigh_suppress group_fwd_mask_str vlan_tunnel",
		words: "port",
		why:   "a bridge port's details, printed since iproute2 4.6",
	},
	{
		names: "bcast_flood mcast_to_unicast isolated locked mab neigh_vlan_suppress backup_port backup_nhid mcast_n_groups mcast_max_groups",
		why:   "a bridge port's details that later kernels have",
	},
	{pattern: `"cniVersion":"[0-9.]+",?`, why: "passed on to the delegate since CNI 0.3"},
}

// optionalPatterns are the table's fields, one pattern each.
func optionalPatterns() []*regexp.Regexp {
	var out []*regexp.Regexp
	for _, o := range optional {
		if o.pattern != "" {
			out = append(out, regexp.MustCompile(o.pattern))
		}
		for name := range strings.FieldsSeq(o.names) {
			out = append(out, regexp.MustCompile(` `+name+` \S+`))
		}
		for word := range strings.FieldsSeq(o.words) {
			out = append(out, regexp.MustCompile(` `+word+`\b`))
		}
	}
	return out
}

// optionalLines are lines that later versions print, and blank ones.
var optionalLines = regexp.MustCompile(`^$|^[rt]x_queue_\d+_|^(rx_)?pp_`) // ethtool -S of a veth, since Linux 5.3

// unordered are the commands that print a hash table as it comes.
var unordered = regexp.MustCompile(`^(ip neigh|bridge fdb)`)

// comparison compares lines of output.
type comparison struct {
	// fixed are the MAC addresses that the lab's spec fixes, and the
	// link-local addresses that follow from them; others are volatile.
	fixed    map[string]bool
	volatile []*regexp.Regexp
	optional []*regexp.Regexp
}

var (
	macText   = regexp.MustCompile(`(?i)\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b`)
	linkLocal = regexp.MustCompile(`\bfe80:[0-9a-f:]+`)
	bridgeID  = regexp.MustCompile(`\b8000\.([0-9a-f]{12})\b`)
)

// newComparison prepares to compare what a lab prints; spec is its lab.yaml.
func newComparison(spec string) *comparison {
	c := &comparison{fixed: map[string]bool{"ff:ff:ff:ff:ff:ff": true, "00:00:00:00:00:00": true, "01:80:c2:00:00:00": true}}
	for _, text := range macText.FindAllString(spec, -1) {
		c.fixed[strings.ToLower(text)] = true
		if m, err := topology.ParseMAC(text); err == nil {
			c.fixed[eui64(m)] = true
			c.fixed[fmt.Sprintf("%x", m[:])] = true
		}
	}
	for _, v := range volatile {
		c.volatile = append(c.volatile, regexp.MustCompile(v.pattern))
	}
	c.optional = optionalPatterns()
	return c
}

// eui64 is the link-local address of an interface with that MAC (RFC 4291,
// appendix A).
func eui64(m topology.MAC) string {
	return fmt.Sprintf("fe80::%x:%x:%x:%x", uint16(m[0]^2)<<8|uint16(m[1]), uint16(m[2])<<8|0xff, 0xfe00|uint16(m[3]), uint16(m[4])<<8|uint16(m[5]))
}

// normalise takes out what is volatile.
func (c *comparison) normalise(line string) string {
	mask := func(what string) func(string) string {
		return func(m string) string {
			if c.fixed[strings.ToLower(m)] {
				return m
			}
			return what
		}
	}
	line = flannelRecord(line)
	line = macText.ReplaceAllStringFunc(line, mask("MAC"))
	line = linkLocal.ReplaceAllStringFunc(line, mask("fe80::MAC"))
	line = bridgeID.ReplaceAllStringFunc(line, func(m string) string { return "8000-" + mask("MAC")(m[5:]) })
	for i, re := range c.volatile {
		line = re.ReplaceAllString(line, volatile[i].replacement)
	}
	return strings.TrimSpace(line)
}

// flannelRecord brings the flannel plugin's record of its delegate into one
// form: it used to name the subnet directly and now names ranges of subnets.
func flannelRecord(line string) string {
	var record map[string]any
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &record) != nil {
		return line
	}
	if ipam, ok := record["ipam"].(map[string]any); ok {
		if subnet, ok := ipam["subnet"]; ok {
			ipam["ranges"] = []any{[]any{map[string]any{"subnet": subnet}}}
			delete(ipam, "subnet")
		}
	}
	b, err := json.Marshal(record)
	if err != nil {
		return line
	}
	return string(b)
}

// same reports whether two lines agree.
func (c *comparison) same(a, b string) bool {
	a, b = c.normalise(a), c.normalise(b)
	for _, re := range c.optional {
		if re.MatchString(a) != re.MatchString(b) {
			a, b = re.ReplaceAllString(a, ""), re.ReplaceAllString(b, "")
		}
	}
	return strings.TrimSpace(a) == strings.TrimSpace(b)
}

// diff compares what a command ought to print with what it printed, line by
// line. It is empty when they agree.
func (c *comparison) diff(command string, want, got []string) string {
	drop := func(s string) bool { return optionalLines.MatchString(c.normalise(s)) }
	want = slices.DeleteFunc(slices.Clone(want), drop)
	got = slices.DeleteFunc(slices.Clone(got), drop)
	if unordered.MatchString(command) {
		byText := func(a, b string) int { return strings.Compare(c.normalise(a), c.normalise(b)) }
		slices.SortFunc(want, byText)
		slices.SortFunc(got, byText)
	}
	// The longest common subsequence.
	longest := make([][]int, len(want)+1)
	longest[len(want)] = make([]int, len(got)+1)
	equal := func(i, j int) bool { return c.same(want[i], got[j]) }
	for i := len(want) - 1; i >= 0; i-- {
		longest[i] = make([]int, len(got)+1)
		for j := len(got) - 1; j >= 0; j-- {
			longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			if equal(i, j) {
				longest[i][j] = max(longest[i][j], 1+longest[i+1][j+1])
			}
		}
	}
	if len(want) == len(got) && longest[0][0] == len(want) {
		return ""
	}
	var b strings.Builder
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && equal(i, j) && longest[i][j] == 1+longest[i+1][j+1]:
			fmt.Fprintf(&b, "      %s\n", c.normalise(got[j]))
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && longest[i+1][j] >= longest[i][j+1]:
			fmt.Fprintf(&b, "    - %s\n", c.normalise(want[i]))
			i++
		default:
			fmt.Fprintf(&b, "    + %s\n", c.normalise(got[j]))
			j++
		}
	}
	return b.String()
}

func TestCompare(t *testing.T) {
	c := newComparison("mac: da:54:dc:f2:f3:fe")
	for _, x := range []struct {
		name, a, b string
		same       bool
	}{
		{"spaces", "10.244.1.0/24 dev cni0  proto kernel  scope link", "10.244.1.0/24 dev cni0 proto kernel scope link ", true},
		{"another address", "default via 172.16.1.1 dev ens3", "default via 172.16.1.2 dev ens3", false},
		{"TTL", "64 bytes from 10.1.1.1: icmp_seq=1 ttl=62 time=2.51 ms", "64 bytes from 10.1.1.1: icmp_seq=1 ttl=62 time=0.1 ms", true},
		{"another TTL", "64 bytes from 10.1.1.1: icmp_seq=1 ttl=62 time=2.51 ms", "64 bytes from 10.1.1.1: icmp_seq=1 ttl=63 time=2.51 ms", false},
		{"fixed MAC", "link/ether da:54:dc:f2:f3:fe", "link/ether da:54:dc:f2:f3:ff", false},
		{"derived MAC", "link/ether 02:00:00:00:00:01", "link/ether 02:00:00:00:00:02", true},
		{"fixed link-local", "inet6 fe80::d854:dcff:fef2:f3fe/64", "inet6 fe80::1/64", false},
		{"fixed bridge", "cni0 8000.da54dcf2f3fe no", "cni0 8000.da54dcf2f3ff no", false},
		{"number", "5: cni0: <UP> mtu 1400", "3: cni0: <UP> mtu 1400", true},
		{"MTU", "5: cni0: <UP> mtu 1400", "5: cni0: <UP> mtu 1450", false},
		{"a later field", "vxlan id 1 nolearning ageing 300", "vxlan id 1 nolearning ttl auto ageing 300 udpcsum", true},
		{"an unknown field", "vxlan id 1 nolearning", "vxlan id 1 nolearning proxy", false},
		{"a field that is missing", "vxlan id 1 nolearning", "vxlan id 1", false},
		{"broadcast on one side", "inet 10.0.0.1/24 scope global", "inet 10.0.0.1/24 brd 10.0.0.255 scope global", true},
		{"broadcasts that differ", "inet 10.0.0.1/24 brd 10.0.0.0 scope global", "inet 10.0.0.1/24 brd 10.0.0.255 scope global", false},
		{"record", `{"ipam":{"subnet":"10.1.0.0/24"},"mtu":1400}`, `{"cniVersion":"0.3.1","ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}]]},"mtu":1400}`, true},
		{"another record", `{"ipam":{"subnet":"10.1.0.0/24"},"mtu":1400}`, `{"ipam":{"ranges":[[{"subnet":"10.1.0.0/24"}]]},"mtu":1450}`, false},
		{"VXLAN", "172.16.1.14.53811 > 172.16.1.13.8472: [no cksum] OTV, flags [I] (0x08), overlay 0, instance 1", "172.16.1.14.4811 > 172.16.1.13.8472: [bad udp cksum 0x5a -> 0x11!] OTV, flags [I] (0x08), overlay 0, instance 1", true},
		{"another VNI", "1.1.1.1.53811 > 1.1.1.2.8472: [no cksum] OTV, instance 1", "1.1.1.1.53811 > 1.1.1.2.8472: [no cksum] OTV, instance 2", false},
	} {
		if got := c.same(x.a, x.b); got != x.same {
			t.Errorf("%s: same is %t, want %t:\n%s\n%s", x.name, got, x.same, c.normalise(x.a), c.normalise(x.b))
		}
	}
	if d := c.diff("x", []string{"a", "b"}, []string{"a", "", "b"}); d != "" {
		t.Errorf("a blank line counts: %s", d)
	}
	if d := c.diff("ip route", []string{"a", "b"}, []string{"b", "a"}); d == "" {
		t.Error("the order of routes does not count")
	}
	if d := c.diff("ip neigh show", []string{"a", "b"}, []string{"b", "a"}); d != "" {
		t.Errorf("the order of neighbours counts: %s", d)
	}
}
