package diagnose

import (
	"fmt"
	"strings"

	"github.com/overlab/overlab/harness/oracle"
)

// linkRules are those of links: there, up, plugged in, made as they ought to be.
func linkRules() []rule {
	link := oracle.KindLink
	wrong := of(link, oracle.Wrong)
	name := func(format string) func(oracle.Entry) string {
		return func(e oracle.Entry) string { return fmt.Sprintf(format, e.Dev, e.Space()) }
	}
	remade := []string{"id", "dstport", "local", "dev", "group", "learning", "gbp"}
	rules := []rule{
		entries("link-missing", rankLink, of(link, oracle.Missing), name("there is no %s on %s")),
		entries("link-extra", rankLink-1, of(link, oracle.Extra), name("there is a link too many, %s, on %s")),
		entries("link-down", rankLink, and(wrong, changed("state")), name("%s of %s is down")),
		entries("link-unplugged", rankLink-2, but(and(wrong, changed("carrier")), changed("state")), name("%s of %s has no carrier")),
		entries("link-master", rankLink, and(wrong, changed("master")), name("%s of %s is in no bridge, or a wrong one")),
		entries("link-mac", rankDevice, and(wrong, changed("address")), name("%s of %s has another MAC than others know")),
		entries("link-mtu", rankDevice, and(wrong, changed("mtu")), name("%s of %s has a wrong MTU")),
		entries("link-peer", rankLink, and(wrong, changed("peer", "type")), name("%s of %s is not wired as it ought to be")),
		{id: "switch", rank: rankLink + 1, find: switches},
	}
	for _, attribute := range remade {
		rules = append(rules, entries("vxlan-"+attribute, rankDevice+1, and(wrong, changed(attribute)), vxlanTitle(attribute)))
	}
	return rules
}

func vxlanTitle(attribute string) func(oracle.Entry) string {
	words := map[string]string{
		"id": "VNI", "dstport": "UDP port", "local": "local address", "dev": "underlay interface",
		"group": "multicast group", "learning": "setting for learning", "gbp": "group policy setting",
	}
	return func(e oracle.Entry) string {
		return fmt.Sprintf("%s of %s was made with another %s", e.Dev, e.Space(), words[attribute])
	}
}

// switches are ports of the underlay that are down.
func switches(seen *Seen) []Cause {
	var out []Cause
	for _, port := range seen.Ports {
		c := Cause{
			Title: "the switch's port " + port + " is down", Space: underlay,
			Evidence: []string{"ip link in the underlay: " + port + " is down"},
			Mend:     []string{"ip link set " + port + " up"},
		}
		for _, n := range seen.Plan.Nodes {
			for _, i := range n.Interfaces {
				if i.Port == port {
					c.Node = n.Name
				}
			}
		}
		out = append(out, c)
	}
	return out
}

// leaseRules are those of the store's leases, which every other node follows.
func leaseRules() []rule {
	lease := oracle.KindLease
	malformed := func(_ *Seen, e oracle.Entry) bool { return strings.Contains(e.Have, ": ") }
	wrong := of(lease, oracle.Wrong)
	return []rule{
		{id: "agent-interface", rank: rankAgentChoice, find: wrongInterface},
		entries("lease-missing", rankLease, of(lease, oracle.Missing), says("%s has no lease in the store")),
		entries("lease-malformed", rankLease, and(of(lease, oracle.Extra), malformed), func(oracle.Entry) string { return "a key among the leases is no lease" }),
		{id: "lease-extra", rank: rankLease, find: foreignLeases},
		entries("lease-address", rankLease, and(wrong, changed("PublicIP", "PublicIPv6")), says("the lease of %s has another address than the node")),
		entries("lease-subnet", rankLease, and(wrong, changed("IPv6Subnet")), says("the lease of %s has another IPv6 subnet")),
		entries("lease-backend", rankLease, and(wrong, changed("BackendType")), says("the lease of %s is of another backend")),
		entries("lease-vni", rankLease, but(and(wrong, changed("VNI")), changed("BackendType")), says("the lease of %s has another VNI")),
		entries("link-mac", rankLease, and(wrong, changed("VtepMAC")), says("the lease of %s has another MAC than its device")),
	}
}

// foreignLeases are leases of no node of the plan. One that has a node's
// address was that node's, or is its second.
func foreignLeases(seen *Seen) []Cause {
	var out []Cause
	for _, e := range seen.Diff.Entries {
		if e.Kind != oracle.KindLease || e.Verb != oracle.Extra || strings.Contains(e.Have, ": ") {
			continue
		}
		c := ofEntry(e, "the store has a lease of no node: "+firstWord(e.Have))
		for i := range seen.Plan.Nodes {
			if n := &seen.Plan.Nodes[i]; hasWord(e.Have, n.PublicIP().String()) {
				c.ID, c.Node, c.Title = idLeaseTwice, n.Name, n.Name+" has a second lease, "+firstWord(e.Have)
			}
		}
		key := seen.Plan.Store.Prefix + "/subnets/" + strings.Replace(firstWord(e.Have), "/", "-", 1)
		c.Space, c.Mend = seen.Plan.Store.Node, []string{"etcdctl del " + key}
		out = append(out, c)
	}
	return out
}

func firstWord(s string) string {
	word, _, _ := strings.Cut(s, " ")
	return word
}

func hasWord(s, word string) bool {
	for _, w := range strings.Fields(s) {
		if w == word {
			return true
		}
	}
	return false
}

// wrongInterface is an agent that took another of its node's interfaces: its
// lease has that one's address.
func wrongInterface(seen *Seen) []Cause {
	var out []Cause
	for _, e := range seen.Diff.Entries {
		x, is := e.Change("PublicIP")
		n := seen.Plan.Node(e.Node)
		if e.Kind != oracle.KindLease || !is || n == nil {
			continue
		}
		for _, i := range n.Interfaces {
			if i.Name != n.Underlay().Name && i.Address.Addr().String() == x.Have {
				c := ofEntry(e, fmt.Sprintf("the agent of %s has chosen %s (%s), not %s", n.Name, i.Name, x.Have, n.Underlay().Name))
				c.Mend = []string{"start the agent with --iface=" + n.Underlay().Name}
				out = append(out, c)
			}
		}
	}
	return out
}
