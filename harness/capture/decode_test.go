package capture_test

import (
	"net"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/overlab/overlab/harness/capture"
)

var (
	vtep1 = net.HardwareAddr{0x26, 0x62, 0x24, 0xf0, 0x61, 0x01}
	vtep2 = net.HardwareAddr{0x52, 0x17, 0x43, 0xba, 0x2e, 0x56}
	nic1  = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	nic2  = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// frame serialises layers.
func frame(t testing.TB, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, l...)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func eth(src, dst net.HardwareAddr, typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: src, DstMAC: dst, EthernetType: typ}
}

func ip(src, dst string, ttl uint8, id uint16, proto layers.IPProtocol, flags layers.IPv4Flag) *layers.IPv4 {
	return &layers.IPv4{
		Version: 4, TTL: ttl, Id: id, Protocol: proto, Flags: flags,
		SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst),
	}
}

func echo(id, seq uint16) *layers.ICMPv4 {
	return &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: id, Seq: seq}
}

// seed is the encapsulated ping of the first seed article.
func seed(t testing.TB) []byte {
	return frame(t,
		eth(nic1, nic2, layers.EthernetTypeIPv4),
		ip("172.16.1.14", "172.16.1.13", 64, 1164, layers.IPProtocolUDP, 0),
		&layers.UDP{SrcPort: 53811, DstPort: 8472},
		&layers.VXLAN{ValidIDFlag: true, VNI: 1},
		eth(vtep1, vtep2, layers.EthernetTypeIPv4),
		ip("10.244.1.96", "10.244.2.66", 63, 50392, layers.IPProtocolICMPv4, layers.IPv4DontFragment),
		echo(40, 1), gopacket.Payload(make([]byte, 56)))
}

func TestDecodeEncapsulated(t *testing.T) {
	p := capture.Decode(seed(t), 8472)
	if !p.Encapsulated() || !p.Has(capture.LayerEthernet|capture.LayerIPv4|capture.LayerUDP) {
		t.Fatalf("layers %b", p.Layers)
	}
	if p.VXLAN != (capture.VXLAN{Flags: 8, VNI: 1}) {
		t.Errorf("VXLAN header %+v", p.VXLAN)
	}
	if p.IP.TTL != 64 || p.UDP.Dst != 8472 || p.Inner.IP.TTL != 63 || p.Inner.ICMP.ID != 40 {
		t.Errorf("outer TTL %d, port %d, inner TTL %d, ICMP id %d", p.IP.TTL, p.UDP.Dst, p.Inner.IP.TTL, p.Inner.ICMP.ID)
	}
	if p.Inner.Eth.Src.String() != vtep1.String() || p.Innermost().Eth.Dst.String() != vtep2.String() {
		t.Errorf("inner %s > %s", p.Inner.Eth.Src, p.Inner.Eth.Dst)
	}
	if other := capture.Decode(seed(t), 4789); other.Encapsulated() {
		t.Error("VXLAN found on a port that is not VXLAN's")
	}
}

// TestString has the lines of tcpdump -vv in the first seed article, with
// VXLAN in the words of a tcpdump that knows the port.
func TestString(t *testing.T) {
	short := seed(t)[:14+20+8+8+14+20+4]
	tagged := frame(t, eth(nic1, nic2, layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Priority: 3, Type: layers.EthernetTypeIPv4},
		ip("10.0.0.1", "10.0.0.2", 1, 2, layers.IPProtocolTCP, layers.IPv4MoreFragments),
		&layers.TCP{SrcPort: 1, DstPort: 2, Seq: 3, SYN: true, ACK: true, Ack: 4})
	reserved := seed(t)
	reserved[14+20+8+1], reserved[14+20+8] = 0xff, 0
	for name, c := range map[string]struct {
		frame []byte
		want  string
	}{
		"the seed's": {seed(t), `
IP (tos 0x0, ttl 64, id 1164, offset 0, flags [none], proto UDP (17), length 134)
    172.16.1.14.53811 > 172.16.1.13.8472: [no cksum] VXLAN, flags [I] (0x08), vni 1
IP (tos 0x0, ttl 63, id 50392, offset 0, flags [DF], proto ICMP (1), length 84)
    10.244.1.96 > 10.244.2.66: ICMP echo request, id 40, seq 1, length 64`},
		"reserved bits": {reserved, `
IP (tos 0x0, ttl 64, id 1164, offset 0, flags [none], proto UDP (17), length 134)
    172.16.1.14.53811 > 172.16.1.13.8472: [no cksum] VXLAN, flags [.] (0x00), vni 1, reserved 0xff0000 0x00
IP (tos 0x0, ttl 63, id 50392, offset 0, flags [DF], proto ICMP (1), length 84)
    10.244.1.96 > 10.244.2.66: ICMP echo request, id 40, seq 1, length 64`},
		"cut short": {short, `
IP (tos 0x0, ttl 64, id 1164, offset 0, flags [none], proto UDP (17), length 134)
    172.16.1.14.53811 > 172.16.1.13.8472: [no cksum] VXLAN, flags [I] (0x08), vni 1
IP (tos 0x0, ttl 63, id 50392, offset 0, flags [DF], proto ICMP (1), length 84)
    10.244.1.96 > 10.244.2.66: ip-proto-1 64`},
		"plain UDP": {frame(t, eth(nic1, nic2, layers.EthernetTypeIPv4), ip("10.0.0.1", "10.0.0.2", 64, 7, layers.IPProtocolUDP, 0),
			&layers.UDP{SrcPort: 1000, DstPort: 53}, gopacket.Payload("hello")), `
IP (tos 0x0, ttl 64, id 7, offset 0, flags [none], proto UDP (17), length 33)
    10.0.0.1.1000 > 10.0.0.2.53: [no cksum] UDP, length 5`},
		"tagged TCP": {tagged, `
vlan 7, p 3, IP (tos 0x0, ttl 1, id 2, offset 0, flags [+], proto TCP (6), length 40)
    10.0.0.1.1 > 10.0.0.2.2: Flags [S.], seq 3, ack 4, length 0`},
		"too big": {frame(t, eth(nic1, nic2, layers.EthernetTypeIPv4), ip("10.0.0.1", "10.0.0.2", 64, 7, layers.IPProtocolICMPv4, 0),
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1450}), `
IP (tos 0x0, ttl 64, id 7, offset 0, flags [none], proto ICMP (1), length 28)
    10.0.0.1 > 10.0.0.2: ICMP unreachable - need to frag (mtu 1450), length 8`},
		"ARP": {frame(t, eth(nic1, nic2, layers.EthernetTypeARP), &layers.ARP{
			AddrType: 1, Protocol: 0x800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1,
			SourceHwAddress: nic1, SourceProtAddress: []byte{10, 0, 0, 1}, DstHwAddress: nic2, DstProtAddress: []byte{10, 0, 0, 2},
		}), `
ARP, Request who-has 10.0.0.2 tell 10.0.0.1, length 28`},
		"unknown": {frame(t, eth(nic1, nic2, 0x88b5), gopacket.Payload(make([]byte, 46))), `
02:00:00:00:00:01 > 02:00:00:00:00:02, ethertype Unknown (0x88b5), length 46`},
		"nothing": {nil, `
[|ether], 0 bytes`},
	} {
		p := capture.Decode(c.frame, 8472)
		if got := p.String(); got != strings.TrimPrefix(c.want, "\n") {
			t.Errorf("%s:\n%s\nwant:%s", name, got, c.want)
		}
	}
}

// TestPadding: a short packet's frame is padded to 60 bytes; the padding is
// no payload.
func TestPadding(t *testing.T) {
	b := append(frame(t, eth(nic1, nic2, layers.EthernetTypeIPv4),
		ip("10.0.0.1", "10.0.0.2", 64, 7, layers.IPProtocolUDP, 0), &layers.UDP{SrcPort: 1, DstPort: 2}, gopacket.Payload("hi")), make([]byte, 16)...)
	if p := capture.Decode(b, 8472); string(p.Payload) != "hi" {
		t.Errorf("payload %q", p.Payload)
	}
}

// TestDecodeIPv4InUDP: only what is exactly one IPv4 packet is taken for one.
func TestDecodeIPv4InUDP(t *testing.T) {
	inner := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(inner, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		ip("10.244.1.2", "10.244.2.2", 62, 7, layers.IPProtocolICMPv4, 0), echo(40, 1)); err != nil {
		t.Fatal(err)
	}
	whole := inner.Bytes()
	altered := func(change func([]byte)) []byte {
		b := append([]byte{}, whole...)
		change(b)
		return b
	}
	for name, c := range map[string]struct {
		payload []byte
		want    bool
	}{
		"a packet":            {whole, true},
		"a byte more":         {append(altered(func([]byte) {}), 0), false},
		"a byte less":         {whole[:len(whole)-1], false},
		"another version":     {altered(func(b []byte) { b[0] = 0x65 }), false},
		"a wrong checksum":    {altered(func(b []byte) { b[8]-- }), false},
		"a header too long":   {altered(func(b []byte) { b[0] = 0x4f }), false},
		"a header too short":  {altered(func(b []byte) { b[0] = 0x44 }), false},
		"too little":          {whole[:19], false},
		"nothing":             {nil, false},
		"another application": {[]byte("Everything but an IPv4 packet."), false},
	} {
		p := capture.Decode(frame(t, eth(nic1, nic2, layers.EthernetTypeIPv4),
			ip("172.16.1.9", "172.16.1.10", 64, 1, layers.IPProtocolUDP, 0),
			&layers.UDP{SrcPort: 8285, DstPort: 8285}, gopacket.Payload(c.payload)), 8472)
		if p.Has(capture.LayerRawIP) != c.want || p.Tunnelled() != c.want {
			t.Errorf("%s: layers %b", name, p.Layers)
		}
		if c.want && (p.Innermost().IP.TTL != 62 || p.Innermost().ICMP.ID != 40 || !strings.Contains(p.String(), "10.244.1.2 > 10.244.2.2: ICMP echo request")) {
			t.Errorf("%s: %s", name, p.String())
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(seed(f))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := capture.Decode(b, 8472)
		_ = p.String()
	})
}

func BenchmarkDecode(b *testing.B) {
	f := seed(b)
	for b.Loop() {
		p := capture.Decode(f, 8472)
		if !p.Encapsulated() {
			b.Fatal("not decoded")
		}
	}
}
