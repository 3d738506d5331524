package capture_test

import (
	"net"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/overlab/overlab/harness/capture"
)

func ip6(src, dst string, hops uint8, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: next, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

// icmp6 is an ICMPv6 message of 4 bytes and a body.
func icmp6(typ, code uint8, body ...byte) gopacket.SerializableLayer {
	return gopacket.Payload(append([]byte{typ, code, 0, 0}, body...))
}

// TestDecodeIPv6: an echo over IPv6 in VXLAN over IPv6.
func TestDecodeIPv6(t *testing.T) {
	b := frame(t,
		eth(nic1, nic2, layers.EthernetTypeIPv6),
		ip6("fd00:172:16:1::2", "fd00:172:16:1::3", 64, layers.IPProtocolUDP),
		&layers.UDP{SrcPort: 53811, DstPort: 8472},
		&layers.VXLAN{ValidIDFlag: true, VNI: 1},
		eth(vtep1, vtep2, layers.EthernetTypeIPv6),
		ip6("fd00:10:244:1::2", "fd00:10:244:2::2", 63, layers.IPProtocolICMPv6),
		icmp6(128, 0, append([]byte{0, 40, 0, 1}, make([]byte, 56)...)...))
	p := capture.Decode(b, 8472)
	if !p.Encapsulated() || !p.Has(capture.LayerIPv6|capture.LayerUDP) || !p.Inner.Has(capture.LayerIPv6|capture.LayerICMPv6) {
		t.Fatalf("layers %b in %b", p.Inner.Layers, p.Layers)
	}
	if p.IP.TTL != 64 || p.Inner.IP.TTL != 63 || p.Inner.ICMP.ID != 40 || p.Inner.IP.Length != 104 || p.Inner.IsEchoReply() {
		t.Errorf("outer %+v, inner %+v, %+v", p.IP, p.Inner.IP, p.Inner.ICMP)
	}
	want := []string{
		"IP6 (hlim 64, next-header UDP (17) payload length: 134)",
		"    fd00:172:16:1::2.53811 > fd00:172:16:1::3.8472: [no cksum] VXLAN, flags [I] (0x08), vni 1",
		"IP6 (hlim 63, next-header ICMPv6 (58) payload length: 64)",
		"    fd00:10:244:1::2 > fd00:10:244:2::2: ICMP6, echo request, id 40, seq 1, length 64",
	}
	if got := p.Lines(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("printed\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for n := range b { // nothing that is cut short ends badly
		short := capture.Decode(b[:n], 8472)
		_ = short.Lines()
	}
}

func TestDecodeICMPv6(t *testing.T) {
	for want, m := range map[string]gopacket.SerializableLayer{
		"ICMP6, echo reply, id 7, seq 9, length 8":         icmp6(129, 0, 0, 7, 0, 9),
		"ICMP6, packet too big, mtu 1430, length 8":        icmp6(2, 0, 0, 0, 5, 150),
		"ICMP6, time exceeded in-transit, length 8":        icmp6(3, 0, 0, 0, 0, 0),
		"ICMP6, destination unreachable, code 1, length 8": icmp6(1, 1, 0, 0, 0, 0),
		"ICMP6, neighbor solicitation, length 8":           icmp6(135, 0, 0, 0, 0, 0),
		"ICMP6, type 200, code 3, length 8":                icmp6(200, 3, 0, 0, 0, 0),
	} {
		p := capture.Decode(frame(t, eth(nic1, nic2, layers.EthernetTypeIPv6), ip6("fd00::1", "fd00::2", 64, layers.IPProtocolICMPv6), m), 8472)
		if got := p.Lines()[1]; got != "    fd00::1 > fd00::2: "+want {
			t.Errorf("printed %q, want %q", got, want)
		}
		if reply := strings.Contains(want, "echo reply"); p.IsEchoReply() != reply || !p.IsICMP() {
			t.Errorf("%s: reply %t", want, p.IsEchoReply())
		}
	}
}

// TestDecodeIPv6Fragment: the first fragment has the ports, the others have not.
func TestDecodeIPv6Fragment(t *testing.T) {
	for _, offset := range []byte{0, 8} {
		fragment := gopacket.Payload{17, 0, 0, offset | 1, 0, 0, 0, 5, 0xd2, 0x33, 0x21, 0x18, 0, 8, 0, 0}
		p := capture.Decode(frame(t, eth(nic1, nic2, layers.EthernetTypeIPv6), ip6("fd00::1", "fd00::2", 64, layers.IPProtocolIPv6Fragment), fragment), 8472)
		if p.IP.Protocol != 17 || p.IP.Offset != int(offset) || !p.IP.MF || p.Has(capture.LayerUDP) != (offset == 0) {
			t.Errorf("offset %d: %+v, layers %b", offset, p.IP, p.Layers)
		}
	}
}
