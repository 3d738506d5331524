package filter

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A SyntaxError says where an expression is wrong.
type SyntaxError struct {
	Expression string
	// Column counts characters from 1.
	Column int
	Reason string
}

// Error shows the expression with a mark under the place.
func (e *SyntaxError) Error() string {
	return fmt.Sprintf("filter, column %d: %s\n  %s\n  %s^", e.Column, e.Reason, e.Expression, strings.Repeat(" ", e.Column-1))
}

// Words are the words of the language, for help and completion.
const Words = `host, net, port (each with src or dst in front, port with tcp or udp),
ip, ip6, arp, icmp, icmp6, tcp, udp, esp, ipip, proto N, ether host MAC,
ether proto N, vlan [N], vxlan [VNI], inner FILTER, not, and, or, ( )`

// Parse reads an expression of a language that is close to pcap-filter(7):
//
//	icmp and host 10.244.1.2
//	vxlan 1 and inner (tcp dst port 80 or udp)
//	not arp and src net 172.16.1.0/24
//
// vxlan and inner mean UDP to vxlanPort; inner looks at the frame that VXLAN
// carries. and binds stronger than or. An empty expression is All. The error is
// a *SyntaxError.
func Parse(expression string, vxlanPort uint16) (Filter, error) {
	p := &parser{text: expression, port: vxlanPort}
	p.split()
	if len(p.tokens) == 0 {
		return All(), nil
	}
	f := p.or()
	if p.err == nil && p.next < len(p.tokens) {
		p.fail("%q: and, or, or the end belongs here", p.peek())
	}
	if p.err != nil {
		return Filter{}, p.err
	}
	return f, nil
}

type token struct {
	text   string
	column int
}

type parser struct {
	text   string
	port   uint16
	tokens []token
	next   int
	err    error
}

// split cuts the text at spaces, and takes brackets and ! for tokens.
func (p *parser) split() {
	for at := 0; at < len(p.text); {
		switch c := p.text[at]; {
		case c == ' ' || c == '\t' || c == '\n':
			at++
			continue
		case strings.IndexByte("()!", c) >= 0:
			p.add(at, at+1)
			at++
		default:
			end := at + strings.IndexAny(p.text[at:]+" ", " \t\n()!")
			p.add(at, end)
			at = end
		}
	}
}

func (p *parser) add(from, to int) {
	p.tokens = append(p.tokens, token{p.text[from:to], utf8.RuneCountInString(p.text[:from]) + 1})
}

func (p *parser) peek() string {
	if p.next < len(p.tokens) {
		return p.tokens[p.next].text
	}
	return ""
}

// take moves on if the next token is one of the words.
func (p *parser) take(words ...string) bool {
	for _, w := range words {
		if p.next < len(p.tokens) && p.peek() == w {
			p.next++
			return true
		}
	}
	return false
}

// fail notes the first error, at the next token.
func (p *parser) fail(format string, args ...any) Filter {
	if p.err == nil {
		column := utf8.RuneCountInString(p.text) + 1
		if p.next < len(p.tokens) {
			column = p.tokens[p.next].column
		}
		p.err = &SyntaxError{p.text, column, fmt.Sprintf(format, args...)}
	}
	return Filter{}
}

func (p *parser) or() Filter {
	f := p.and()
	for p.err == nil && p.take("or", "||") {
		f = f.Or(p.and())
	}
	return f
}

func (p *parser) and() Filter {
	f := p.not()
	for p.err == nil && p.take("and", "&&") {
		f = f.And(p.not())
	}
	return f
}

func (p *parser) not() Filter {
	switch {
	case p.take("not", "!"):
		return p.not().Not()
	case p.take("inner"):
		return Inner(p.port, p.not())
	case p.take("("):
		f := p.or()
		if p.err == nil && !p.take(")") {
			return p.fail("a ) is missing")
		}
		return f
	}
	return p.primitive()
}

// alone returns the filter of a word that stands alone.
func alone(word string) (Filter, bool) {
	both := func(number uint8) Filter { return named(word, Protocol(number).Or(NextHeader(number))) }
	switch word {
	case "ip":
		return named(word, EtherType(etherIPv4)), true
	case "ip6":
		return named(word, EtherType(etherIPv6)), true
	case "arp":
		return named(word, EtherType(etherARP)), true
	case "icmp":
		return ICMP(), true
	case "icmp6":
		return ICMPv6(), true
	case "tcp":
		return both(protoTCP), true
	case "udp":
		return both(protoUDP), true
	case "esp":
		return both(protoESP), true
	case "ipip":
		return named(word, Protocol(protoIPIP)), true
	}
	return Filter{}, false
}

func (p *parser) primitive() Filter {
	word := p.peek()
	switch word {
	case "":
		return p.fail("the expression ends where a filter is expected: %s", Words)
	case "src", "dst", "host", "net", "port":
		return p.sided(0)
	case "proto":
		p.next++
		n := uint8(p.number("a protocol number", 255))
		return named(fmt.Sprintf("proto %d", n), Protocol(n).Or(NextHeader(n)))
	case "ether":
		p.next++
		return p.ether()
	case "vlan":
		p.next++
		return VLAN(p.optional(4095))
	case "vxlan":
		p.next++
		return VXLAN(p.port, p.optional(1<<24-1))
	case "tcp", "udp":
		p.next++
		if next := p.peek(); next == "src" || next == "dst" || next == "port" {
			return p.sided(map[string]uint8{"tcp": protoTCP, "udp": protoUDP}[word])
		}
		p.next--
	}
	if f, ok := alone(word); ok {
		p.next++
		return f
	}
	if _, err := parsePrefix(word); err == nil {
		return p.address(Either)
	}
	return p.fail("%q is no word of a filter: %s", word, Words)
}

// sided reads [src|dst] host, net or port, or an address.
func (p *parser) sided(protocol uint8) Filter {
	side := Either
	switch {
	case p.take("src"):
		side = Source
	case p.take("dst"):
		side = Destination
	}
	switch {
	case p.take("port"):
		return Port(protocol, side, uint16(p.number("a port", 65535)))
	case protocol != 0:
		return p.fail("port belongs here: tcp %sport 80", side)
	case p.take("host", "net"):
		return p.address(side)
	}
	if _, err := parsePrefix(p.peek()); err == nil {
		return p.address(side)
	}
	return p.fail("host, net or port belongs behind %q", strings.TrimSpace(side.String()))
}

func (p *parser) address(side Side) Filter {
	n, err := parsePrefix(p.peek())
	if err != nil {
		return p.fail("%q is neither an address nor a prefix, as 10.244.1.2 or 10.244.0.0/16", p.peek())
	}
	p.next++
	return Net(side, n)
}

func (p *parser) ether() Filter {
	side := Either
	switch {
	case p.take("src"):
		side = Source
	case p.take("dst"):
		side = Destination
	}
	switch {
	case p.take("proto") && side == Either:
		return EtherType(uint16(p.number("an EtherType", 65535)))
	case p.take("host") || side != Either:
		mac, err := net.ParseMAC(p.peek())
		if err != nil || len(mac) != 6 {
			return p.fail("%q is no MAC address, as 02:42:ac:11:00:02", p.peek())
		}
		p.next++
		return EtherHost(side, [6]byte(mac))
	}
	return p.fail("host MAC or proto N belongs behind ether")
}

// number reads a number, decimal or with 0x in front.
func (p *parser) number(what string, most uint64) uint64 {
	n, err := strconv.ParseUint(p.peek(), 0, 64)
	if err != nil || n > most {
		p.fail("%q is not %s, 0 to %d", p.peek(), what, most)
		return 0
	}
	p.next++
	return n
}

// optional reads a number if there is one; -1 if not.
func (p *parser) optional(most uint64) int {
	if c := p.peek(); c == "" || c[0] < '0' || c[0] > '9' {
		return -1
	}
	return int(p.number("an identifier", most))
}

// parsePrefix reads an address or a prefix.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
