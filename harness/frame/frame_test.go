package frame_test

import (
	"net/netip"
	"testing"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/frame"
	"github.com/overlab/overlab/topology"
)

// TestDecoded: what is built is what capture, which shares nothing with it,
// reads.
func TestDecoded(t *testing.T) {
	a, b := topology.MAC{2, 0, 0, 0, 0, 1}, topology.MAC{2, 0, 0, 0, 0, 2}
	outer := frame.IPv4{Src: netip.MustParseAddr("172.16.1.9"), Dst: netip.MustParseAddr("172.16.1.10"), DF: true, TTL: 9}
	inner := frame.IPv4{Src: netip.MustParseAddr("10.244.1.2"), Dst: netip.MustParseAddr("10.244.2.2")}
	id := uuid.New()
	header := frame.VXLAN{Flags: 0x88, VNI: 0x123456, Reserved: 7, Reserved2: 9}
	f := capture.Frame{Data: frame.Ethernet(a, b, frame.TypeIPv4,
		outer.UDP(4000, 8472, header.Wrap(frame.Ethernet(b, a, frame.TypeIPv4, inner.Silent(id)))))}
	p := f.Decode(8472)
	if p.Eth.Dst != a || p.Eth.Src != b || p.IP.TTL != 9 || !p.IP.DF || p.UDP.Src != 4000 ||
		p.VXLAN != (capture.VXLAN{Flags: 0x88, VNI: 0x123456, Reserved1: 7, Reserved2: 9}) ||
		p.Inner.Eth.Dst != b || p.Inner.IP.TTL != 64 || p.Inner.IP.Dst != inner.Dst || p.Inner.ICMP.ID != 0xffff || !f.Contains(id) {
		t.Errorf("%+v", p)
	}
	if c := f.UDPChecksum(); c != capture.ChecksumNone {
		t.Error(c)
	}
}
