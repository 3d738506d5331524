package firewall

import "net/netip"

// verdict is what a rule does with a packet.
type verdict string

const (
	accept     verdict = "ACCEPT"
	returns    verdict = "RETURN"
	masquerade verdict = "MASQUERADE"
)

// kubernetesMark is set by kube-proxy on packets that it masquerades itself.
const kubernetesMark = 0x4000

// match is a condition on an address; the zero match is none.
type match struct {
	prefix netip.Prefix
	not    bool
}

// rule is one rule, however it is carried.
type rule struct {
	src, dst match
	// marked matches kubernetesMark.
	marked  bool
	verdict verdict
}

func in(p netip.Prefix) match { return match{prefix: p} }

func notIn(p netip.Prefix) match { return match{prefix: p, not: true} }

// forwardRules accept what is forwarded from and to the overlay (flannel,
// pkg/trafficmngr/iptables).
func (c Config) forwardRules() []rule {
	if !c.Forward {
		return nil
	}
	return []rule{
		{src: in(c.Network), verdict: accept},
		{dst: in(c.Network), verdict: accept},
	}
}

// masqueradeRules masquerade what leaves the overlay, and what enters it from
// a node. Flannel's nftables version has "from outside the subnet" in the
// fourth rule, which keeps the last one from ever matching; here both carriers
// have that of its iptables version.
func (c Config) masqueradeRules() []rule {
	if !c.Masquerade {
		return nil
	}
	return []rule{
		// kube-proxy sees to these.
		{marked: true, verdict: returns},
		// Pods see each other's own addresses.
		{src: in(c.Subnet), dst: in(c.Network), verdict: returns},
		{src: in(c.Network), dst: in(c.Subnet), verdict: returns},
		// Local pods see those who come from outside.
		{src: notIn(c.Network), dst: in(c.Subnet), verdict: returns},
		// Pods that go outside, but for multicast, get the node's address.
		{src: in(c.Network), dst: notIn(c.family().multicast), verdict: masquerade},
		// Whoever goes through this node to another's pods is answered by it.
		{src: notIn(c.Network), dst: in(c.Network), verdict: masquerade},
	}
}
