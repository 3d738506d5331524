package filter_test

import (
	"testing"

	"golang.org/x/net/bpf"

	"github.com/overlab/overlab/harness/capture/filter"
)

// ipv4 is an Ethernet frame with an IPv4 header of 20 bytes, a fragment
// offset in units of 8 bytes, and two ports.
func ipv4(proto byte, fragment uint16, src, dst uint16) []byte {
	b := make([]byte, 60)
	b[12], b[13] = 0x08, 0x00
	b[14] = 0x45
	b[20], b[21] = byte(fragment>>8), byte(fragment)
	b[23] = proto
	b[34], b[35], b[36], b[37] = byte(src>>8), byte(src), byte(dst>>8), byte(dst)
	return b
}

// ipv6 is an Ethernet frame with an IPv6 header.
func ipv6(next byte) []byte {
	b := make([]byte, 60)
	b[12], b[13] = 0x86, 0xdd
	b[14], b[20] = 0x60, next
	return b
}

func TestFilters(t *testing.T) {
	frames := map[string][]byte{
		"icmp":         ipv4(1, 0, 0, 0),
		"udp to 8472":  ipv4(17, 0, 40000, 8472),
		"udp of 8472":  ipv4(17, 0, 8472, 40000),
		"udp to 53":    ipv4(17, 0, 40000, 53),
		"udp fragment": ipv4(17, 185, 40000, 8472),
		"udp6":         ipv6(17),
		"icmp6":        ipv6(58),
		"tcp":          ipv4(6, 0, 40000, 8472),
		"arp":          append(make([]byte, 12), append([]byte{0x08, 0x06}, make([]byte, 46)...)...),
	}
	for _, c := range []struct {
		filter filter.Filter
		name   string
		want   []string
	}{
		{filter.All(), "all", []string{"icmp", "udp to 8472", "udp of 8472", "udp to 53", "udp fragment", "tcp", "arp", "udp6", "icmp6"}},
		{filter.UDP(), "udp", []string{"udp to 8472", "udp of 8472", "udp to 53", "udp fragment"}},
		{filter.TCP(), "tcp", []string{"tcp"}},
		{filter.UDP6(), "udp6", []string{"udp6"}},
		{filter.ICMPv6(), "icmp6", []string{"icmp6"}},
		{filter.ICMP(), "icmp", []string{"icmp"}},
		{filter.UDPPort(8472), "udp port 8472", []string{"udp to 8472", "udp of 8472"}},
		{filter.EtherType(0x0806), "ether proto 0x0806", []string{"arp"}},
		{filter.ICMP().Or(filter.UDPPort(53)), "(icmp or udp port 53)", []string{"icmp", "udp to 53"}},
		{filter.UDP().And(filter.UDPPort(53).Or(filter.EtherType(0x0806))), "(udp and (udp port 53 or ether proto 0x0806))", []string{"udp to 53"}},
		{filter.All().Or(filter.UDP()), "all", []string{"icmp", "udp to 8472", "udp of 8472", "udp to 53", "udp fragment", "tcp", "arp", "udp6", "icmp6"}},
		{filter.All().And(filter.TCP()), "tcp", []string{"tcp"}},
	} {
		if c.filter.String() != c.name {
			t.Errorf("%s is called %s", c.name, c.filter)
		}
		raw, err := c.filter.Assemble(100)
		if err != nil {
			t.Fatal(err)
		}
		code, ok := bpf.Disassemble(raw)
		if !ok {
			t.Fatal("the program does not disassemble")
		}
		vm, err := bpf.NewVM(code)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{}
		for _, name := range c.want {
			want[name] = true
		}
		for name, frame := range frames {
			n, err := vm.Run(frame)
			if err != nil {
				t.Fatal(err)
			}
			if (n > 0) != want[name] {
				t.Errorf("%s: %s: kept %d bytes", c.filter, name, n)
			}
		}
	}
}

func TestTooLong(t *testing.T) {
	f := filter.UDPPort(1)
	for port := range uint16(60) {
		f = f.Or(filter.UDPPort(port))
	}
	if _, err := f.Assemble(1); err == nil {
		t.Error("a filter of 61 ports: no error, though its jumps do not fit")
	}
}
