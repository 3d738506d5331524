package capture

import (
	"fmt"
	"strings"
)

// Line returns the frame in one line: the time, where it was seen and which
// way it went, the outer packet, and behind a colon what a tunnel carries. A
// UDP datagram to vxlanPort is taken for VXLAN.
func (f *Frame) Line(vxlanPort uint16) string {
	p := f.Decode(vxlanPort)
	s := fmt.Sprintf("%s %s %s  %s", f.Time.Format("15:04:05.000000"), f.Tap, f.Direction, p.Headers.brief())
	switch {
	case p.Encapsulated():
		s += fmt.Sprintf(" vxlan %d: %s", p.VXLAN.VNI, p.Inner.brief())
	case p.Has(LayerIPIP):
		s += " ipip: " + p.Inner.brief()
	case p.Has(LayerRawIP):
		s += " in udp: " + p.Inner.brief()
	}
	if f.Tagged {
		s += fmt.Sprintf(" [vlan %d]", f.VLAN&0xfff)
	}
	if f.ChecksumNotReady {
		s += " [checksum offloaded]"
	}
	if f.Length > len(f.Data) {
		s += fmt.Sprintf(" [%d of %d bytes kept]", len(f.Data), f.Length)
	}
	return s
}

// brief is one packet's headers in a few words.
func (h *Headers) brief() string {
	switch {
	case h.Has(LayerARP):
		return strings.ReplaceAll(h.ARP.String(), ", length 28", "")
	case !h.IsIP():
		return fmt.Sprintf("%s > %s %s", h.Eth.Src, h.Eth.Dst, etherName(h.Eth.Type))
	}
	src, dst := h.IP.Src.String(), h.IP.Dst.String()
	what := protoName(h.IP.Protocol)
	switch {
	case h.IP.Offset > 0:
		what += fmt.Sprintf(" fragment at %d", h.IP.Offset)
	case h.Has(LayerUDP):
		src, dst = fmt.Sprintf("%s.%d", src, h.UDP.Src), fmt.Sprintf("%s.%d", dst, h.UDP.Dst)
	case h.Has(LayerTCP):
		src, dst = fmt.Sprintf("%s.%d", src, h.TCP.Src), fmt.Sprintf("%s.%d", dst, h.TCP.Dst)
		what = fmt.Sprintf("TCP [%s]", tcpFlags(h.TCP.Flags))
	case h.Has(LayerICMP):
		what = "ICMP " + h.ICMP.String()
	case h.Has(LayerICMPv6):
		what = "ICMP6 " + h.ICMP.string6()
	}
	return fmt.Sprintf("%s > %s %s, ttl %d, length %d", src, dst, what, h.IP.TTL, h.IP.Length)
}
