package relay

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// vnetLen is the length of a virtio_net_hdr in bytes.
const vnetLen = 10

// vnet is the virtio_net_hdr (linux/virtio_net.h) before a packet of the
// device: what is left to do for a packet that the kernel has not cut to the
// MTU, or not summed.
type vnet struct {
	flags, gso         byte
	headerLen, size    uint16
	sumStart, sumField uint16
}

func readVnet(b []byte) vnet {
	return vnet{
		flags: b[0], gso: b[1], headerLen: binary.NativeEndian.Uint16(b[2:]), size: binary.NativeEndian.Uint16(b[4:]),
		sumStart: binary.NativeEndian.Uint16(b[6:]), sumField: binary.NativeEndian.Uint16(b[8:]),
	}
}

func (v vnet) write(b []byte) {
	b[0], b[1] = v.flags, v.gso
	binary.NativeEndian.PutUint16(b[2:], v.headerLen)
	binary.NativeEndian.PutUint16(b[4:], v.size)
	binary.NativeEndian.PutUint16(b[6:], v.sumStart)
	binary.NativeEndian.PutUint16(b[8:], v.sumField)
}

// Offsets in a TCP header.
const (
	tcpSeq, tcpAck       = 4, 8
	tcpOffset, tcpFlags  = 12, 13
	tcpSum, tcpHeaderLen = 16, 20

	flagFIN, flagPSH, flagACK, flagCWR = 0x01, 0x08, 0x10, 0x80

	udpLength, udpSum, udpHeaderLen = 4, 6, 8
)

var errOffload = errors.New("the kernel's description of a packet does not fit it")

// segment finishes what the kernel has left to do for a packet. The result is
// one packet, or several back to back, of size bytes each but the last, which
// may be shorter; in out, or where the packet is. out must have room for three
// times 65535 bytes.
func segment(out []byte, p packet, v vnet) (all []byte, size int, err error) {
	switch v.gso &^ unix.VIRTIO_NET_HDR_GSO_ECN {
	case unix.VIRTIO_NET_HDR_GSO_NONE:
		return p, len(p), finish(p, v)
	case unix.VIRTIO_NET_HDR_GSO_TCPV4:
		return segmentTCP(out, p, int(v.size))
	case unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		return segmentUDP(out, p, int(v.size))
	}
	return nil, 0, fmt.Errorf("%w: kind %d of segmentation", errOffload, v.gso)
}

// finish completes a checksum of which the kernel has summed the pseudo-header.
func finish(p packet, v vnet) error {
	if v.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 {
		return nil
	}
	start, field := int(v.sumStart), int(v.sumStart)+int(v.sumField)
	if start > len(p) || field+2 > len(p) {
		return errOffload
	}
	total := ^fold(sum(p[start:], 0))
	if total == 0 && p[9] == protoUDP {
		total = 0xffff // 0 would be "none" (RFC 768)
	}
	putSum(p[field:], total)
	return nil
}

func segmentTCP(out []byte, p packet, size int) (all []byte, each int, err error) {
	ip := p.headerLen()
	if p[9] != protoTCP || len(p) < ip+tcpHeaderLen {
		return nil, 0, errOffload
	}
	header := ip + int(p[ip+tcpOffset]>>4)*4
	if header < ip+tcpHeaderLen || header > len(p) || !fits(out, len(p), header, size) {
		return nil, 0, errOffload
	}
	seq, flags := binary.BigEndian.Uint32(p[ip+tcpSeq:]), p[ip+tcpFlags]
	n := cut(out, p, header, size, func(s packet, offset int, last bool) {
		t := s[ip:]
		binary.BigEndian.PutUint32(t[tcpSeq:], seq+uint32(offset))
		f := flags
		if !last {
			f &^= flagFIN | flagPSH
		}
		if offset > 0 {
			f &^= flagCWR
		}
		t[tcpFlags] = f
		putSum(t[tcpSum:], 0)
		putSum(t[tcpSum:], ^fold(sum(t, pseudo(s, len(t)))))
	})
	return out[:n], header + size, nil
}

func segmentUDP(out []byte, p packet, size int) (all []byte, each int, err error) {
	ip := p.headerLen()
	header := ip + udpHeaderLen
	if p[9] != protoUDP || len(p) < header || !fits(out, len(p), header, size) {
		return nil, 0, errOffload
	}
	n := cut(out, p, header, size, func(s packet, _ int, _ bool) {
		u := s[ip:]
		binary.BigEndian.PutUint16(u[udpLength:], uint16(len(u)))
		putSum(u[udpSum:], 0)
		total := ^fold(sum(u, pseudo(s, len(u))))
		if total == 0 {
			total = 0xffff
		}
		putSum(u[udpSum:], total)
	})
	return out[:n], header + size, nil
}

// fits reports whether a packet in pieces of size bytes of payload has room.
func fits(out []byte, length, header, size int) bool {
	return size > 0 && length+(length/size+1)*header <= len(out)
}

// cut writes the pieces of a packet, each with its headers, and lets finish
// complete those behind the IP header. It returns the length of all.
func cut(out []byte, p packet, header, size int, finish func(s packet, offset int, last bool)) int {
	id, n := binary.BigEndian.Uint16(p[4:]), 0
	payload := p[header:]
	for offset := 0; offset < len(payload); offset += size {
		piece := payload[offset:min(offset+size, len(payload))]
		s := packet(out[n : n+header+len(piece)])
		copy(s, p[:header])
		copy(s[header:], piece)
		s.setLen()
		binary.BigEndian.PutUint16(s[4:], id)
		s.seal()
		finish(s, offset, offset+size >= len(payload))
		id++
		n += len(s)
	}
	return n
}
