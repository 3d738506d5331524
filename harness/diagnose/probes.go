package diagnose

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
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
	// What is "ping", "ping of N bytes" or "TCP".
	What string
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

// probe sends, from the first pod of each node to that of the next, a small
// ping, one of the overlay's MTU, and a few bytes over TCP.
func (l *looker) probe(ctx context.Context) {
	var pods []topology.Pod
	for _, n := range l.plan.Nodes {
		if on := l.plan.PodsOn(n.Name); len(on) > 0 && len(pods) < maxProbed {
			pods = append(pods, on[0])
		}
	}
	if len(pods) < 2 || !l.plan.Network.EnableIPv4 || !l.plan.Network.Backend.Connects() {
		return
	}
	results := make([][]Probed, len(pods))
	var wg sync.WaitGroup
	for i := range pods {
		wg.Go(func() { results[i] = l.pair(ctx, &pods[i], &pods[(i+1)%len(pods)]) })
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

func (l *looker) pair(ctx context.Context, from, to *topology.Pod) []Probed {
	a, err1 := l.open.Session(ctx, from.Name)
	b, err2 := l.open.Session(ctx, to.Name)
	if err1 != nil || err2 != nil {
		l.unread("probes from %s to %s: %v %v", from.Name, to.Name, err1, err2)
		return nil
	}
	mtu := min(l.plan.OverlayMTU(l.plan.Node(from.Node)), l.plan.OverlayMTU(l.plan.Node(to.Node)))
	made := func(what string, ok bool, seen string) Probed {
		return Probed{From: from.Name, To: to.Name, FromNode: from.Node, ToNode: to.Node, What: what, OK: ok, Seen: seen}
	}
	var out []Probed
	var mu sync.Mutex
	var wg sync.WaitGroup
	note := func(p Probed) {
		mu.Lock()
		defer mu.Unlock()
		out = append(out, p)
	}
	for what, ping := range map[string]probe.Ping{
		"ping": {}, fmt.Sprintf("ping of %d bytes", mtu): {Size: mtu, DF: true},
	} {
		wg.Go(func() {
			ping.Dst, ping.Wait, ping.Tries = to.Address.Addr(), probeWait, probeTries
			pong, err := a.Ping(ctx, ping)
			if err != nil {
				note(made(what, false, err.Error()))
				return
			}
			note(made(what, pong.Answered(), pong.String()))
		})
	}
	wg.Go(func() {
		port, err := b.EchoPort(probe.TCP)
		if err != nil {
			note(made("TCP", false, err.Error()))
			return
		}
		reply, err := a.Echo(ctx, probe.Echo{Transport: probe.TCP, Server: netip.AddrPortFrom(to.Address.Addr(), port), Wait: probeWait, Tries: probeTries})
		if err != nil {
			note(made("TCP", false, err.Error()))
			return
		}
		note(made("TCP", reply.Failure == "", reply.String()))
	})
	wg.Wait()
	return out
}

// counted are the kernel's counters of packets that it dropped for a reason.
// Those of pods are the counters of the probes' ends.
func counted() map[string]bool {
	return map[string]bool{"Icmp InCsumErrors": true, "Tcp InCsumErrors": true, "Udp InCsumErrors": true, "TcpExt IPReversePathFilter": true}
}

// counters reads them in every node and pod.
func (l *looker) counters(ctx context.Context) map[string]map[string]int {
	out := map[string]map[string]int{}
	names := []string{}
	for _, n := range l.plan.Nodes {
		names = append(names, n.Name)
	}
	for _, p := range l.plan.Pods {
		names = append(names, p.Name)
	}
	var mu sync.Mutex
	wg := newGroup()
	for _, name := range names {
		wg.Go(func() {
			values := map[string]int{}
			s, err := l.open.Session(ctx, name)
			for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"} {
				var text []byte
				if err == nil {
					text, err = s.ReadFile(ctx, file)
				}
				parseCounters(string(text), values)
			}
			if err != nil {
				l.unread("counters of %s: %v", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = values
		})
	}
	wg.Wait()
	return out
}

// parseCounters reads the format of /proc/net/snmp: a line of names and a line
// of values, both after the same title.
func parseCounters(text string, into map[string]int) {
	lines := strings.Split(text, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < min(len(names), len(values)); j++ {
			key := strings.TrimSuffix(names[0], ":") + " " + names[j]
			if n, err := strconv.Atoi(values[j]); err == nil && counted()[key] {
				into[key] = n
			}
		}
	}
}

// grown notes what grew.
func (l *looker) grown(before, after map[string]map[string]int) {
	for name, values := range after {
		for key, n := range values {
			if n > before[name][key] {
				if l.out.Grown[name] == nil {
					l.out.Grown[name] = map[string]int{}
				}
				l.out.Grown[name][key] = n - before[name][key]
			}
		}
	}
}
