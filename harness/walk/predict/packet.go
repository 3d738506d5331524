package predict

import (
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/topology"
)

// Packet is the packet that is sent.
type Packet struct {
	// Protocol is icmp for an echo request, tcp for a SYN, udp for a datagram;
	// Port is that of the latter two.
	Protocol string `json:"protocol"`
	Port     int    `json:"port,omitempty"`
	// Src is the source address; unset leaves it to the route.
	Src netip.Addr `json:"src,omitzero"`
	Dst netip.Addr `json:"dst"`
	TTL int        `json:"ttl"`
	// Size in bytes of the IP packet.
	Size int  `json:"size"`
	DF   bool `json:"df,omitempty"`
}

// Frame is a packet as it is at one interface.
type Frame struct {
	// The MACs are unset where there is no Ethernet header.
	SrcMAC topology.MAC `json:"srcMAC,omitzero"`
	DstMAC topology.MAC `json:"dstMAC,omitzero"`
	Src    netip.Addr   `json:"src"`
	Dst    netip.Addr   `json:"dst"`
	// TTL is 0 where it cannot be known.
	TTL int `json:"ttl,omitempty"`
	// Size in bytes of the IP packet, 0 where it cannot be known.
	Size int  `json:"size,omitempty"`
	DF   bool `json:"df,omitempty"`
	// Encap says how Inner is wrapped, where it is.
	Encap *Encap `json:"encap,omitempty"`
	Inner *Frame `json:"inner,omitempty"`
}

// Encap is an encapsulation.
type Encap struct {
	// Kind is vxlan, udp, ipip or wireguard.
	Kind string `json:"kind"`
	// Port is the destination port of the UDP datagram.
	Port int `json:"port,omitempty"`
	VNI  int `json:"vni,omitempty"`
}

func (e Encap) String() string {
	switch e.Kind {
	case "vxlan":
		return fmt.Sprintf("VXLAN vni %d, UDP port %d", e.VNI, e.Port)
	case "ipip":
		return "IP in IP"
	}
	return fmt.Sprintf("%s, UDP port %d", e.Kind, e.Port)
}

// Hidden reports whether what is inside is encrypted.
func (f *Frame) Hidden() bool { return f.Encap != nil && f.Encap.Kind == "wireguard" }

// wrap puts the frame into another.
func (f *Frame) wrap(src, dst netip.Addr, ttl, overhead int, e Encap) *Frame {
	inner := *f
	size := f.Size + overhead
	if f.Size == 0 {
		size = 0 // it cannot be known
	}
	return &Frame{Src: src, Dst: dst, TTL: ttl, Size: size, Encap: &e, Inner: &inner}
}

// Direction says which way a frame passes an interface, seen from its
// namespace.
type Direction string

// The directions.
const (
	In  Direction = "in"
	Out Direction = "out"
)

// A Decision is something in a namespace's state that decided on the way.
type Decision struct {
	// Kind is route, neighbour, fdb, link, vxlan, lease or sysctl.
	Kind string `json:"kind"`
	// Entry is the entry itself, in the syntax of ip(8) or bridge(8).
	Entry string `json:"entry"`
}

// A Hop is an interface that the packet passes.
type Hop struct {
	Space     string    `json:"space"`
	Interface string    `json:"interface"`
	Direction Direction `json:"direction"`
	// Does says what happens there.
	Does string `json:"does"`
	// Decisions are what led here, in the order in which they were taken.
	Decisions []Decision `json:"decisions,omitempty"`
	Frame     Frame      `json:"frame"`
}

// Tap is the name of the place, as capture has it.
func (h *Hop) Tap() string { return h.Space + ":" + h.Interface }

// A Path is where a packet goes.
type Path struct {
	Hops []Hop `json:"hops"`
	// End is the name of the namespace that the packet ends in.
	End string `json:"end"`
	// Arrived is the packet as the end takes it; nil if none does.
	Arrived *Frame `json:"arrived,omitempty"`
	// Drop says why it does not arrive.
	Drop *Drop `json:"drop,omitempty"`
	// Astray is the first entry that leads elsewhere than it ought to, also
	// where the packet arrives by a detour.
	Astray *Drop `json:"astray,omitempty"`

	translated []translation
	sent       Packet
}

// A Drop is the reason for which a packet ends on its way.
type Drop struct {
	// Space and Interface are where.
	Space     string `json:"space"`
	Interface string `json:"interface,omitempty"`
	// Cause is what is wrong there, and what the kernel does about it.
	Cause string `json:"cause"`
	// Mend is what would mend it, a command where there is one, and On the
	// namespace that it is for.
	Mend string `json:"mend,omitempty"`
	On   string `json:"on,omitempty"`
	// Decisions are what was decided since the last hop.
	Decisions []Decision `json:"decisions,omitempty"`
}

// translation is a masqueraded flow.
type translation struct {
	space         string
	was, now, dst netip.Addr
}
