package oracle

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/overlab/overlab/topology"
)

// nftables are the rules of an agent with EnableNFTables. The fourth differs
// from upstream's, which lets no rule after it see a packet to a remote pod;
// it is that of the iptables rules.
func (c *cluster) nftables(n *topology.Node) []Fact {
	var facts []Fact
	for _, o := range c.families() {
		f := struct{ table, ip, multicast string }{"ip flannel-ipv4", "ip", "224.0.0.0/4"}
		if o.network.Addr().Is6() {
			f.table, f.ip, f.multicast = "ip6 flannel-ipv6", "ip6", "ff00::/8"
		}
		network, pods := o.network.String(), o.subnet(n).String()
		add := func(chain, text, purpose string) {
			facts = append(facts, nftRule(f.table, chain, strings.ReplaceAll(text, "IP", f.ip)).forPeer("", purpose))
		}
		add("forward", "IP saddr "+network+" accept", "forward what pods send")
		add("forward", "IP daddr "+network+" accept", "forward what pods get")
		if !n.Agent.IPMasq {
			continue
		}
		add("postrtg", "meta mark & 0x4000 == 0x4000 return", "leave to kube-proxy what it masquerades")
		add("postrtg", "IP saddr "+pods+" IP daddr "+network+" return", "no NAT within the overlay")
		add("postrtg", "IP saddr "+network+" IP daddr "+pods+" return", "no NAT within the overlay")
		add("postrtg", "IP saddr != "+network+" IP daddr "+pods+" return", "no NAT to the node's own pods")
		add("postrtg", "IP saddr "+network+" IP daddr != "+f.multicast+" masquerade", "masquerade what leaves the overlay")
		add("postrtg", "IP saddr != "+network+" IP daddr "+network+" masquerade", "masquerade what enters the overlay")
	}
	return facts
}

// hardening are the rules of an agent that is to keep who is no node out of the
// tunnel. They are nftables' whichever of the two managers has the others.
func (c *cluster) hardening(n *topology.Node) []Fact {
	b := c.plan.Network.Backend
	if !n.Agent.Hardened() || b.Type != "vxlan" {
		return nil
	}
	by, port := fmt.Sprintf("iifname %q", n.Agent.Underlay), fmt.Sprintf("udp dport %d", b.Port)
	var facts []Fact
	for _, r := range [][3]string{
		{"input", by + " " + port + " ip saddr @nodes4 accept", "take the nodes' packets"},
		{"input", by + " " + port + " ip6 saddr @nodes6 accept", "take the nodes' packets"},
		{"input", port + " drop", "take nobody else's"},
		{"forward", fmt.Sprintf("iifname != %q %s drop", n.Agent.Underlay, port), "let no pod send as a node"},
	} {
		facts = append(facts, nftRule("inet flannel-harden", r[0], r[1]).forPeer("", r[2]))
	}
	return facts
}

func nftRule(table, chain, text string) Fact {
	return Fact{Kind: KindNFTables, ID: table + " " + chain + " " + text, Fields: []Field{
		bare("table", table), bare("chain", chain), bare("rule", text),
	}}
}

// nftVolatile is what a rule has that does not decide what it does, and
// nftZeros the zeros that versions of nft print numbers with.
var (
	nftVolatile = regexp.MustCompile(`(^| )(counter packets \d+ bytes \d+|comment "[^"]*"|fully-random)`)
	nftZeros    = regexp.MustCompile(`0x0+([1-9a-f])`)
)

// nftRules reads what nft list ruleset prints: the rules of flannel's tables,
// and in all tables but those of iptables whatever drops.
func nftRules(ruleset string) []Fact {
	var facts []Fact
	table, chain := "", ""
	for line := range strings.Lines(ruleset) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "table "):
			table, chain = strings.TrimSuffix(strings.TrimPrefix(line, "table "), " {"), ""
		case strings.HasPrefix(line, "chain "):
			chain = strings.TrimSuffix(strings.TrimPrefix(line, "chain "), " {")
		case line == "}":
			chain = ""
		case chain == "" || iptablesTable(table):
		case strings.HasPrefix(line, "type "):
			if strings.Contains(line, "policy drop") {
				facts = append(facts, nftRule(table, chain, "policy drop"))
			}
		default:
			text := strings.TrimSpace(nftZeros.ReplaceAllString(nftVolatile.ReplaceAllString(line, ""), "0x$1"))
			text = strings.Replace(text, "mark and 0x", "mark & 0x", 1)
			if strings.Contains(table, " flannel-") || nftDrops(text) && !pluginTable(table) {
				facts = append(facts, nftRule(table, chain, text))
			}
		}
	}
	return facts
}

// pluginTable reports whether a table is the bundled CNI plugin's, which keeps
// pods from the node's loopback where a pod has a port of the node.
func pluginTable(table string) bool {
	_, name, _ := strings.Cut(table, " ")
	return strings.HasPrefix(name, "overlab-cni-")
}

func nftDrops(text string) bool {
	return strings.HasSuffix(text, "drop") || strings.Contains(text, "reject")
}

// iptablesTable reports whether a table is one of those that iptables keeps in
// nftables.
func iptablesTable(table string) bool {
	family, name, _ := strings.Cut(table, " ")
	switch name {
	case "filter", "nat", "mangle", "raw", "security":
		return family == "ip" || family == "ip6"
	}
	return false
}
