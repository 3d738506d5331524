package diagnose

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/overlab/overlab/harness/oracle"
)

// filterRules are those of packet filters and NAT: rules of flannel that are
// missing, and rules of others that stand in the way.
func filterRules() []rule {
	ofIPTables := func(counts func(*Seen, oracle.Entry) bool) func(*Seen, oracle.Entry) bool {
		return func(s *Seen, e oracle.Entry) bool {
			return (e.Kind == oracle.KindIPTables || e.Kind == oracle.KindIP6Tables) && counts(s, e)
		}
	}
	extra := func(_ *Seen, e oracle.Entry) bool { return e.Verb == oracle.Extra }
	policy := func(_ *Seen, e oracle.Entry) bool { return strings.Contains(e.Have, "-P ") }
	inFlannel := func(words ...string) func(*Seen, oracle.Entry) bool {
		return func(_ *Seen, e oracle.Entry) bool {
			text := e.Want + e.Have
			for _, w := range words {
				if !strings.Contains(text, w) {
					return false
				}
			}
			return true
		}
	}
	missing := func(_ *Seen, e oracle.Entry) bool {
		return e.Verb != oracle.Extra && (e.Kind == oracle.KindIPTables || e.Kind == oracle.KindIP6Tables || e.Kind == oracle.KindNFTables)
	}
	mark := inFlannel("0x4000")
	nat := func(s *Seen, e oracle.Entry) bool { return inFlannel("-t nat")(s, e) || inFlannel("postrtg")(s, e) }
	harden := inFlannel("flannel-harden")
	return []rule{
		entries("filter-policy", rankFilter+2, and(ofIPTables(extra), policy), says("%s drops what no rule accepts")),
		entries("filter", rankFilter, but(ofIPTables(extra), policy), says("a rule of %s drops packets")),
		entries("rules-harden", rankFilter-1, and(missing, harden), says("%s lacks rules that keep others than nodes out of the tunnel")),
		entries("rules-forward", rankFilter-1, but(but(missing, nat), harden), says("%s lacks the rules that let pods' packets pass")),
		entries("rules-mark", rankFilter-1, and(and(missing, nat), mark), says("%s masquerades what other programs have marked")),
		entries("rules-masquerade", rankFilter-1, but(and(missing, nat), mark), says("%s lacks rules for masquerading")),
		{id: "filter", rank: rankFilter, find: foreignRules},
	}
}

// foreignRule is a rule of an nftables table that is neither iptables' nor
// flannel's.
type foreignRule struct{ family, table, chain, hook, text string }

// hooked is what nft prints of a base chain.
var hooked = regexp.MustCompile(`^type (\S+) hook (\S+) `)

// foreign reads what nft prints.
func foreign(ruleset string) []foreignRule {
	var out []foreignRule
	var at foreignRule
	for line := range strings.Lines(ruleset) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case len(words) == 4 && words[0] == "table":
			at = foreignRule{family: words[1], table: words[2]}
		case len(words) == 3 && words[0] == "chain":
			at.chain, at.hook = words[1], ""
		case hooked.MatchString(line):
			at.hook = hooked.FindStringSubmatch(line)[2]
		case line == "}" || line == "" || strings.HasPrefix(line, "#"):
		case at.table == "filter" || at.table == "nat" || strings.HasPrefix(at.table, "flannel-"):
		default:
			rule := at
			rule.text = line
			out = append(out, rule)
		}
	}
	return out
}

// meaning says what a foreign rule does to the overlay.
type meaning struct {
	id    string
	rank  rank
	title string
	is    func(seen *Seen, r foreignRule) bool
}

func drops(r foreignRule) bool {
	return strings.HasSuffix(r.text, "drop") || strings.Contains(r.text, "reject")
}

func meanings() []meaning {
	has := func(words ...string) func(*Seen, foreignRule) bool {
		return func(_ *Seen, r foreignRule) bool {
			for _, w := range words {
				if !strings.Contains(r.text, w) {
					return false
				}
			}
			return true
		}
	}
	return []meaning{
		{"filter-tunnel", rankFilter + 1, "%s drops the tunnel's packets", func(s *Seen, r foreignRule) bool {
			return drops(r) && has(fmt.Sprintf("udp dport %d", s.Plan.Network.Backend.Port))(s, r)
		}},
		{"filter-store", rankStore + 1, "%s filters what its agent says to the store", func(s *Seen, r foreignRule) bool {
			port := fmt.Sprint(s.Plan.Store.Port)
			return drops(r) && (has("tcp dport "+port)(s, r) || has("tcp sport "+port)(s, r))
		}},
		{"filter-size", rankFilter, "%s drops large packets", func(_ *Seen, r foreignRule) bool { return drops(r) && strings.Contains(r.text, "length") }},
		{"filter", rankFilter, "a rule of %s drops packets", func(_ *Seen, r foreignRule) bool { return drops(r) }},
		{"masquerade", rankFilter, "%s translates addresses between pods", func(_ *Seen, r foreignRule) bool {
			return strings.Contains(r.text, "masquerade") || strings.Contains(r.text, "snat ")
		}},
		{"ttl-rule", rankFilter, "a rule of %s changes the TTL", has("ttl set")},
		{"ttl-rule", rankFilter, "a rule of %s changes the hop limit", has("hoplimit set")},
		{"rewrite", rankFilter - 1, "a rule of %s rewrites packets", has(" set ")},
	}
}

// foreignRules finds rules of others that stand in the way.
func foreignRules(seen *Seen) []Cause {
	var out []Cause
	for _, space := range append(spaces(seen), underlay) {
		for _, r := range foreign(seen.Rulesets[space]) {
			for _, m := range meanings() {
				if !m.is(seen, r) {
					continue
				}
				where := space
				c := Cause{ID: m.id, rank: m.rank, Node: space, Space: space}
				if space == underlay {
					c.Node, where = "", "the network between the nodes"
				}
				c.Title = fmt.Sprintf(m.title, where)
				c.Evidence = []string{fmt.Sprintf("nft list ruleset on %s: table %s %s, chain %s (hook %s): %s", space, r.family, r.table, r.chain, r.hook, r.text)}
				c.Mend = []string{fmt.Sprintf("nft flush chain %s %s %s", r.family, r.table, r.chain)}
				out = append(out, c)
				break
			}
		}
	}
	return out
}
