package oracle

import (
	"regexp"
	"strings"

	"github.com/overlab/overlab/topology"
)

// rules are the firewall rules of an agent (flannel's iptables.go and
// nftables.go), by the one of the two managers that the configuration names.
func (c *cluster) rules(n *topology.Node) []Fact {
	if c.plan.Network.EnableNFTables {
		return c.nftables(n)
	}
	var facts []Fact
	for _, o := range c.families() {
		facts = append(facts, c.iptables(o, n)...)
	}
	return facts
}

// iptables are the rules for one address family.
func (c *cluster) iptables(o overlay, n *topology.Node) []Fact {
	kind, multicast := KindIPTables, "224.0.0.0/4"
	if o.network.Addr().Is6() {
		kind, multicast = KindIP6Tables, "ff00::/8"
	}
	network, pods := o.network.String(), o.subnet(n).String()
	facts := []Fact{
		rule(kind, "filter", "FORWARD", "-j FLANNEL-FWD").forPeer("", "whatever else filters, forward the overlay"),
		rule(kind, "filter", "FLANNEL-FWD", "-s "+network+" -j ACCEPT").forPeer("", "forward what pods send"),
		rule(kind, "filter", "FLANNEL-FWD", "-d "+network+" -j ACCEPT").forPeer("", "forward what pods get"),
	}
	if !n.Agent.IPMasq {
		return facts
	}
	facts = append(facts, rule(kind, "nat", "POSTROUTING", "-j FLANNEL-POSTRTG").forPeer("", "masquerade"))
	for _, x := range []struct{ text, purpose string }{
		{"-m mark --mark 0x4000/0x4000 -j RETURN", "leave to kube-proxy what it masquerades"},
		{"-s " + pods + " -d " + network + " -j RETURN", "no NAT within the overlay"},
		{"-s " + network + " -d " + pods + " -j RETURN", "no NAT within the overlay"},
		{"! -s " + network + " -d " + pods + " -j RETURN", "no NAT to the node's own pods"},
		{"-s " + network + " ! -d " + multicast + " -j MASQUERADE", "masquerade what leaves the overlay"},
		{"! -s " + network + " -d " + network + " -j MASQUERADE", "masquerade what enters the overlay"},
	} {
		facts = append(facts, rule(kind, "nat", "FLANNEL-POSTRTG", x.text).forPeer("", x.purpose))
	}
	return facts
}

// rule makes the fact of a rule of iptables or ip6tables.
func rule(kind Kind, table, chain, text string) Fact {
	return Fact{Kind: kind, ID: table + " " + chain + " " + text, Fields: []Field{
		word("-t", table), word("-A", chain), bare("rule", text),
	}}
}

// rule returns the command that adds or deletes the rule; the managers have
// words of their own.
func (f Fact) rule(iptables, nft string) string {
	if f.Kind == KindNFTables {
		if nft == "delete" {
			return "" // by a handle, which nothing shows but nft -a
		}
		return "nft " + nft + " rule " + f.String()
	}
	program := string(f.Kind) + " -t " + f.value("-t") + " "
	if f.value("-A") == "" { // a policy
		return program + "-P " + f.value("-P") + " ACCEPT"
	}
	return program + iptables + " " + f.value("-A") + " " + f.value("rule")
}

// volatile is what an iptables rule has that does not decide what it does:
// comments, and whether the kernel can choose ports at random.
var volatile = regexp.MustCompile(` -m comment --comment ("[^"]*"|\S+)| --random-fully`)

// iptablesRules reads what iptables-save or ip6tables-save prints: the rules in flannel's chains
// and the jumps to them, and in the built-in chains whatever drops.
func iptablesRules(kind Kind, saved string) []Fact {
	var facts []Fact
	table := ""
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			table = line[1:]
		case strings.HasPrefix(line, ":"):
			words := strings.Fields(line[1:])
			if len(words) > 1 && words[1] == "DROP" {
				facts = append(facts, Fact{Kind: kind, ID: table + " " + words[0] + " DROP", Fields: []Field{
					word("-t", table), word("-P", words[0]), bare("rule", "DROP"),
				}})
			}
		case strings.HasPrefix(line, "-A "):
			chain, text, _ := strings.Cut(line[3:], " ")
			text = strings.TrimPrefix(volatile.ReplaceAllString(" "+text, ""), " ")
			if flannelRule(chain, text) || builtIn(chain) && drops(text) {
				facts = append(facts, rule(kind, table, chain, text))
			}
		}
	}
	return facts
}

func flannelRule(chain, text string) bool {
	return strings.HasPrefix(chain, "FLANNEL-") || strings.Contains(text, "-j FLANNEL-")
}

func builtIn(chain string) bool {
	switch chain {
	case "PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING":
		return true
	}
	return false
}

func drops(text string) bool {
	return strings.Contains(text, "-j DROP") || strings.Contains(text, "-j REJECT")
}
