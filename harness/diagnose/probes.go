package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// Probed is one probe from a pod to one of the next node.
type Probed struct {
	From, To string
	// FromNode and ToNode are where they are.
	FromNode, ToNode string
	// What is "ping", "ping of N bytes" or "TCP", over IPv6 if it says so.
	What string
	// IPv6 is the family, Size the packet's in bytes, 0 for the usual one, and
	// Port that of the server, 0 for a ping.
	IPv6 bool
	Size int
	Port int
	// OK says that it was answered, and Seen what was seen.
	OK   bool
	Seen string
}

// String is the probe in words.
func (p Probed) String() string {
	return fmt.Sprintf("%s from %s (%s) to %s (%s): %s", p.What, p.From, p.FromNode, p.To, p.ToNode, p.Seen)
}

const (
	probeWait  = 250 * time.Millisecond
	probeTries = 2
	// maxProbed is how many nodes of a large lab take part.
	maxProbed = 32
)

// families are the plan as each of the overlay's address families sees it.
func families(p *topology.Plan) []*topology.Plan {
	var out []*topology.Plan
	if p.Network.EnableIPv4 {
		out = append(out, p)
	}
	if p.Network.EnableIPv6 {
		out = append(out, p.Over6())
	}
	return out
}

// probe sends, from the first pod of each node to that of the next, a small
// ping, one of the overlay's MTU, and a few bytes over TCP; over IPv6 as well
// where there is an overlay of it.
func (l *looker) probe(ctx context.Context) {
	if !l.plan.Network.Backend.Connects() {
		return
	}
	var wg sync.WaitGroup
	var results [][]Probed
	for _, view := range families(l.plan) {
		var pods []topology.Pod
		for _, n := range view.Nodes {
			if on := view.PodsOn(n.Name); len(on) > 0 && len(pods) < maxProbed {
				pods = append(pods, on[0])
			}
		}
		if len(pods) < 2 {
			continue
		}
		at := len(results)
		results = append(results, make([][]Probed, len(pods))...)
		into := results[at:]
		for i := range pods {
			wg.Go(func() { into[i] = l.pair(ctx, view, &pods[i], &pods[(i+1)%len(pods)]) })
		}
	}
	wg.Wait()
	for _, r := range results {
		for _, p := range r {
			l.out.Probes = append(l.out.Probes, p)
			if !p.OK {
				l.out.Symptoms = append(l.out.Symptoms, p.String())
			}
		}
	}
}

func (l *looker) pair(ctx context.Context, view *topology.Plan, from, to *topology.Pod) []Probed {
	a, err1 := l.open.Session(ctx, from.Name)
	b, err2 := l.open.Session(ctx, to.Name)
	if err1 != nil || err2 != nil {
		l.unread("probes from %s to %s: %v %v", from.Name, to.Name, err1, err2)
		return nil
	}
	mtu := min(view.OverlayMTU(view.Node(from.Node)), view.OverlayMTU(view.Node(to.Node)))
	made := Probed{From: from.Name, To: to.Name, FromNode: from.Node, ToNode: to.Node, IPv6: view.Is6()}
	over := ""
	if made.IPv6 {
		over = " over IPv6"
	}
	out := make([]Probed, 3)
	var wg sync.WaitGroup
	ping := func(into *Probed, what string, size int) {
		*into = made
		into.What, into.Size = what+over, size
		pong, err := a.Ping(ctx, probe.Ping{Dst: to.Address.Addr(), Size: size, DF: size > 0, Wait: probeWait, Tries: probeTries})
		if into.OK, into.Seen = err == nil && pong.Answered(), pong.String(); err != nil {
			into.Seen = err.Error()
		}
	}
	wg.Go(func() { ping(&out[0], "ping", 0) })
	wg.Go(func() { ping(&out[1], fmt.Sprintf("ping of %d bytes", mtu), mtu) })
	wg.Go(func() {
		p := &out[2]
		*p = made
		p.What = "TCP" + over
		port, err := b.EchoPort(probe.TCP)
		if err != nil {
			p.Seen = err.Error()
			return
		}
		p.Port = int(port)
		reply, err := a.Echo(ctx, probe.Echo{Transport: probe.TCP, Server: netip.AddrPortFrom(to.Address.Addr(), port), Wait: probeWait, Tries: probeTries})
		if p.OK, p.Seen = err == nil && reply.Failure == "", reply.String(); err != nil {
			p.Seen = err.Error()
		}
	})
	wg.Wait()
	return out
}
