package relay

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plainSum is RFC 1071's sum as it is written there.
func plainSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func TestSum(t *testing.T) {
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		var got [2]byte
		putSum(got[:], fold(sum(b, 0)))
		if want := plainSum(b); binary.BigEndian.Uint16(got[:]) != want && n > 0 {
			t.Errorf("%d bytes: %#x, not %#x", n, got, want)
		}
	}
}

// TestHop: the header's checksum stays true for every TTL and checksum.
func TestHop(t *testing.T) {
	p, _ := bigTCP(60, 10)
	for id := range 65536 {
		binary.BigEndian.PutUint16(p[4:], uint16(id))
		p[8] = byte(id%255) + 1
		p.seal()
		before := p.ttl()
		p.hop()
		if p.ttl() != before-1 || fold(sum(p[:20], 0)) != 0xffff {
			t.Fatalf("TTL %d of packet %d: the checksum is wrong", before, id)
		}
	}
}

func TestParse(t *testing.T) {
	p, _ := bigTCP(100, 10)
	if got, ok := parse(append(bytes.Clone(p), 1, 2, 3)); !ok || len(got) != 100 {
		t.Errorf("what is behind the packet is not cut off: %d, %v", len(got), ok)
	}
	for name, change := range map[string]func([]byte) []byte{
		"empty":            func([]byte) []byte { return nil },
		"IPv6":             func(b []byte) []byte { b[0] = 0x60; return b },
		"cut short":        func(b []byte) []byte { return b[:99] },
		"no header":        func(b []byte) []byte { return b[:19] },
		"short header":     func(b []byte) []byte { b[0] = 0x44; return b },
		"header above all": func(b []byte) []byte { b[0], b[2], b[3] = 0x4f, 0, 59; return b },
	} {
		if _, ok := parse(change(bytes.Clone(p))); ok {
			t.Error(name + " is taken for a packet")
		}
	}
}

// TestSegments: every piece is a whole packet with the right checksums, and the
// payloads are the original's; joined again, they are the original.
func TestSegments(t *testing.T) {
	for _, c := range []struct{ length, size int }{{1500, 1420}, {52 + 2840, 1420}, {65535, 1420}, {52 + 1, 1}, {4000, 536}} {
		p, v := bigTCP(c.length, c.size)
		original := bytes.Clone(p)
		all, size, err := segment(make([]byte, 3*largest), p, v)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		var payload []byte
		pieces := 0
		for b := all; len(b) > 0; b = b[min(size, len(b)):] {
			s, ok := parse(b[:min(size, len(b))])
			if !ok || len(s) != min(size, len(b)) || !validTCP(s, 20) {
				t.Fatalf("%+v: piece %d is not whole", c, pieces)
			}
			if seq := binary.BigEndian.Uint32(s[24:]); seq != 256+uint32(pieces*c.size) {
				t.Errorf("%+v: piece %d has the sequence number %d", c, pieces, seq)
			}
			if last := len(b) <= size; (s[33]&flagPSH != 0) != last {
				t.Errorf("%+v: piece %d has the flags %#x", c, pieces, s[33])
			}
			payload = append(payload, s[52:]...)
			pieces++
		}
		if !bytes.Equal(payload, original[52:]) {
			t.Errorf("%+v: the payload has changed", c)
		}
		written := joinAll(t, all, size)
		if len(written) != 1 {
			t.Errorf("%+v: joined to %d packets", c, len(written))
			continue
		}
		got := readVnet(written[0])
		if pieces > 1 && got != v {
			t.Errorf("%+v: described as %+v, not %+v", c, got, v)
		}
		if pieces > 1 && !bytes.Equal(written[0][vnetLen:], original) {
			t.Errorf("%+v: cut and joined, it is another packet", c)
		}
	}
}

// joinAll returns what is written of packets that were received in one buffer.
func joinAll(t *testing.T, all []byte, size int) [][]byte {
	t.Helper()
	buf := append(make([]byte, vnetLen), all...)
	var written [][]byte
	joined := coalescer{buf: buf, write: func(b []byte) error {
		written = append(written, bytes.Clone(b))
		return nil
	}}
	var err error
	for from := vnetLen; from < len(buf); from += size {
		err = errors.Join(err, joined.add(from, min(from+size, len(buf))))
	}
	if err = errors.Join(err, joined.flush()); err != nil {
		t.Fatal(err)
	}
	return written
}

// TestNotJoined: what is not the next segment of the same stream, or is wrong,
// passes as it is.
func TestNotJoined(t *testing.T) {
	const size, piece = 1000, 1052
	reseal := func(p packet) {
		p.seal()
		putSum(p[36:], 0)
		putSum(p[36:], ^fold(sum(p[20:], pseudo(p, len(p)-20))))
	}
	for name, change := range map[string]func(second packet){
		"nothing":                func(packet) {},
		"wrong TCP checksum":     func(p packet) { p[900] ^= 1 },
		"wrong header checksum":  func(p packet) { p[10] ^= 1 },
		"another port":           func(p packet) { p[21]++; reseal(p) },
		"another source":         func(p packet) { p[15]++; reseal(p) },
		"a gap":                  func(p packet) { p[27]++; reseal(p) },
		"another acknowledgment": func(p packet) { p[31]++; reseal(p) },
		"another window":         func(p packet) { p[35]++; reseal(p) },
		"another timestamp":      func(p packet) { p[47]++; reseal(p) },
		"another TTL":            func(p packet) { p[8]--; reseal(p) },
		"congestion experienced": func(p packet) { p[1] |= 3; reseal(p) },
		"FIN":                    func(p packet) { p[33] |= flagFIN; reseal(p) },
		"a fragment":             func(p packet) { p[6] = 0x20; reseal(p) },
		"UDP":                    func(p packet) { p[9] = protoUDP; reseal(p) },
	} {
		p, v := bigTCP(52+3*size, size)
		all, _, err := segment(make([]byte, 3*largest), p, v)
		if err != nil {
			t.Fatal(err)
		}
		change(packet(all[piece : 2*piece]))
		original := bytes.Clone(all)
		written := joinAll(t, all, piece)
		if name == "nothing" {
			if len(written) != 1 {
				t.Errorf("%s: %d packets", name, len(written))
			}
			continue
		}
		if len(written) < 2 || len(written) > 3 || !bytes.Equal(written[1][vnetLen:], original[piece:2*piece]) && len(written) == 3 {
			t.Errorf("%s: %d packets, or the second has changed", name, len(written))
		}
	}
}

// TestSegmentUDP: a large datagram of a pod becomes several.
func TestSegmentUDP(t *testing.T) {
	p := packet(make([]byte, 28+2500))
	copy(p, []byte{0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, protoUDP, 0, 0, 10, 244, 1, 2, 10, 244, 2, 2, 0, 7, 0, 7})
	p.setLen()
	p.seal()
	all, size, err := segment(make([]byte, 3*largest), p, vnet{gso: unix.VIRTIO_NET_HDR_GSO_UDP_L4, size: 1000})
	if err != nil || size != 1028 || len(all) != 2500+3*28 {
		t.Fatalf("%d bytes in pieces of %d: %v", len(all), size, err)
	}
	for b := all; len(b) > 0; b = b[min(size, len(b)):] {
		s, ok := parse(b[:min(size, len(b))])
		if !ok || binary.BigEndian.Uint16(s[24:]) != uint16(len(s)-20) || fold(sum(s[20:], pseudo(s, len(s)-20))) != 0xffff {
			t.Error("a piece is not whole")
		}
	}
}

// TestFinish: a checksum that the kernel has begun is completed.
func TestFinish(t *testing.T) {
	p, v := bigTCP(500, 448)
	v.gso, v.size = unix.VIRTIO_NET_HDR_GSO_NONE, 0
	all, size, err := segment(nil, p, v)
	if err != nil || size != 500 || !validTCP(packet(all), 20) {
		t.Errorf("%d bytes: %v", size, err)
	}
}

// TestSegmentRefuses: what the description does not fit is refused, and never
// read past its end.
func TestSegmentRefuses(t *testing.T) {
	p, v := bigTCP(3000, 1420)
	for name, change := range map[string]func(packet, *vnet){
		"no size":         func(_ packet, v *vnet) { v.size = 0 },
		"another kind":    func(_ packet, v *vnet) { v.gso = unix.VIRTIO_NET_HDR_GSO_TCPV6 },
		"not TCP":         func(p packet, _ *vnet) { p[9] = protoUDP },
		"not UDP":         func(_ packet, v *vnet) { v.gso = unix.VIRTIO_NET_HDR_GSO_UDP_L4 },
		"short header":    func(p packet, _ *vnet) { p[32] = 0x40 },
		"checksum beyond": func(_ packet, v *vnet) { v.gso, v.sumStart = unix.VIRTIO_NET_HDR_GSO_NONE, 2999 },
		"too many":        func(_ packet, v *vnet) { v.size = 1 },
	} {
		q, w := packet(bytes.Clone(p)), v
		change(q, &w)
		if _, _, err := segment(make([]byte, 3*1500), q, w); !errors.Is(err, errOffload) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTable(t *testing.T) {
	read := func(text string) (*table, error) { return readTable(json.RawMessage(text)) }
	table, err := read(`{"subnet":"10.244.1.0/24","peers":[{"subnet":"10.244.9.0/24","node":"172.16.1.9"},{"subnet":"10.244.2.0/24","node":"172.16.1.2"},{"subnet":"10.244.4.0/22","node":"172.16.1.4"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	for pod, want := range map[string]string{
		"10.244.2.0": "172.16.1.2", "10.244.2.255": "172.16.1.2", "10.244.7.9": "172.16.1.4", "10.244.9.1": "172.16.1.9",
		"10.244.1.1": "", "10.244.3.1": "", "10.244.8.0": "", "10.244.10.0": "", "1.1.1.1": "",
	} {
		if got, ok := table.node(netip.MustParseAddr(pod)); ok != (want != "") || ok && got.String() != want {
			t.Errorf("%s is at %s, not %q", pod, got, want)
		}
	}
	for text, want := range map[string]string{
		`7`:                      "read the peers",
		`{}`:                     "is not an IPv4 one",
		`{"subnet":"fd00::/64"}`: "is not an IPv4 one",
		`{"subnet":"10.1.0.0/24","peers":[{"subnet":"10.2.0.0/24","node":"fd00::1"}]}`:                                           "is not IPv4",
		`{"subnet":"10.1.0.0/24","peers":[{"subnet":"10.2.0.0/24","node":"1.1.1.1"},{"subnet":"10.2.0.0/16","node":"1.1.1.1"}]}`: "overlaps",
	} {
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, not %q", text, err, want)
		}
	}
}

// TestReportable: ICMP errors are about packets that one machine has sent to
// one machine, and never about ICMP errors.
func TestReportable(t *testing.T) {
	for name, c := range map[string]struct {
		change func(packet)
		want   bool
	}{
		"TCP":                 {func(packet) {}, true},
		"echo request":        {func(p packet) { p[9], p[20] = protoICMP, 8 }, true},
		"unreachable":         {func(p packet) { p[9], p[20] = protoICMP, 3 }, false},
		"time exceeded":       {func(p packet) { p[9], p[20] = protoICMP, 11 }, false},
		"redirect":            {func(p packet) { p[9], p[20] = protoICMP, 5 }, false},
		"first fragment":      {func(p packet) { p[6] = 0x20 }, true},
		"later fragment":      {func(p packet) { p[7] = 9 }, false},
		"to a group":          {func(p packet) { p[16] = 224 }, false},
		"to everybody":        {func(p packet) { copy(p[16:], []byte{255, 255, 255, 255}) }, false},
		"from nobody":         {func(p packet) { copy(p[12:], []byte{0, 0, 0, 0}) }, false},
		"from loopback":       {func(p packet) { p[12] = 127 }, false},
		"from a reserved one": {func(p packet) { p[12] = 250 }, false},
	} {
		p, _ := bigTCP(100, 10)
		c.change(p)
		if got := reportable(p); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestICMPError(t *testing.T) {
	p, _ := bigTCP(1400, 1000)
	var buf [errorLen]byte
	e := icmpError(buf[:], netip.MustParseAddr("10.244.1.0"), fragmentationNeeded, 1480, p)
	if got, ok := parse(e); !ok || len(got) != errorLen {
		t.Fatalf("it is not one packet of %d bytes: %d", errorLen, len(got))
	}
	if e.src().String() != "10.244.1.0" || e.dst() != p.src() || fold(sum(e[:20], 0)) != 0xffff || fold(sum(e[20:], 0)) != 0xffff {
		t.Errorf("from %s to %s, or a wrong checksum", e.src(), e.dst())
	}
	if e[20] != 3 || e[21] != 4 || binary.BigEndian.Uint16(e[26:]) != 1480 || !bytes.Equal(e[28:], p[:errorLen-28]) {
		t.Error("type, code, MTU or the packet that it quotes are wrong")
	}
}

func TestErrorRate(t *testing.T) {
	now := time.Now()
	r := reporter{credit: errorBurst, settled: now}
	sent := 0
	for range 1000 {
		if r.allowed(now) {
			sent++
		}
	}
	if sent != errorBurst || !r.allowed(now.Add(time.Millisecond)) || r.allowed(now.Add(time.Millisecond)) {
		t.Errorf("%d errors at once", sent)
	}
}

// TestECN: congestion that is met in the tunnel is told of inside, and never
// to a sender that would not understand (RFC 6040).
func TestECN(t *testing.T) {
	for inner, want := range map[byte]byte{0: 0, 1: 1, 2: 2, 3: 2, 0xb9: 1, 0xb8: 0} {
		if got := outerECN(inner); got != want {
			t.Errorf("inner TOS %#x: outer %#x, not %#x", inner, got, want)
		}
	}
	for _, c := range []struct {
		outer, inner, want byte
		ok                 bool
	}{{0, 0, 0, true}, {1, 2, 2, true}, {3, 0xb8, 0xb8, false}, {3, 2, 3, true}, {3, 0xb9, 0xbb, true}, {3, 3, 3, true}, {0, 3, 3, true}} {
		p, _ := bigTCP(60, 10)
		p[1] = c.inner
		p.seal()
		if ok := takeECN(c.outer, p); ok != c.ok || p[1] != c.want || fold(sum(p[:20], 0)) != 0xffff {
			t.Errorf("outer %#x, inner %#x: %#x, %v", c.outer, c.inner, p[1], ok)
		}
	}
}
