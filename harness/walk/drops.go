package walk

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/trace"
)

// tracing is a trace that is being opened, which costs more than half a walk:
// it is for those only that go wrong.
type tracing struct {
	ready  chan struct{}
	tracer *trace.Tracer
	spaces map[uint32]string
	err    error
}

// trace begins to watch what the kernel drops in the namespaces that are
// looked at. That it cannot is no error.
func (w *run) trace() *tracing {
	t := &tracing{ready: make(chan struct{}), spaces: map[uint32]string{}}
	go func() {
		defer close(t.ready)
		var inodes []uint32
		for name, s := range w.sessions {
			inode, err := s.Inode()
			if err != nil {
				t.err = err
				return
			}
			t.spaces[inode] = name
			inodes = append(inodes, inode)
		}
		t.tracer, t.err = trace.Open(inodes)
	}()
	return t
}

// wait returns when the trace is open or has failed.
func (t *tracing) wait() { <-t.ready }

// close does not wait for the kernel to let go of the tracepoint.
func (t *tracing) close() {
	go func() {
		t.wait()
		if t.tracer != nil {
			_ = t.tracer.Close()
		}
	}()
}

// ask sends another packet while the kernel is traced: the state did not
// foretell that the first would get no answer.
func (w *run) ask(ctx context.Context) error {
	t := w.trace()
	defer t.close()
	t.wait()
	again := uuid.New()
	if t.err == nil {
		if _, err := w.sendOne(ctx, again, 1, 50*time.Millisecond); err != nil {
			return err
		}
	}
	w.noteDrops(t, again)
	return nil
}

// noteDrops keeps the drops of a packet with the mark.
func (w *run) noteDrops(t *tracing, id uuid.UUID) {
	r := w.report
	if t.err != nil {
		r.Untraced = t.err.Error()
		return
	}
	drops, err := t.tracer.Drops()
	if err != nil {
		r.Untraced = err.Error()
	}
	reader := w.reader(id)
	for _, d := range drops {
		s, marked := reader.dropped(&d)
		if !marked {
			continue
		}
		x := Dropped{Time: d.Time, Leg: legs[s.kind], Space: t.spaces[d.Namespace], Reason: d.Reason, Function: d.Function}
		if l := w.net.Spaces[x.Space].State.LinkByIndex(d.Ifindex); l != nil {
			x.Interface = l.Name
		}
		r.Drops = append(r.Drops, x)
	}
}

// legs names those that a kind of frame belongs to.
var legs = map[kind]string{request: "request", reply: "reply"}

// dropped reads a packet that the kernel dropped, from its network header on.
// A trace holds no Ethernet header that is to be relied on.
func (r *reader) dropped(d *trace.Drop) (s sighted, marked bool) {
	packet := d.Packet
	if d.Network > 0 && d.Network < len(packet) {
		packet = packet[d.Network:]
	}
	s = r.read(place{bare: true}, capture.Frame{Data: packet})
	return s, s.marked
}

// clockSkew is how far the kernel's clock of a trace may be from that of a tap.
const clockSkew = time.Millisecond

// dropped is the last drop of a leg after what was last seen, in the namespace
// where that was or in another. An answer that nobody saw is one that was not
// given: it was the request that was dropped.
func (w *run) dropped(leg NamedLeg, last int, space string) *Dropped {
	var after time.Time
	from := space
	if last >= 0 {
		s := &leg.Steps[last]
		after, from = s.Seen.Time.Add(-clockSkew), s.Space
	}
	var found *Dropped
	for i := range w.report.Drops {
		d := &w.report.Drops[i]
		if (d.Leg == leg.Name || last < 0 && leg.Name == "reply" && d.Leg == "request") && (d.Space == space || d.Space == from) && d.Time.After(after) {
			found = d
		}
	}
	return found
}

// byNetfilter says that a firewall dropped it: which rule, it can be asked.
func (d *Dropped) byNetfilter() bool { return d.Reason == "NETFILTER_DROP" }

// meanings are what some reasons are about that no dumped state shows.
var meanings = map[string]string{
	"TC_INGRESS":      "by a tc filter on what comes in",
	"TC_EGRESS":       "by a tc filter on what goes out",
	"QDISC_DROP":      "by a tc queueing discipline",
	"XDP":             "by an XDP program",
	"SOCKET_FILTER":   "by a socket's filter",
	"XFRM_POLICY":     "by an IPsec policy",
	"IP_RPFILTER":     "by its reverse path filter",
	"IP_OUTNOROUTES":  "for want of a route: see also `ip rule`",
	"IP_INNOROUTES":   "for want of a route: see also `ip rule`",
	"IP_CSUM":         "for a wrong checksum",
	"UDP_CSUM":        "for a wrong checksum",
	"ICMP_CSUM":       "for a wrong checksum",
	"TCP_CSUM":        "for a wrong checksum",
	"PKT_TOO_BIG":     "for its size",
	"SOCKET_RCVBUFF":  "for a socket that is full",
	"NEIGH_FAILED":    "for a neighbour that does not answer",
	"NEIGH_QUEUEFULL": "for a neighbour that does not answer",
}

// refusals are what some functions are about that give no reason of their own.
var refusals = map[string]string{
	"ip_error":               "for a route or a routing rule that refuses: see `ip rule`",
	"ip6_pkt_discard":        "for a route or a routing rule that refuses: see `ip -6 rule`",
	"ip6_pkt_prohibit":       "for a route or a routing rule that refuses: see `ip -6 rule`",
	"__dev_forward_skb2":     "for its size or for want of a receiver",
	"dst_discard":            "for a route or a routing rule that refuses: see `ip rule`",
	"__netif_receive_skb":    "for want of a protocol that takes it",
	"br_handle_frame":        "by the bridge",
	"br_forward_finish":      "by the bridge",
	"br_dev_queue_push_xmit": "by the bridge, for its size",
}

// cause is the drop in a sentence.
func (d *Dropped) cause() string {
	at := d.Space
	if d.Interface != "" {
		at += "'s " + d.Interface
	}
	return fmt.Sprintf("the kernel dropped it at %s, %s: %s in %s", at, cmp.Or(meanings[d.Reason], refusals[d.Function], "as it says itself"), d.Reason, d.Function)
}
