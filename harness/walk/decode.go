package walk

import (
	"bytes"
	"net/netip"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/walk/predict"
)

// kind is what a frame of the walk is.
type kind int

const (
	other kind = iota
	request
	reply
	failure // an ICMP error that quotes the packet
)

// sighted is one frame of one tap, read.
type sighted struct {
	capture.Frame
	at       place
	kind     kind
	seq      uint16
	frame    predict.Frame
	srcPort  uint16
	fragment bool
	marked   bool
	icmp     capture.ICMP
	from     netip.Addr
	// wireguard says that it is a message of WireGuard that carries a packet.
	wireguard bool
}

// reader reads frames.
type reader struct {
	id uuid.UUID
	// ports are the UDP ports of VXLAN; tunnel is that of the backend udp, 0
	// for others.
	ports  []uint16
	tunnel uint16
}

// etherIPv4 stands in for the header that a bare frame lacks.
var etherIPv4 = append(make([]byte, 12), 0x08, 0x00)

func (r *reader) read(at place, f capture.Frame) sighted {
	if at.bare {
		f.Data = append(bytes.Clone(etherIPv4), f.Data...)
	}
	s := sighted{Frame: f, at: at, marked: f.Contains(r.id)}
	var p capture.Packet
	for _, port := range r.ports {
		if p = f.Decode(port); p.Encapsulated() {
			break
		}
	}
	inner := &p.Headers
	s.frame = headers(&p.Headers)
	s.srcPort = p.UDP.Src
	s.fragment = p.IP.MF || p.IP.Offset != 0
	switch {
	case p.Encapsulated():
		inner = &p.Inner
		s.wrap(inner, predict.Encap{Kind: "vxlan", Port: int(p.UDP.Dst), VNI: int(p.VXLAN.VNI)})
	case p.Has(capture.LayerIPIP):
		inner = &p.Inner
		s.wrap(inner, predict.Encap{Kind: "ipip"})
	case r.tunnel != 0 && p.Has(capture.LayerUDP) && p.UDP.Dst == r.tunnel:
		q := capture.Decode(append(bytes.Clone(etherIPv4), p.Payload...), 0)
		inner = &q.Headers
		inner.Eth = capture.Ethernet{}
		s.wrap(inner, predict.Encap{Kind: "udp", Port: int(p.UDP.Dst)})
	default:
		if m, ok := p.WireGuard(); ok && m.Carries() {
			s.wireguard = true
			s.frame.Encap = &predict.Encap{Kind: "wireguard", Port: int(p.UDP.Dst)}
		}
	}
	s.icmp, s.from = inner.ICMP, inner.IP.Src
	s.seq = inner.ICMP.Seq
	if s.marked && inner.Has(capture.LayerICMP) {
		s.kind = map[uint8]kind{8: request, 0: reply}[inner.ICMP.Type]
		if s.kind == other {
			s.kind = failure
		}
	}
	return s
}

func (s *sighted) wrap(inner *capture.Headers, e predict.Encap) {
	f := headers(inner)
	s.frame.Encap, s.frame.Inner = &e, &f
	s.fragment = s.fragment || inner.IP.MF || inner.IP.Offset != 0
}

func headers(h *capture.Headers) predict.Frame {
	f := predict.Frame{SrcMAC: h.Eth.Src, DstMAC: h.Eth.Dst}
	if h.Has(capture.LayerIPv4) {
		f.Src, f.Dst, f.TTL, f.Size, f.DF = h.IP.Src, h.IP.Dst, int(h.IP.TTL), h.IP.Length, h.IP.DF
	}
	return f
}
