package walk

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/walk/predict"
)

// ring is enough for a few packets and what else passes meanwhile.
var ring = capture.Ring{BlockSize: 64 << 10, Blocks: 16, Retire: 2 * time.Millisecond}

// maxTaps bounds the taps besides those of the predicted way: on a node with
// many pods, those of the others would be most of the work.
const maxTaps = 32

// place is an interface to capture at.
type place struct {
	space, dev string
	// bare says that its frames have no Ethernet header.
	bare bool
}

func (p place) String() string { return p.space + ":" + p.dev }

// places are the interfaces of the predicted way, and the others of the
// namespaces that it leads through; leftOut counts those beyond maxTaps.
func places(n *predict.Network, ends []Endpoint, paths ...*predict.Path) (all []place, leftOut int) {
	add := func(space, dev string) {
		l := n.Spaces[space].State.Link(dev)
		p := place{space, dev, predict.Bare(l)}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	spaces := map[string]bool{}
	for _, e := range ends {
		spaces[e.Name], spaces[e.Node] = true, true
	}
	for _, path := range paths {
		if path == nil {
			continue
		}
		for _, h := range path.Hops {
			add(h.Space, h.Interface)
			spaces[h.Space] = true
		}
	}
	more := 0
	for _, name := range slices.Sorted(maps.Keys(spaces)) {
		if n.Spaces[name] == nil || name == underlaySpace {
			continue
		}
		for _, l := range n.Spaces[name].State.Links {
			switch {
			case !l.Up || l.Name == "lo" || slices.Contains(all, place{name, l.Name, predict.Bare(&l)}):
			case more == maxTaps:
				leftOut++
			default:
				add(name, l.Name)
				more++
			}
		}
	}
	return all, leftOut
}

// interesting lets through what the packet can be in, and ARP, which shows what
// the kernel asks for.
func interesting(p place, protocol string, v6 bool) filter.Filter {
	if p.bare {
		return filter.All() // filters look behind an Ethernet header
	}
	const arp, ipip, tcp, fragment, esp = 0x0806, 4, 6, 44, 50
	// What a tunnel wraps IPv6 in may be IPv4.
	f := filter.ICMP().Or(filter.UDP()).Or(filter.Protocol(ipip)).Or(filter.Protocol(esp)).Or(filter.EtherType(arp))
	if v6 {
		f = f.Or(filter.ICMPv6()).Or(filter.UDP6()).Or(filter.NextHeader(fragment))
	}
	switch {
	case protocol == "tcp" && v6:
		f = f.Or(filter.NextHeader(tcp))
	case protocol == "tcp":
		f = f.Or(filter.TCP())
	}
	return f
}

// taps are the captures that run.
type taps struct {
	places []place
	open   map[place]*capture.Tap
	// doubts are taps that could not be opened.
	doubts []string
}

// listen opens all taps. That an interface has gone meanwhile is a doubt, and
// no error.
func (w *run) listen(ctx context.Context, at []place) *taps {
	t := &taps{places: at, open: map[place]*capture.Tap{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range at {
		wg.Go(func() {
			tap, err := w.tap(ctx, p)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.doubts = append(t.doubts, err.Error())
				return
			}
			t.open[p] = tap
		})
	}
	wg.Wait()
	return t
}

func (w *run) tap(ctx context.Context, p place) (*capture.Tap, error) {
	o := capture.Options{Interface: p.dev, Filter: interesting(p, w.o.Protocol, w.o.IPv6), Ring: ring}
	if s := w.sessions[p.space]; s.Peer() != nil {
		return capture.OpenIn(ctx, s, o)
	}
	ns, err := w.lab.Namespace(p.space)
	if err != nil {
		return nil, err
	}
	return capture.Open(ns, o)
}

// sighting is what the taps have seen.
type sighting struct {
	frames map[place][]capture.Frame
	stats  []Tap
	doubts []string
}

// collect ends the capture by sentinels.
func (t *taps) collect(ctx context.Context) *sighting {
	s := &sighting{frames: map[place][]capture.Frame{}, doubts: t.doubts}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, p := range t.places {
		tap := t.open[p]
		if tap == nil {
			continue
		}
		wg.Go(func() {
			frames, stats, err := tap.Collect(ctx)
			mu.Lock()
			defer mu.Unlock()
			s.frames[p] = frames
			s.stats = append(s.stats, Tap{Name: p.String(), Received: stats.Received, Dropped: stats.Dropped})
			if err != nil {
				s.doubts = append(s.doubts, err.Error())
			}
			if stats.Dropped > 0 {
				s.doubts = append(s.doubts, fmt.Sprintf("%s dropped %d of %d frames", p, stats.Dropped, stats.Received))
			}
		})
	}
	wg.Wait()
	slices.SortFunc(s.stats, func(a, b Tap) int { return strings.Compare(a.Name, b.Name) })
	slices.Sort(s.doubts)
	return s
}

// close ends the taps; the kernel takes some 20 ms to let go of each, all at
// once.
func (t *taps) close() {
	var wg sync.WaitGroup
	for _, tap := range t.open {
		wg.Go(func() { _ = tap.Close() })
	}
	wg.Wait()
}
