package match

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/overlab/overlab/harness/probe"
)

// HaveTTL matches a probe.Pong of which every reply came, with this TTL.
func HaveTTL(ttl int) Explainer {
	return of[probe.Pong]{
		expected: fmt.Sprintf("a reply with ttl=%d", ttl),
		ok: func(p *probe.Pong) bool {
			for _, r := range p.Replies {
				if r.TTL != ttl {
					return false
				}
			}
			return p.Answered()
		},
		seen: (*probe.Pong).String,
	}
}

// BeAnswered matches a probe.Pong of which every reply came.
func BeAnswered() Explainer {
	return of[probe.Pong]{expected: "a reply", ok: (*probe.Pong).Answered, seen: (*probe.Pong).String}
}

// BeRefusedAbove matches a probe.Pong that the own kernel refused to send
// with EMSGSIZE, naming this MTU in bytes.
func BeRefusedAbove(mtu int) Explainer {
	want := probe.Refusal{Errno: "EMSGSIZE", MTU: mtu}
	return of[probe.Pong]{
		expected: want.String(),
		ok:       func(p *probe.Pong) bool { return p.Refused != nil && *p.Refused == want },
		seen:     (*probe.Pong).String,
	}
}

// BeToldMTU matches a probe.Pong that was answered by ICMP 3/4, which named this
// MTU in bytes.
func BeToldMTU(mtu int) Explainer {
	return of[probe.Pong]{
		expected: fmt.Sprintf("ICMP 3/4 fragmentation needed, mtu %d", mtu),
		ok: func(p *probe.Pong) bool {
			return p.Error != nil && p.Error.From.Is4() && p.Error.Type == 3 && p.Error.Code == 4 && p.Error.MTU == mtu
		},
		seen: (*probe.Pong).String,
	}
}

// BeToldMTU6 is BeToldMTU of IPv6, whose routers fragment nothing (RFC 4443,
// section 3.2).
func BeToldMTU6(mtu int) Explainer {
	return of[probe.Pong]{
		expected: fmt.Sprintf("ICMPv6 2/0 packet too big, mtu %d", mtu),
		ok: func(p *probe.Pong) bool {
			return p.Error != nil && p.Error.From.Is6() && p.Error.Type == 2 && p.Error.Code == 0 && p.Error.MTU == mtu
		},
		seen: (*probe.Pong).String,
	}
}

// HavePathMTU matches a probe.PathMTU of this size in bytes, named by the
// kernel of who sends: no packet left to learn it.
func HavePathMTU(mtu int) Explainer {
	want := probe.PathMTU{MTU: mtu}
	return of[probe.PathMTU]{
		expected: "a path MTU of " + want.String(),
		ok:       func(m *probe.PathMTU) bool { return m.MTU == mtu && !m.BlackHole && !m.Named.IsValid() },
		seen:     (*probe.PathMTU).String,
	}
}

// BeSeenAs matches a probe.EchoReply whose server saw this client address,
// and that came from this server address: nothing was translated.
func BeSeenAs(client, server netip.Addr) Explainer {
	return of[probe.EchoReply]{
		expected: fmt.Sprintf("seen as %s, answered by %s", client, server),
		ok: func(r *probe.EchoReply) bool {
			return r.Failure == "" && r.Seen.Addr() == client && r.From.Addr() == server
		},
		seen: (*probe.EchoReply).String,
	}
}

// BeAnsweredBy matches a probe.EchoReply that came from this address, whoever
// the server saw.
func BeAnsweredBy(server netip.Addr) Explainer {
	return of[probe.EchoReply]{
		expected: fmt.Sprintf("answered by %s", server),
		ok:       func(r *probe.EchoReply) bool { return r.Failure == "" && r.From.Addr() == server },
		seen:     (*probe.EchoReply).String,
	}
}

// BeUp matches a probe.Link that is administratively up.
func BeUp() Explainer {
	return of[probe.Link]{
		expected: "up",
		ok:       func(l *probe.Link) bool { return l.Up },
		seen:     func(l *probe.Link) string { return l.Name + " is down" },
	}
}

// HaveMTU matches a probe.Link of this MTU in bytes.
func HaveMTU(mtu int) Explainer {
	return of[probe.Link]{
		expected: fmt.Sprintf("mtu %d", mtu),
		ok:       func(l *probe.Link) bool { return l.MTU == mtu },
		seen:     func(l *probe.Link) string { return fmt.Sprintf("%s has mtu %d", l.Name, l.MTU) },
	}
}

// HaveAddress matches a probe.Link whose first address of the family is this
// one.
func HaveAddress(want netip.Prefix) Explainer {
	return of[probe.Link]{
		expected: "address " + want.String(),
		ok: func(l *probe.Link) bool {
			have := l.AddressesLike(want.Addr())
			return len(have) > 0 && have[0] == want
		},
		seen: func(l *probe.Link) string { return addresses(l, want.Addr()) },
	}
}

// HaveOnlyAddress matches a probe.Link that has this address and no other of
// its family; the link-local one of IPv6 does not count.
func HaveOnlyAddress(want netip.Prefix) Explainer {
	return of[probe.Link]{
		expected: "address " + want.String() + " and no other",
		ok: func(l *probe.Link) bool {
			have := l.AddressesLike(want.Addr())
			return len(have) == 1 && have[0] == want
		},
		seen: func(l *probe.Link) string { return addresses(l, want.Addr()) },
	}
}

func addresses(l *probe.Link, like netip.Addr) string {
	have := l.AddressesLike(like)
	if len(have) == 0 {
		return l.Name + " has no address"
	}
	return l.Name + " has " + join(have)
}

// HaveRoute matches a probe.State with a route of this destination, next hop,
// device, kind and onlink flag, and no other route for that destination.
func HaveRoute(want probe.Route) Explainer {
	return of[probe.State]{
		expected: "route " + want.String(),
		ok: func(s *probe.State) bool {
			to := routesTo(s, want.Dst)
			return len(to) == 1 && to[0].Via == want.Via && to[0].Dev == want.Dev &&
				to[0].Onlink == want.Onlink && to[0].Kind == want.Kind
		},
		seen: func(s *probe.State) string { return orNone(routesTo(s, want.Dst), "no route to "+want.Dst.String()) },
	}
}

func routesTo(s *probe.State, dst netip.Prefix) []probe.Route {
	return only(s.Routes, func(r probe.Route) bool { return r.Dst == dst })
}

// HaveNeighbour matches a probe.State with exactly this entry for its address
// and device.
func HaveNeighbour(want probe.Neighbour) Explainer {
	of1 := func(s *probe.State) []probe.Neighbour {
		return only(s.Neighbours, func(n probe.Neighbour) bool { return n.IP == want.IP && n.Dev == want.Dev })
	}
	return of[probe.State]{
		expected: "neighbour " + want.String(),
		ok: func(s *probe.State) bool {
			have := of1(s)
			return len(have) == 1 && have[0] == want
		},
		seen: func(s *probe.State) string {
			return orNone(of1(s), fmt.Sprintf("no entry for %s on %s", want.IP, want.Dev))
		},
	}
}

// HaveFDB matches a probe.State with exactly this forwarding entry for its
// MAC and device.
func HaveFDB(want probe.FDBEntry) Explainer {
	of1 := func(s *probe.State) []probe.FDBEntry {
		return only(s.FDB, func(f probe.FDBEntry) bool { return f.MAC == want.MAC && f.Dev == want.Dev })
	}
	return of[probe.State]{
		expected: "FDB entry " + want.String(),
		ok: func(s *probe.State) bool {
			have := of1(s)
			return len(have) == 1 && have[0] == want
		},
		seen: func(s *probe.State) string {
			return orNone(of1(s), fmt.Sprintf("no entry for %s on %s", want.MAC, want.Dev))
		},
	}
}

func only[T any](s []T, is func(T) bool) []T {
	var out []T
	for _, v := range s {
		if is(v) {
			out = append(out, v)
		}
	}
	return out
}

func orNone[T fmt.Stringer](s []T, none string) string {
	if len(s) == 0 {
		return none
	}
	return join(s)
}

func join[T fmt.Stringer](s []T) string {
	words := make([]string, len(s))
	for i, v := range s {
		words[i] = v.String()
	}
	return strings.Join(words, "; ")
}
