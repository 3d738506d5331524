package capture

import (
	"fmt"
	"strings"
)

// String returns the packet as tcpdump -vv prints it: the outer headers and,
// of a tunnelled packet, the VXLAN header if there is one and the inner
// headers, one packet to two lines.
func (p *Packet) String() string { return strings.Join(p.Lines(), "\n") }

// Lines returns the lines of String.
func (p *Packet) Lines() []string {
	lines := p.lines()
	if p.Encapsulated() {
		lines[len(lines)-1] += " " + p.VXLAN.String()
		lines = append(lines, p.Inner.lines()...)
	}
	if (p.Has(LayerIPIP) || p.Has(LayerRawIP)) && p.Inner.Has(LayerIPv4) {
		lines = append(lines, p.Inner.lines()...)
	}
	return lines
}

// String returns the header as tcpdump prints it.
func (v VXLAN) String() string {
	flag := "."
	if v.Flags&0x08 != 0 {
		flag = "I"
	}
	s := fmt.Sprintf("VXLAN, flags [%s] (0x%02x), vni %d", flag, v.Flags, v.VNI)
	if v.Reserved1 != 0 || v.Reserved2 != 0 {
		s += fmt.Sprintf(", reserved 0x%06x 0x%02x", v.Reserved1, v.Reserved2)
	}
	return s
}

func (h *Headers) lines() []string {
	var tag string
	if h.Has(LayerVLAN) {
		tag = fmt.Sprintf("vlan %d, p %d, ", h.Eth.VLAN&0xfff, h.Eth.VLAN>>13)
	}
	switch {
	case h.Has(LayerIPv4):
		return []string{tag + h.IP.String(), "    " + h.transport()}
	case h.Has(LayerIPv6):
		return []string{tag + h.IP.string6(), "    " + h.transport()}
	case h.Has(LayerARP):
		return []string{tag + h.ARP.String()}
	case h.Has(LayerEthernet):
		return []string{fmt.Sprintf("%s%s > %s, ethertype %s, length %d",
			tag, h.Eth.Src, h.Eth.Dst, etherName(h.Eth.Type), len(h.Payload))}
	}
	return []string{fmt.Sprintf("[|ether], %d bytes", len(h.Payload))}
}

// string6 is as String, of an IPv6 header.
func (ip IP) string6() string {
	class := ""
	if ip.TOS != 0 {
		class = fmt.Sprintf("class 0x%02x, ", ip.TOS)
	}
	return fmt.Sprintf("IP6 (%shlim %d, next-header %s (%d) payload length: %d)", class, ip.TTL, protoName(ip.Protocol), ip.Protocol, ip.Length-40)
}

// String returns an IPv4 header as the first line of tcpdump -v.
func (ip IP) String() string {
	flags := "none"
	switch {
	case ip.DF && ip.MF:
		flags = "DF, +"
	case ip.DF:
		flags = "DF"
	case ip.MF:
		flags = "+"
	}
	return fmt.Sprintf("IP (tos 0x%x, ttl %d, id %d, offset %d, flags [%s], proto %s (%d), length %d)",
		ip.TOS, ip.TTL, ip.ID, ip.Offset, flags, protoName(ip.Protocol), ip.Protocol, ip.Length)
}

// String returns the packet as tcpdump prints it.
func (a ARP) String() string {
	switch a.Op {
	case 1:
		return fmt.Sprintf("ARP, Request who-has %s tell %s, length 28", a.TargetIP, a.SenderIP)
	case 2:
		return fmt.Sprintf("ARP, Reply %s is-at %s, length 28", a.SenderIP, a.SenderMAC)
	}
	return fmt.Sprintf("ARP, op %d, length 28", a.Op)
}

func (h *Headers) transport() string {
	ip := h.IP
	length := ip.Length - ip.HeaderLen
	switch {
	case h.Has(LayerUDP):
		sum := fmt.Sprintf("[cksum 0x%04x]", h.UDP.Checksum)
		if h.UDP.Checksum == 0 {
			sum = "[no cksum]"
		}
		if h.Has(LayerVXLAN) {
			return fmt.Sprintf("%s.%d > %s.%d: %s", ip.Src, h.UDP.Src, ip.Dst, h.UDP.Dst, sum)
		}
		return fmt.Sprintf("%s.%d > %s.%d: %s UDP, length %d",
			ip.Src, h.UDP.Src, ip.Dst, h.UDP.Dst, sum, int(h.UDP.Length)-8)
	case h.Has(LayerTCP):
		return fmt.Sprintf("%s.%d > %s.%d: Flags [%s], seq %d, ack %d, length %d",
			ip.Src, h.TCP.Src, ip.Dst, h.TCP.Dst, tcpFlags(h.TCP.Flags), h.TCP.Seq, h.TCP.Ack, len(h.Payload))
	case h.Has(LayerICMP):
		return fmt.Sprintf("%s > %s: ICMP %s, length %d", ip.Src, ip.Dst, h.ICMP, length)
	case h.Has(LayerICMPv6):
		return fmt.Sprintf("%s > %s: ICMP6, %s, length %d", ip.Src, ip.Dst, h.ICMP.string6(), length)
	}
	return fmt.Sprintf("%s > %s: ip-proto-%d %d", ip.Src, ip.Dst, ip.Protocol, length)
}

// String returns the message's kind as tcpdump prints it.
func (m ICMP) String() string {
	switch {
	case m.Type == 8:
		return fmt.Sprintf("echo request, id %d, seq %d", m.ID, m.Seq)
	case m.Type == 0:
		return fmt.Sprintf("echo reply, id %d, seq %d", m.ID, m.Seq)
	case m.Type == 3 && m.Code == 4:
		return fmt.Sprintf("unreachable - need to frag (mtu %d)", m.MTU)
	case m.Type == 3 && m.Code == 0:
		return "net unreachable"
	case m.Type == 3 && m.Code == 1:
		return "host unreachable"
	case m.Type == 3 && m.Code == 3:
		return "port unreachable"
	case m.Type == 3 && m.Code == 13:
		return "unreachable - admin prohibited filter"
	case m.Type == 11 && m.Code == 0:
		return "time exceeded in-transit"
	case m.Type == 5:
		return "redirect"
	}
	return fmt.Sprintf("type %d, code %d", m.Type, m.Code)
}

// string6 is as String, of ICMPv6 (RFC 4443, RFC 4861).
func (m ICMP) string6() string {
	switch {
	case m.Type == 128:
		return fmt.Sprintf("echo request, id %d, seq %d", m.ID, m.Seq)
	case m.Type == 129:
		return fmt.Sprintf("echo reply, id %d, seq %d", m.ID, m.Seq)
	case m.Type == 1:
		return fmt.Sprintf("destination unreachable, code %d", m.Code)
	case m.Type == 2:
		return fmt.Sprintf("packet too big, mtu %d", m.MTU)
	case m.Type == 3 && m.Code == 0:
		return "time exceeded in-transit"
	case m.Type == 135:
		return "neighbor solicitation"
	case m.Type == 136:
		return "neighbor advertisement"
	}
	return fmt.Sprintf("type %d, code %d", m.Type, m.Code)
}

func protoName(p uint8) string {
	switch p {
	case protoICMP:
		return "ICMP"
	case 4:
		return "IPIP"
	case protoTCP:
		return "TCP"
	case protoUDP:
		return "UDP"
	case 50:
		return "ESP"
	case protoICMPv6:
		return "ICMPv6"
	}
	return "unknown"
}

func etherName(t uint16) string {
	switch t {
	case etherIPv4:
		return "IPv4 (0x0800)"
	case etherARP:
		return "ARP (0x0806)"
	case etherIPv6:
		return "IPv6 (0x86dd)"
	}
	return fmt.Sprintf("Unknown (0x%04x)", t)
}

func tcpFlags(f uint8) string {
	var b strings.Builder
	for i, c := range []byte("FSRP.UEW") {
		if f&(1<<i) != 0 {
			b.WriteByte(c)
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}
