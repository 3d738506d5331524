package oracle

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// What the ipsec backend marks its states and policies with, and its policies'
// priority (docs/backends.md).
const (
	ipsecReqID    = 7304812
	ipsecPriority = 1000
)

// ipsec is, for each peer, a pair of security associations, the policies that
// take packets between the two nodes' pods, and between the pods of either and
// the other node, and a route. There is no device.
func (c *cluster) ipsec(o overlay, n *topology.Node) []Fact {
	var facts []Fact
	for _, p := range c.peers(n) {
		r := probe.Route{Dst: o.subnet(p), Via: o.public(p), Dev: n.Agent.Underlay, Onlink: adjacent(n, o.public(p)) == ""}
		facts = append(facts, route(r).forPeer(p.Name, p.Name+"'s pods"))
		facts = append(facts, c.associations(o, n, p)...)
		facts = append(facts, xfrmPolicies(o, n, p)...)
	}
	return facts
}

// associations are those to and from a peer. Their keys and SPIs are what both
// ends derive from the pre-shared key and the nonces of their leases; where one
// has none, there can be no association.
func (c *cluster) associations(o overlay, n, p *topology.Node) []Fact {
	mine, err1 := base64.StdEncoding.DecodeString(c.leaseOf(o, n).Nonce)
	theirs, err2 := base64.StdEncoding.DecodeString(c.leaseOf(o, p).Nonce)
	if err1 != nil || err2 != nil || len(mine) == 0 || len(theirs) == 0 {
		return nil
	}
	var facts []Fact
	for _, x := range []struct {
		src, dst     netip.Addr
		nonce, other []byte
		what         string
	}{
		{o.public(n), o.public(p), mine, theirs, "encrypt for " + p.Name},
		{o.public(p), o.public(n), theirs, mine, "decrypt what " + p.Name + " sends"},
	} {
		key, spi, err := ipsecKey(c.plan.Network.Backend.PSK, x.src, x.dst, x.nonce, x.other)
		if err != nil {
			continue // of a plan without a key, which validation refuses
		}
		facts = append(facts, xfrmState(xstate{
			src: x.src.String(), dst: x.dst.String(), proto: "esp", spi: fmt.Sprintf("0x%08x", spi), reqid: itoa(ipsecReqID), mode: "tunnel",
			aead: "rfc4106(gcm(aes)) 128", key: probe.Fingerprint(key), flag: "esn",
		}).forPeer(p.Name, x.what))
	}
	return facts
}

// ipsecKey derives the key with its salt (RFC 4106, section 8.1), and the SPI,
// of the packets from one node to another, as docs/backends.md has it: HKDF with
// SHA-256 (RFC 5869), 24 bytes.
func ipsecKey(psk string, src, dst netip.Addr, nonce, other []byte) (key []byte, spi uint32, err error) {
	salt := append(append([]byte{}, nonce...), other...)
	out, err := hkdf.Key(sha256.New, []byte(psk), salt, fmt.Sprintf("overlab ipsec 1 %s %s", src, dst), 24)
	if err != nil {
		return nil, 0, fmt.Errorf("derive the key from %s to %s: %w", src, dst, err)
	}
	return out[:20], binary.BigEndian.Uint32(out[20:]) | 1<<31, nil
}

// xfrmPolicies are those of one peer, eight.
func xfrmPolicies(o overlay, n, p *topology.Node) []Fact {
	alone := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
	pods, remote := o.subnet(n), o.subnet(p)
	node, peer := alone(o.public(n)), alone(o.public(p))
	var facts []Fact
	add := func(dir string, src, dst netip.Prefix, from, to netip.Addr, what string) {
		facts = append(facts, xfrmPolicy(xpolicy{
			src: src.String(), dst: dst.String(), dir: dir, priority: itoa(ipsecPriority),
			tmpl: fmt.Sprintf("src %s dst %s proto esp reqid %d mode tunnel", from, to, ipsecReqID),
		}).forPeer(p.Name, what))
	}
	for _, pair := range []struct {
		here, there netip.Prefix
		forwarded   bool
		what        string
	}{
		{pods, remote, true, "between pods and " + p.Name + "'s pods"},
		{node, remote, false, "between the node and " + p.Name + "'s pods"},
		{pods, peer, true, "between pods and " + p.Name},
	} {
		add("out", pair.here, pair.there, o.public(n), o.public(p), pair.what)
		add("in", pair.there, pair.here, o.public(p), o.public(n), pair.what)
		if pair.forwarded {
			add("fwd", pair.there, pair.here, o.public(p), o.public(n), pair.what)
		}
	}
	return facts
}

// xstate is a security association in the words of `ip xfrm state`; its key is
// told by a fingerprint.
type xstate struct{ src, dst, proto, spi, reqid, mode, aead, key, flag string }

func xfrmState(s xstate) Fact {
	return Fact{Kind: KindXFRMState, ID: s.dst + " " + s.proto + " " + s.spi, Alt: s.src + " " + s.dst, Fields: []Field{
		word("src", s.src), word("dst", s.dst), word("proto", s.proto), word("spi", s.spi), word("reqid", s.reqid),
		word("mode", s.mode), word("aead", s.aead), word("key", s.key), word("flag", s.flag),
	}}
}

// xpolicy is a policy in the words of `ip xfrm policy`.
type xpolicy struct{ src, dst, dir, action, priority, tmpl string }

func xfrmPolicy(p xpolicy) Fact {
	return Fact{Kind: KindXFRMPolicy, ID: p.src + " " + p.dst + " " + p.dir, Fields: []Field{
		word("src", p.src), word("dst", p.dst), word("dir", p.dir), word("action", p.action), word("priority", p.priority), word("tmpl", p.tmpl),
	}}
}

// xfrmStates reads what `ip xfrm state` prints: a line "src A dst B" begins an
// association, and indented ones are its attributes.
func xfrmStates(text string) []Fact {
	var facts []Fact
	for _, lines := range blocks(text) {
		head, first := fields(lines[0]), fields(strings.Join(lines[1:min(2, len(lines))], ""))
		s := xstate{src: head["src"], dst: head["dst"], proto: first["proto"], spi: first["spi"], reqid: first["reqid"], mode: first["mode"]}
		for _, l := range lines[1:] {
			words := strings.Fields(l)
			switch {
			case words[0] == "replay-window":
				_, s.flag, _ = strings.Cut(l, "flag ")
			case len(words) == 4 && words[0] == "aead":
				key, err := hex.DecodeString(strings.TrimPrefix(words[2], "0x"))
				if s.aead = words[1] + " " + words[3]; err == nil {
					s.key = probe.Fingerprint(key)
				}
			case words[0] == "auth-trunc", words[0] == "auth", words[0] == "enc", words[0] == "comp":
				s.aead = strings.TrimSpace(s.aead + " " + words[0] + " " + words[1])
			}
		}
		s.flag = strings.TrimSpace(strings.ReplaceAll(s.flag, "af-unspec", ""))
		facts = append(facts, xfrmState(s))
	}
	return facts
}

// xfrmPoliciesOf reads what `ip xfrm policy` prints; policies of sockets are
// their programs' own business.
func xfrmPoliciesOf(text string) []Fact {
	var facts []Fact
	for _, lines := range blocks(text) {
		head, first := fields(lines[0]), fields(strings.Join(lines[1:min(2, len(lines))], ""))
		p := xpolicy{src: head["src"], dst: head["dst"], dir: first["dir"], action: first["action"], priority: first["priority"]}
		if p.dir == "" {
			continue
		}
		if p.priority == "0" {
			p.priority = ""
		}
		var templates []string
		for i, l := range lines[1:] {
			switch words := strings.Fields(l); words[0] {
			case "tmpl":
				t := strings.TrimPrefix(strings.Join(words, " "), "tmpl ")
				if i+2 < len(lines) {
					t += " " + strings.Join(strings.Fields(lines[i+2]), " ")
				}
				templates = append(templates, t)
			}
		}
		p.tmpl = strings.Join(templates, ", ")
		facts = append(facts, xfrmPolicy(p))
	}
	return facts
}

// blocks are the entries of what ip xfrm prints, each with its lines.
func blocks(text string) [][]string {
	var out [][]string
	for line := range strings.Lines(text) {
		switch {
		case strings.TrimSpace(line) == "":
		case strings.HasPrefix(line, "src "):
			out = append(out, []string{line})
		case len(out) > 0:
			out[len(out)-1] = append(out[len(out)-1], line)
		}
	}
	return out
}

// fields are the words of a line, the odd ones by the even ones.
func fields(line string) map[string]string {
	words := strings.Fields(line)
	out := map[string]string{}
	for i := 0; i+1 < len(words); i += 2 {
		out[words[i]] = words[i+1]
	}
	return out
}

// ownedXFRM reports whether an association or policy that nobody wants is a
// difference: a policy that can meet the overlay's packets, and whatever bears
// the backend's mark.
func (c *cluster) ownedXFRM(f Fact) bool {
	if strings.Contains(f.value("tmpl"), fmt.Sprintf("reqid %d ", ipsecReqID)) || f.value("reqid") == itoa(ipsecReqID) {
		return true
	}
	if f.Kind == KindXFRMState {
		return false
	}
	for _, name := range []string{"src", "dst"} {
		p, err := netip.ParsePrefix(f.value(name))
		if err != nil {
			continue
		}
		for _, o := range c.families() {
			if p.Bits() > 0 && p.Overlaps(o.network) {
				return true
			}
		}
		for _, s := range c.plan.Segments {
			if p.Bits() > 0 && (s.CIDR.IsValid() && p.Overlaps(s.CIDR) || s.CIDR6.IsValid() && p.Overlaps(s.CIDR6)) {
				return true
			}
		}
	}
	// Those for everything meet the overlay's as well.
	return strings.HasSuffix(f.value("src"), "/0") && strings.HasSuffix(f.value("dst"), "/0")
}

// mendXFRMExtra removes an entry.
func mendXFRMExtra(h Fact) string {
	if h.Kind == KindXFRMState {
		return fmt.Sprintf("ip xfrm state delete src %s dst %s proto %s spi %s", h.value("src"), h.value("dst"), h.value("proto"), h.value("spi"))
	}
	return fmt.Sprintf("ip xfrm policy delete src %s dst %s dir %s", h.value("src"), h.value("dst"), h.value("dir"))
}

// mendXFRMMissing makes a policy; an association, whose key is secret and whose
// packets must never be counted anew under it, only its agent may make.
func mendXFRMMissing(w Fact) string {
	if w.Kind == KindXFRMState {
		return ""
	}
	return "ip xfrm policy update " + w.String()
}
