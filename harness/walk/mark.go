package walk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
)

// mark is what the walk's packet and its answer are known by: the UUID in the
// payload, or, of a SYN, which has none, port and sequence number.
type mark struct {
	protocol string
	port     uint16
	source   uint16
	seq      uint32
	bytes    []byte
}

func (w *run) mark(id uuid.UUID) mark {
	m := mark{protocol: w.o.Protocol, port: uint16(w.o.Port), bytes: id[:]}
	if w.o.knocks() {
		k := probe.Knock{Protocol: w.o.Protocol, ID: id}
		m.source, m.seq = k.SourcePort(), k.Seq()
	}
	if w.o.Protocol == "tcp" {
		// As they follow each other in the header, and so in what ICMP quotes.
		m.bytes = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, m.port), m.seq)
	}
	return m
}

// in reports whether a frame holds the packet, or quotes it.
func (m *mark) in(frame []byte) bool { return bytes.Contains(frame, m.bytes) }

// Flags of TCP (RFC 9293 section 3.1).
const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

// kindOf says what the innermost headers are, of a frame that has the mark or
// not: an answer need not have it.
func (m *mark) kindOf(h *capture.Headers, marked bool) kind {
	switch {
	case m.protocol == "tcp" && h.Has(capture.LayerTCP):
		t := &h.TCP
		switch {
		case t.Dst == m.port && t.Seq == m.seq && t.Flags&flagSYN != 0:
			return request
		case t.Src == m.port && t.Ack == m.seq+1 && t.Flags&(flagSYN|flagRST) != 0:
			return reply
		}
	case m.protocol == "udp" && h.Has(capture.LayerUDP):
		switch {
		case marked && h.UDP.Dst == m.port:
			return request
		case h.UDP.Src == m.port && h.UDP.Dst == m.source:
			return reply
		}
	case marked && h.IsICMP():
		return m.icmp(h)
	}
	return other
}

// icmp is an echo, or an error that quotes the packet. That its port is
// unreachable, which only the destination says, is an answer.
func (m *mark) icmp(h *capture.Headers) kind {
	v6 := h.Has(capture.LayerICMPv6)
	if m.protocol != "icmp" {
		if t := h.ICMP; !v6 && t.Type == 3 && t.Code == 3 || v6 && t.Type == 1 && t.Code == 4 {
			return reply
		}
		return failure
	}
	kinds := map[uint8]kind{8: request, 0: reply}
	if v6 {
		kinds = map[uint8]kind{128: request, 129: reply}
	}
	if k := kinds[h.ICMP.Type]; k != other {
		return k
	}
	return failure
}

// transport is the header in words, where the packet is for a port.
func (m *mark) transport(h *capture.Headers) string {
	switch {
	case m.protocol == "tcp" && h.Has(capture.LayerTCP):
		var flags []string
		for _, f := range []struct {
			bit  uint8
			name string
		}{{flagSYN, "SYN"}, {flagRST, "RST"}, {flagACK, "ACK"}} {
			if h.TCP.Flags&f.bit != 0 {
				flags = append(flags, f.name)
			}
		}
		return fmt.Sprintf("TCP %d > %d, %s", h.TCP.Src, h.TCP.Dst, strings.Join(flags, "-"))
	case m.protocol == "udp" && h.Has(capture.LayerUDP):
		return fmt.Sprintf("UDP %d > %d", h.UDP.Src, h.UDP.Dst)
	case m.protocol != "icmp" && h.IsICMP():
		if m.icmp(h) == reply {
			return "ICMP port unreachable"
		}
		return fmt.Sprintf("ICMP %d/%d", h.ICMP.Type, h.ICMP.Code)
	}
	return ""
}
