package filter_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/net/bpf"

	"github.com/overlab/overlab/harness/capture/filter"
)

var (
	macA = net.HardwareAddr{2, 0, 0, 0, 0, 1}
	macB = net.HardwareAddr{2, 0, 0, 0, 0, 2}
)

// packet is one frame of the tests, of a name by which they know it.
type packet struct {
	name string
	data []byte
}

func serialize(t *testing.T, l ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, l...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func ether(typ layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: macA, DstMAC: macB, EthernetType: typ}
}

func ip4(src, dst string, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
}

func ip6(src, dst string, proto layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: net.ParseIP(src), DstIP: net.ParseIP(dst)}
}

func udp(src, dst int) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(src), DstPort: layers.UDPPort(dst)}
}

func packets(t *testing.T) []packet {
	load := gopacket.Payload(make([]byte, 40))
	icmp := serialize(t, ether(layers.EthernetTypeIPv4), ip4("10.244.0.2", "10.244.1.2", layers.IPProtocolICMPv4),
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0)}, load)
	tcp := serialize(t, ether(layers.EthernetTypeIPv4), ip4("10.244.0.2", "10.244.1.3", layers.IPProtocolTCP),
		&layers.TCP{SrcPort: 40000, DstPort: 80, DataOffset: 5}, load)
	vxlan := func(vni uint32, inner []byte) []byte {
		return serialize(t, ether(layers.EthernetTypeIPv4), ip4("172.16.1.1", "172.16.1.2", layers.IPProtocolUDP), udp(50000, 8472),
			&layers.VXLAN{ValidIDFlag: true, VNI: vni}, gopacket.Payload(inner))
	}
	fragment := ip4("172.16.1.1", "172.16.1.2", layers.IPProtocolUDP)
	fragment.FragOffset = 185
	options := ip4("172.16.1.1", "172.16.1.9", layers.IPProtocolUDP)
	options.Options = []layers.IPv4Option{{OptionType: 7, OptionLength: 7, OptionData: []byte{4, 0, 0, 0, 0}}}
	return []packet{
		{"icmp", icmp}, {"tcp80", tcp},
		{"dns", serialize(t, ether(layers.EthernetTypeIPv4), ip4("172.16.1.1", "172.16.1.9", layers.IPProtocolUDP), udp(50000, 53), load)},
		{"options", serialize(t, ether(layers.EthernetTypeIPv4), options, udp(53, 50000), load)},
		{"fragment", serialize(t, ether(layers.EthernetTypeIPv4), fragment, load)},
		{"dns6", serialize(t, ether(layers.EthernetTypeIPv6), ip6("fd00::1", "fd00:0:0:1::2", layers.IPProtocolUDP), udp(50000, 53), load)},
		{"icmp6", serialize(t, ether(layers.EthernetTypeIPv6), ip6("fd00::1", "fd01::2", layers.IPProtocolICMPv6), load)},
		{"arp", serialize(t, ether(layers.EthernetTypeARP), &layers.ARP{
			AddrType: 1, Protocol: 0x0800, HwAddressSize: 6, ProtAddressSize: 4, Operation: 1, SourceHwAddress: macA,
			SourceProtAddress: net.IP{172, 16, 1, 1}, DstHwAddress: macB, DstProtAddress: net.IP{172, 16, 1, 2},
		}, load)},
		{"vx1icmp", vxlan(1, icmp)}, {"vx1tcp80", vxlan(1, tcp)}, {"vx2icmp", vxlan(2, icmp)},
		{"vx6icmp", serialize(t, ether(layers.EthernetTypeIPv6), ip6("fd00::1", "fd00::2", layers.IPProtocolUDP), udp(50000, 8472),
			&layers.VXLAN{ValidIDFlag: true, VNI: 1}, gopacket.Payload(icmp))},
	}
}

func accepted(t *testing.T, f filter.Filter, all []packet) string {
	t.Helper()
	raw, err := f.Assemble(65535)
	if err != nil {
		t.Fatal(err)
	}
	code, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("the program cannot be read back")
	}
	vm, err := bpf.NewVM(code)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range all {
		n, err := vm.Run(p.data)
		if err != nil {
			t.Fatal(err)
		}
		if n > 0 {
			names = append(names, p.name)
		}
	}
	return strings.Join(names, " ")
}

// TestParse: what each expression accepts, and, where tcpdump is there and has
// the word, that it accepts the same.
func TestParse(t *testing.T) {
	all := packets(t)
	file := filepath.Join(t.TempDir(), "all.pcap")
	writePcap(t, file, all)
	tcpdump, _ := exec.LookPath("tcpdump")
	if tcpdump == "" {
		t.Log("this machine has no tcpdump: not compared with it")
	}
	for _, c := range []struct {
		expression, want string
		ours             bool // tcpdump has no such word, or another meaning
	}{
		{"icmp", "icmp", false},
		{"tcp", "tcp80", false},
		{"arp or icmp6", "icmp6 arp", false},
		{"ip6", "dns6 icmp6 vx6icmp", false},
		{"not ip and not ip6", "arp", false},
		{"host 172.16.1.9", "dns options", false},
		{"src 172.16.1.1 and not udp", "arp", false},
		{"dst host 172.16.1.2", "fragment arp vx1icmp vx1tcp80 vx2icmp", false},
		{"net 10.244.0.0/16", "icmp tcp80", false},
		{"dst net 10.244.1.2/31", "icmp tcp80", false},
		{"host fd01::2", "icmp6", false},
		{"net fd00::/48", "dns6 icmp6 vx6icmp", false},
		{"dst net fd00:0:0:1::/64", "dns6", false},
		{"port 53", "dns options dns6", false},
		{"udp src port 53", "options", false},
		{"tcp dst port 80", "tcp80", false},
		{"tcp port 53", "", false},
		{"udp port 8472 and not host 172.16.1.1", "vx6icmp", false},
		{"ether host 02:00:00:00:00:02 and arp", "arp", false},
		{"ether dst 02:00:00:00:00:01", "", false},
		{"ether proto 0x0806", "arp", false},
		{"(icmp or port 53) and !(host 172.16.1.9)", "icmp dns6", false},
		{"icmp || arp && host 10.0.0.1", "icmp", true}, // there both bind alike
		{"proto 17 and ip6", "dns6 vx6icmp", true},
		{"10.244.1.2", "icmp", true},
		{"vxlan", "vx1icmp vx1tcp80 vx2icmp vx6icmp", true},
		{"vxlan 1", "vx1icmp vx1tcp80 vx6icmp", true},
		{"vxlan 2 and inner icmp", "vx2icmp", true},
		{"inner (host 10.244.1.3 and tcp dst port 80)", "vx1tcp80", true},
		{"inner not icmp", "vx1tcp80", true},
		{"inner icmp or icmp", "icmp vx1icmp vx2icmp vx6icmp", true},
		{"", "icmp tcp80 dns options fragment dns6 icmp6 arp vx1icmp vx1tcp80 vx2icmp vx6icmp", false},
	} {
		f, err := filter.Parse(c.expression, 8472)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := accepted(t, f, all); got != c.want {
			t.Errorf("%q (%s) accepts %s, want %s", c.expression, f, got, c.want)
		}
		if tcpdump != "" && !c.ours {
			out, err := exec.Command(tcpdump, "-nn", "-t", "-r", file, "--count", c.expression).CombinedOutput()
			want := fmt.Sprintf("%d packet", len(strings.Fields(c.want)))
			if err != nil || !strings.Contains(string(out), want) {
				t.Errorf("%q: tcpdump says %s, want %s; %v", c.expression, out, want, err)
			}
		}
	}
}

func writePcap(t *testing.T, path string, all []packet) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		info := gopacket.CaptureInfo{Timestamp: time.Unix(1, 0), CaptureLength: len(p.data), Length: len(p.data)}
		if err := w.WritePacket(info, p.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestSyntaxErrors: an error points at the column where it is.
func TestSyntaxErrors(t *testing.T) {
	for _, c := range []struct {
		expression string
		column     int
		says       string
	}{
		{"icmp hots 10.0.0.1", 6, "and, or"},
		{"hots 10.0.0.1", 1, "no word"},
		{"icmp and", 9, "ends"},
		{"(icmp or arp", 13, ") is missing"},
		{"port http", 6, "a port"},
		{"port 65536", 6, "0 to 65535"},
		{"host 10.244.1", 6, "neither an address"},
		{"tcp src 10.0.0.1", 9, "port belongs"},
		{"src", 4, "host, net or port"},
		{"ether host 02:00", 12, "no MAC"},
		{"ether 1", 7, "behind ether"},
		{"vxlan 16777216", 7, "16777215"},
		{"vlan 4096", 6, "4095"},
		{"inner", 6, "ends"},
		{"ärp", 1, "no word"},
		{"not", 4, "ends"},
	} {
		_, err := filter.Parse(c.expression, 8472)
		var wrong *filter.SyntaxError
		if !errors.As(err, &wrong) || wrong.Column != c.column || !strings.Contains(wrong.Reason, c.says) {
			t.Errorf("%q: %v, want column %d and %q", c.expression, err, c.column, c.says)
		}
	}
	_, err := filter.Parse("icmp hots", 8472)
	if err == nil || !strings.HasSuffix(err.Error(), "\n  icmp hots\n       ^") {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"icmp and host 10.244.1.2", "vxlan 1 and inner (tcp dst port 80 or udp)", "!((", "ether host 02:00:00:00:00:02"} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		if x, err := filter.Parse(s, 8472); err == nil {
			_, _ = x.Assemble(64) // it may be too long, and must not panic
		}
	})
}
