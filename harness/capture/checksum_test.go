package capture_test

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/overlab/overlab/harness/capture"
)

// TestUDPChecksum: checksums that a library made, of both families, and what is
// wrong with them.
func TestUDPChecksum(t *testing.T) {
	ipv4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
		SrcIP: netip.MustParseAddr("172.16.1.1").AsSlice(), DstIP: netip.MustParseAddr("172.16.1.2").AsSlice()}
	ipv6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP,
		SrcIP: netip.MustParseAddr("fd00:172:16:1::1").AsSlice(), DstIP: netip.MustParseAddr("fd00:172:16:1::2").AsSlice()}
	for _, family := range []struct {
		name    string
		etype   layers.EthernetType
		ip      gopacket.SerializableLayer
		network gopacket.NetworkLayer
		udp     int // where the UDP header begins
	}{
		{"IPv4", layers.EthernetTypeIPv4, ipv4, ipv4, 14 + 20},
		{"IPv6", layers.EthernetTypeIPv6, ipv6, ipv6, 14 + 40},
	} {
		udp := &layers.UDP{SrcPort: 4000, DstPort: 8472}
		if err := udp.SetNetworkLayerForChecksum(family.network); err != nil {
			t.Fatal(err)
		}
		buffer := gopacket.NewSerializeBuffer()
		err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
			&layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6), EthernetType: family.etype}, family.ip, udp, gopacket.Payload("a payload of an odd length, and no padding after it"))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name   string
			change func(f *capture.Frame)
			want   capture.Checksum
		}{
			{"as it was sent", func(*capture.Frame) {}, capture.ChecksumValid},
			{"another checksum", func(f *capture.Frame) { binary.BigEndian.PutUint16(f.Data[family.udp+6:], 0x1234) }, capture.ChecksumWrong},
			{"another payload", func(f *capture.Frame) { f.Data[len(f.Data)-1] ^= 1 }, capture.ChecksumWrong},
			{"no checksum", func(f *capture.Frame) { binary.BigEndian.PutUint16(f.Data[family.udp+6:], 0) }, capture.ChecksumNone},
			{"left to hardware", func(f *capture.Frame) { f.ChecksumNotReady = true }, capture.ChecksumPending},
			{"cut short", func(f *capture.Frame) { f.Data = f.Data[:len(f.Data)-1] }, capture.ChecksumUnknown},
		} {
			f := capture.Frame{Data: append([]byte(nil), buffer.Bytes()...), Length: len(buffer.Bytes())}
			c.change(&f)
			if got := f.UDPChecksum(); got != c.want {
				t.Errorf("%s, %s: %s, not %s", family.name, c.name, got, c.want)
			}
		}
	}
}
