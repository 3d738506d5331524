package diagnose

import (
	"fmt"
	"strings"

	"github.com/overlab/overlab/harness/oracle"
)

// entries makes a rule of differences: which of them count, and what they mean.
func entries(id string, r rank, counts func(*Seen, oracle.Entry) bool, title func(oracle.Entry) string) rule {
	return rule{id: id, rank: r, find: func(seen *Seen) []Cause {
		var out []Cause
		for _, e := range seen.Diff.Entries {
			if counts(seen, e) {
				out = append(out, ofEntry(e, title(e)))
			}
		}
		return out
	}}
}

// of counts the differences of a kind and verb.
func of(kind oracle.Kind, verb oracle.Verb) func(*Seen, oracle.Entry) bool {
	return func(_ *Seen, e oracle.Entry) bool { return e.Kind == kind && e.Verb == verb }
}

// but leaves some out.
func but(counts, not func(*Seen, oracle.Entry) bool) func(*Seen, oracle.Entry) bool {
	return func(s *Seen, e oracle.Entry) bool { return counts(s, e) && !not(s, e) }
}

// and asks for both.
func and(counts, also func(*Seen, oracle.Entry) bool) func(*Seen, oracle.Entry) bool {
	return func(s *Seen, e oracle.Entry) bool { return counts(s, e) && also(s, e) }
}

// changed counts those of which one of the attributes is wrong.
func changed(names ...string) func(*Seen, oracle.Entry) bool {
	return func(_ *Seen, e oracle.Entry) bool {
		for _, n := range names {
			if _, is := e.Change(n); is {
				return true
			}
		}
		return false
	}
}

// says makes a title of what is wrong and where; %s are the namespace and the
// peer.
func says(format string) func(oracle.Entry) string {
	return func(e oracle.Entry) string {
		peer := e.Peer
		if peer == "" {
			peer = "a peer"
		}
		if strings.Count(format, "%s") < 2 {
			return fmt.Sprintf(format, e.Space())
		}
		return fmt.Sprintf(format, e.Space(), peer)
	}
}

// onUnderlay counts what is on an interface of the underlay.
func onUnderlay(s *Seen, e oracle.Entry) bool {
	n := s.Plan.Node(e.Space())
	return n != nil && n.Interface(e.Dev) != nil
}

// floods counts all-zero forwarding entries.
func floods(_ *Seen, e oracle.Entry) bool { return strings.HasPrefix(e.Have, "00:00:00:00:00:00") }

// entryRules are those of addresses, neighbours, forwarding entries, routes and
// the routing policy.
func entryRules() []rule {
	fdb, neigh, route := oracle.KindFDB, oracle.KindNeighbour, oracle.KindRoute
	addr, policy := oracle.KindAddress, oracle.KindPolicy
	return []rule{
		entries("address-missing", rankAddress, of(addr, oracle.Missing), says("%s lacks an address")),
		entries("address-wrong", rankAddress, but(of(addr, oracle.Wrong), twice), says("%s has another address than it ought to")),
		entries("address-twice", rankAddress, and(of(addr, oracle.Wrong), twice), says("%s has an address that another pod has")),
		entries("address-extra", rankAddress, of(addr, oracle.Extra), says("%s has an address too many")),

		entries("neighbour-missing", rankEntry, of(neigh, oracle.Missing), says("%s has no neighbour entry for %s")),
		entries("neighbour-wrong", rankEntry, but(of(neigh, oracle.Wrong), onUnderlay), says("the neighbour entry of %s for %s is wrong")),
		entries("neighbour-underlay", rankEntry+1, and(of(neigh, oracle.Wrong), onUnderlay), says("%s has a wrong MAC for %s on the underlay")),
		entries("neighbour-extra", rankEntry, of(neigh, oracle.Extra), says("%s has a neighbour entry of nobody")),

		entries("fdb-missing", rankEntry, of(fdb, oracle.Missing), says("%s has no FDB entry for %s")),
		entries("fdb-wrong", rankEntry, of(fdb, oracle.Wrong), says("the FDB entry of %s for %s is wrong")),
		entries("fdb-extra", rankEntry, but(of(fdb, oracle.Extra), floods), says("%s has an FDB entry of nobody")),
		entries("fdb-flood", rankEntry, and(of(fdb, oracle.Extra), floods), says("%s floods frames to unknown MACs")),

		entries("route-missing", rankEntry, of(route, oracle.Missing), says("%s has no route to %s")),
		entries("route-wrong", rankEntry, of(route, oracle.Wrong), says("the route of %s to %s is wrong")),
		entries("route-extra", rankEntry-1, of(route, oracle.Extra), says("%s has a route too many")),

		entries("wireguard-missing", rankEntry, of(oracle.KindWireGuard, oracle.Missing), says("the tunnel of %s does not know %s")),
		entries("wireguard-device", rankDevice+1, and(of(oracle.KindWireGuard, oracle.Wrong), changed("listen-port", "fwmark", "public-key")), says("the tunnel of %s is not configured as its lease says")),
		entries("wireguard-wrong", rankEntry, but(of(oracle.KindWireGuard, oracle.Wrong), changed("listen-port", "fwmark", "public-key")), says("the tunnel of %s has a wrong idea of %s")),
		entries("wireguard-extra", rankEntry, of(oracle.KindWireGuard, oracle.Extra), says("the tunnel of %s knows somebody that is no node")),

		entries("ipsec-policy", rankPolicy, of(oracle.KindXFRMPolicy, oracle.Extra), says("an IPsec policy of %s takes the overlay's packets")),
		entries("ipsec-policy", rankPolicy, of(oracle.KindXFRMPolicy, oracle.Missing), says("%s lacks an IPsec policy for %s")),
		entries("ipsec-policy", rankPolicy, of(oracle.KindXFRMPolicy, oracle.Wrong), says("an IPsec policy of %s for %s is wrong")),
		entries("ipsec-state", rankPolicy, of(oracle.KindXFRMState, oracle.Missing), says("%s lacks a security association with %s")),
		entries("ipsec-state", rankPolicy, of(oracle.KindXFRMState, oracle.Wrong), says("a security association of %s with %s is wrong")),
		entries("ipsec-state", rankPolicy-1, of(oracle.KindXFRMState, oracle.Extra), says("%s has a security association too many")),

		entries("policy", rankPolicy, of(policy, oracle.Extra), says("a routing rule of %s overrides its routes")),
		entries("policy", rankPolicy, of(policy, oracle.Missing), says("%s lacks a routing rule of the kernel's")),
		entries("policy", rankPolicy, of(policy, oracle.Wrong), says("a routing rule of %s is wrong")),

		entries("subnet-env", rankFile, func(_ *Seen, e oracle.Entry) bool { return e.Kind == oracle.KindFile }, says("subnet.env of %s is not what the CNI plugin needs")),
		entries("forwarding", rankSysctl, of(oracle.KindSysctl, oracle.Wrong), says("%s does not forward")),
	}
}

// twice counts addresses that another pod ought to have.
func twice(s *Seen, e oracle.Entry) bool {
	if e.Pod == "" {
		return false
	}
	for _, p := range s.Plan.Pods {
		if p.Name != e.Pod && strings.HasPrefix(e.Have, p.Address.Addr().String()+"/") {
			return true
		}
	}
	return false
}
