package identify

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Wire is what a pod's echo request was in when it left its node.
type Wire struct {
	// Type is vxlan, host-gw for a bare packet, ipip, udp for a whole packet in a
	// datagram, wireguard or ipsec; empty where it is none of these or nothing
	// was seen.
	Type string
	// Says is what was seen, or why nothing was.
	Says string
	// VNI and Port are those of VXLAN.
	VNI, Port int
}

const (
	// wireWait is how long an echo may take, wireTries how many are sent.
	wireWait  = time.Second
	wireTries = 3
	// wireSentinel is how long the capture's end may take.
	wireSentinel = 3 * time.Second
)

// wire pings from a pod to one of another node, and looks at the request as it
// leaves.
func (l *look) wire(ctx context.Context) (Wire, error) {
	from, to := l.pair()
	if from == nil {
		return Wire{Says: "no two nodes have pods"}, nil
	}
	src, dst := l.plan.Node(from.Node), l.plan.Node(to.Node)
	tap, err := l.tap(ctx, src)
	if err != nil {
		return Wire{}, err
	}
	defer func() { _ = tap.Close() }() // it has seen what there was
	id := uuid.New()
	pong, err := l.sessions[from.Name].Ping(ctx, probe.Ping{Dst: to.Address.Addr(), ID: id, Wait: wireWait, Tries: wireTries})
	if err != nil {
		return Wire{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, wireSentinel)
	defer cancel()
	frames, _, err := tap.Collect(waiting)
	if err != nil {
		return Wire{}, err
	}
	w := read(frames, id, dst)
	at := fmt.Sprintf("%s:%s", src.Name, src.Agent.Underlay)
	switch {
	case w.Says != "":
		w.Says += " at " + at
	case !pong.Answered():
		w.Says = fmt.Sprintf("%s at %s: %s from %s to %s", "nothing", at, pong.String(), from.Name, to.Name)
	default:
		w.Says = fmt.Sprintf("nothing at %s, though %s was answered by %s", at, from.Name, to.Name)
	}
	return w, ctx.Err()
}

// pair are two pods of two nodes, of two segments where there are several.
func (l *look) pair() (from, to *topology.Pod) {
	for i := range l.plan.Pods {
		for j := range l.plan.Pods {
			a, b := &l.plan.Pods[i], &l.plan.Pods[j]
			if a.Node == b.Node {
				continue
			}
			apart := l.plan.Node(a.Node).Interfaces[0].Segment != l.plan.Node(b.Node).Interfaces[0].Segment
			if from == nil || apart {
				from, to = a, b
			}
			if apart {
				return from, to
			}
		}
	}
	return from, to
}

func (l *look) tap(ctx context.Context, n *topology.Node) (*capture.Tap, error) {
	const ipip, esp = 4, 50
	f := filter.ICMP().Or(filter.UDP()).Or(filter.Protocol(ipip)).Or(filter.Protocol(esp))
	o := capture.Options{Interface: n.Agent.Underlay, Filter: f, Ring: capture.Ring{BlockSize: 64 << 10, Blocks: 32, Retire: 2 * time.Millisecond}}
	if s := l.sessions[n.Name]; s.Peer() != nil {
		return capture.OpenIn(ctx, s, o)
	}
	ns, err := l.lab.Namespace(n.Name)
	if err != nil {
		return nil, err
	}
	return capture.Open(ns, o)
}

// read looks for the marked request, and where it is not to be read for what
// could hide it.
func read(frames []capture.Frame, id uuid.UUID, dst *topology.Node) Wire {
	var hidden Wire
	for i := range frames {
		f := &frames[i]
		if f.Direction != capture.Out {
			continue
		}
		outer := f.Decode(0)
		d := f.Decode(outer.UDP.Dst)
		if f.Contains(id) {
			return carried(&d, dst)
		}
		if d.IP.Dst != dst.Interfaces[0].Address.Addr() {
			continue
		}
		const esp = 50
		if g, ok := d.WireGuard(); ok && g.Valid() {
			hidden = Wire{Type: "wireguard", Port: int(d.UDP.Dst), Says: fmt.Sprintf("WireGuard, port %d", d.UDP.Dst)}
		} else if d.IP.Protocol == esp {
			hidden = Wire{Type: "ipsec", Says: "ESP"}
		}
	}
	return hidden
}

// carried says what a packet is in.
func carried(d *capture.Packet, dst *topology.Node) Wire {
	switch {
	case d.Encapsulated():
		return Wire{Type: "vxlan", VNI: int(d.VXLAN.VNI), Port: int(d.UDP.Dst), Says: fmt.Sprintf("VXLAN, VNI %d, port %d", d.VXLAN.VNI, d.UDP.Dst)}
	case d.Has(capture.LayerIPIP):
		return Wire{Type: "ipip", Says: "IP in IP"}
	case d.Has(capture.LayerRawIP):
		return Wire{Type: "udp", Port: int(d.UDP.Dst), Says: fmt.Sprintf("a whole packet in UDP, port %d", d.UDP.Dst)}
	case d.Has(capture.LayerUDP):
		return Wire{Port: int(d.UDP.Dst), Says: fmt.Sprintf("something unknown in UDP, port %d", d.UDP.Dst)}
	case d.IsICMP() && d.Eth.Dst == dst.Interfaces[0].MAC:
		return Wire{Type: "host-gw", Says: "bare packets, straight to the node"}
	case d.IsICMP():
		return Wire{Says: fmt.Sprintf("bare packets, by way of %s", d.Eth.Dst)}
	}
	return Wire{Says: fmt.Sprintf("IP protocol %d", d.IP.Protocol)}
}
