package relay

import (
	"testing"

	"golang.org/x/sys/unix"
)

func BenchmarkSum(b *testing.B) {
	data := make([]byte, 1448)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		sum(data, 0)
	}
}

func BenchmarkSegment(b *testing.B) {
	p, v := bigTCP(64000, 1420)
	out := make([]byte, 3*largest)
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := segment(out, p, v); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCoalesce(b *testing.B) {
	p, v := bigTCP(60000, 1420)
	all, size, err := segment(make([]byte, 3*largest), p, v)
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, vnetLen+len(all))
	joined := coalescer{buf: buf, write: func([]byte) error { return nil }}
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		copy(buf[vnetLen:], all)
		for from := vnetLen; from < len(buf); from += size {
			if err := joined.add(from, min(from+size, len(buf))); err != nil {
				b.Fatal(err)
			}
		}
		if err := joined.flush(); err != nil {
			b.Fatal(err)
		}
	}
}

// bigTCP is a TCP packet of n bytes as the device hands it over, to be cut into
// segments of size bytes of payload.
func bigTCP(n, size int) (packet, vnet) {
	p := packet(make([]byte, n))
	copy(p, []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protoTCP, 0, 0, 10, 244, 1, 2, 10, 244, 2, 2})
	p.setLen()
	p.seal()
	t := p[20:]
	copy(t, []byte{0x9c, 0x40, 0x14, 0x51, 0, 0, 1, 0, 0, 0, 2, 0, 0x80, flagACK | flagPSH, 1, 0, 0, 0, 0, 0})
	copy(t[20:], []byte{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2}) // timestamps
	for i := range t[32:] {
		t[32+i] = byte(i * 7)
	}
	putSum(t[tcpSum:], fold(pseudo(p, len(t))))
	return p, vnet{
		flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, gso: unix.VIRTIO_NET_HDR_GSO_TCPV4,
		headerLen: 52, size: uint16(size), sumStart: 20, sumField: tcpSum,
	}
}
