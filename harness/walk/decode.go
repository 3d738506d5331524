package walk

import (
	"net/netip"

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
	// transport is the header behind that of IP, in words; empty for an echo.
	transport string
	// wireguard says that it is a message of WireGuard that carries a packet.
	wireguard bool
}

// reader reads frames.
type reader struct {
	mark
	// ports are the UDP ports of VXLAN; tunnel is that of the backend udp, 0
	// for others.
	ports  []uint16
	tunnel uint16
}

// ethernet puts a header before a packet that lacks one.
func ethernet(packet []byte) []byte {
	header := append(make([]byte, 12), 0x08, 0x00)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		header = append(header[:12], 0x86, 0xdd)
	}
	return append(header, packet...)
}

func (r *reader) read(at place, f capture.Frame) sighted {
	if at.bare {
		f.Data = ethernet(f.Data)
	}
	s := sighted{Frame: f, at: at, marked: r.in(f.Data)}
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
		q := capture.Decode(ethernet(p.Payload), 0)
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
	s.kind = r.kindOf(inner, s.marked)
	s.marked = s.marked || s.kind == reply
	s.transport = r.transport(inner)
	return s
}

func (s *sighted) wrap(inner *capture.Headers, e predict.Encap) {
	f := headers(inner)
	s.frame.Encap, s.frame.Inner = &e, &f
	s.fragment = s.fragment || inner.IP.MF || inner.IP.Offset != 0
}

func headers(h *capture.Headers) predict.Frame {
	f := predict.Frame{SrcMAC: h.Eth.Src, DstMAC: h.Eth.Dst}
	if h.IsIP() {
		f.Src, f.Dst, f.TTL, f.Size, f.DF = h.IP.Src, h.IP.Dst, int(h.IP.TTL), h.IP.Length, h.IP.DF
	}
	return f
}
