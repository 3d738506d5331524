package relay

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// coalescer joins the packets of one buffer, which come one after the other,
// where they are consecutive segments of one TCP stream, into packets that the
// kernel takes as one. It does what the kernel's generic receive offload does,
// by the same rules (net/ipv4/tcp_offload.c): what it joins, the other end of a
// path can cut into the same packets again.
type coalescer struct {
	buf   []byte
	write func(b []byte) error

	start, end int // the packet that is being joined; end is 0 without one
	segments   int
	header     int // the length of its headers
	size       int // of the first segment's payload
	open       bool
	checked    bool // the first one's checksum is right
}

// add takes the packet at buf[from:to]. There must be vnetLen bytes before it
// that nobody needs any more, such as those of packets added before.
func (c *coalescer) add(from, to int) error {
	if c.end != 0 && c.join(from, to) {
		return nil
	}
	err := c.flush()
	p := packet(c.buf[from:to])
	c.start, c.end, c.segments, c.checked = from, to, 1, false
	c.header, c.open = tcpHeaders(p)
	c.size = len(p) - c.header
	return err
}

// tcpHeaders is the length of the headers of a segment that others may follow.
func tcpHeaders(p packet) (n int, ok bool) {
	ip := p.headerLen()
	if p[9] != protoTCP || p.fragment() || len(p) < ip+tcpHeaderLen {
		return 0, false
	}
	t := p[ip:]
	n = ip + int(t[tcpOffset]>>4)*4
	return n, n >= ip+tcpHeaderLen && n < len(p) && t[tcpFlags] == flagACK
}

// join appends the packet's payload to the present one, if it continues it.
func (c *coalescer) join(from, to int) bool {
	head, p := packet(c.buf[c.start:c.end]), packet(c.buf[from:to])
	ip := head.headerLen()
	if !c.open || len(p) <= c.header || len(p)-c.header > c.size || len(head)+len(p)-c.header > 65535 || !c.continues(head, p, ip) {
		return false
	}
	if !c.checked && !validTCP(packet(head), ip) || !validTCP(p, ip) {
		c.open = false
		return false
	}
	c.checked = true
	if p[ip+tcpFlags]&flagPSH != 0 {
		head[ip+tcpFlags] |= flagPSH
		c.open = false
	}
	c.open = c.open && len(p)-c.header == c.size
	c.end += copy(c.buf[c.end:], p[c.header:])
	c.segments++
	return true
}

// continues reports whether p has the headers of the segment that comes next.
func (c *coalescer) continues(head, p packet, ip int) bool {
	h, t := head[ip:c.header], p[ip:c.header]
	switch {
	case !bytes.Equal(head[:2], p[:2]), // version, length, DSCP and ECN
		!bytes.Equal(head[6:10], p[6:10]),        // flags, TTL, protocol
		!bytes.Equal(head[12:ip], p[12:ip]),      // addresses, options
		!bytes.Equal(h[:tcpSeq], t[:tcpSeq]),     // ports
		!bytes.Equal(h[tcpAck:13], t[tcpAck:13]), // acknowledgement, length
		t[tcpFlags]&^flagPSH != flagACK,
		!bytes.Equal(h[14:16], t[14:16]),                     // window
		!bytes.Equal(h[tcpHeaderLen-2:], t[tcpHeaderLen-2:]): // urgent, options
		return false
	case !head.dontFragment() && binary.BigEndian.Uint16(p[4:]) != binary.BigEndian.Uint16(head[4:])+uint16(c.segments):
		return false // it could not be cut with the same identification
	}
	return binary.BigEndian.Uint32(t[tcpSeq:]) == binary.BigEndian.Uint32(h[tcpSeq:])+uint32(len(head)-c.header)
}

// validTCP checks the checksums, which nobody does for packets that are joined.
func validTCP(p packet, ip int) bool {
	return fold(sum(p[:ip], 0)) == 0xffff && fold(sum(p[ip:], pseudo(p, len(p)-ip))) == 0xffff
}

// flush writes the present packet.
func (c *coalescer) flush() error {
	if c.end == 0 {
		return nil
	}
	p := packet(c.buf[c.start:c.end])
	var v vnet
	if c.segments > 1 {
		ip := p.headerLen()
		p.setLen()
		p.seal()
		putSum(p[ip+tcpSum:], fold(pseudo(p, len(p)-ip))) // the kernel adds the rest
		v = vnet{
			flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, gso: unix.VIRTIO_NET_HDR_GSO_TCPV4,
			headerLen: uint16(c.header), size: uint16(c.size), sumStart: uint16(ip), sumField: tcpSum,
		}
	}
	b := c.buf[c.start-vnetLen : c.end]
	c.end = 0
	v.write(b)
	return c.write(b)
}
