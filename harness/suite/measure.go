package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/probe"
)

// atOnce is in how many namespaces one check measures at a time: more would
// fill the kernel's receive backlog (1000 packets a processor) and lose what
// nothing but the measurement sent.
const atOnce = 8

// each calls f for every index below n, at most limit at a time, and joins
// the errors.
func each(n, limit int, f func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	slots := make(chan struct{}, limit)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			errs[i] = f(i)
			<-slots
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Each calls f for every item at once, within bounds, and returns the first
// error.
func Each[T any](items []T, f func(T) error) error {
	var once sync.Once
	var first error
	_ = each(len(items), atOnce, func(i int) error {
		if err := f(items[i]); err != nil {
			once.Do(func() { first = err })
		}
		return nil
	})
	return first
}

// States dumps the state of many nodes or pods, by name.
func (e *Env) States(ctx context.Context, names []string) (map[string]*probe.State, error) {
	var mu sync.Mutex
	out := map[string]*probe.State{}
	err := Each(names, func(name string) error {
		st, err := e.State(ctx, name)
		mu.Lock()
		defer mu.Unlock()
		out[name] = st
		return err
	})
	return out, err
}

// Ping is a ping from a node or pod.
type Ping struct {
	From string
	probe.Ping
}

// PingAll sends many pings at once, within what the kernel can take. The
// answers have the order of the requests.
func (e *Env) PingAll(ctx context.Context, pings []Ping) ([]probe.Pong, error) {
	var order []string
	groups := map[string][]int{}
	for i, p := range pings {
		if groups[p.From] == nil {
			order = append(order, p.From)
		}
		groups[p.From] = append(groups[p.From], i)
	}
	pongs := make([]probe.Pong, len(pings))
	err := Each(order, func(from string) error {
		s, err := e.Session(ctx, from)
		if err != nil {
			return err
		}
		group := make([]probe.Ping, len(groups[from]))
		for k, i := range groups[from] {
			group[k] = pings[i].Ping
			group[k].Wait, group[k].Tries = e.Timeouts().Reply, e.Timeouts().Tries
		}
		got, err := s.PingAll(ctx, group)
		for k, i := range groups[from] {
			pongs[i] = got[k]
		}
		return err
	})
	return pongs, err
}

// Echo asks, over a transport, which address To sees of From at the other
// pod's address.
func (e *Env) Echo(ctx context.Context, t probe.Transport, pair Pair) (probe.EchoReply, error) {
	return e.EchoTo(ctx, pair.From.Name, pair.To.Name, probe.Echo{
		Transport: t, Server: netip.AddrPortFrom(pair.To.Address.Addr(), 0),
	})
}

// EchoTo asks which address a node or pod sees of another one; the server's
// port is that of to's echo server where the request has none.
func (e *Env) EchoTo(ctx context.Context, from, to string, r probe.Echo) (probe.EchoReply, error) {
	client, err := e.Session(ctx, from)
	if err != nil {
		return probe.EchoReply{}, err
	}
	server, err := e.Session(ctx, to)
	if err != nil {
		return probe.EchoReply{}, err
	}
	if r.Server.Port() == 0 {
		port, err := server.EchoPort(r.Transport)
		if err != nil {
			return probe.EchoReply{}, err
		}
		r.Server = netip.AddrPortFrom(r.Server.Addr(), port)
	}
	r.Wait, r.Tries = e.Timeouts().Reply, e.Timeouts().Tries
	return client.Echo(ctx, r)
}

// Point is where a capture is made.
type Point struct {
	// Node is a node's or pod's name, Interface a link there.
	Node, Interface string
	Filter          filter.Filter
}

func (p Point) String() string { return p.Node + ":" + p.Interface }

// Capture is what was seen at several points while something was done.
type Capture struct {
	frames map[string][]capture.Frame
	doubts []string
}

// Find returns the frames seen at a point, in a direction, that carry an
// identifier.
func (c *Capture) Find(at Point, d capture.Direction, id uuid.UUID) []capture.Frame {
	return slices.DeleteFunc(c.All(at, d), func(f capture.Frame) bool { return !f.Contains(id) })
}

// All returns the frames seen at a point, in a direction.
func (c *Capture) All(at Point, d capture.Direction) []capture.Frame {
	var out []capture.Frame
	for _, f := range c.frames[at.String()] {
		if f.Direction == d {
			out = append(out, f)
		}
	}
	return out
}

// Trust returns an error for an inconclusive verdict when frames were
// dropped or a tap did not see its own sentinel. That something is absent
// from the capture means nothing then.
func (c *Capture) Trust() error {
	if len(c.doubts) == 0 {
		return nil
	}
	return Inconclusivef("the capture cannot be trusted: %s", strings.Join(c.doubts, "; "))
}

// Capture captures at every point while during runs. Each tap is bound before
// during begins, and ended by a sentinel after it.
func (e *Env) Capture(ctx context.Context, points []Point, during func(context.Context) error) (*Capture, error) {
	if e.run.replay != nil {
		if err := during(ctx); err != nil {
			return nil, err
		}
		return e.run.replay.capture(ctx, points)
	}
	taps := make([]*capture.Tap, len(points))
	defer func() {
		for _, t := range taps {
			if t != nil {
				// The kernel takes its time to let go of a ring.
				e.run.background.Go(func() { _ = t.Close() })
			}
		}
	}()
	// Binding waits for the kernel, not for the processor: all at once.
	err := each(len(points), len(points), func(i int) error {
		var err error
		taps[i], err = e.tap(ctx, points[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := during(ctx); err != nil {
		return nil, err
	}
	c := &Capture{frames: map[string][]capture.Frame{}}
	var mu sync.Mutex
	waiting, cancel := context.WithTimeout(ctx, e.Timeouts().Sentinel)
	defer cancel()
	_ = each(len(taps), len(points), func(i int) error {
		frames, stats, err := taps[i].Collect(waiting)
		mu.Lock()
		defer mu.Unlock()
		c.frames[points[i].String()] = frames
		if err != nil {
			c.doubts = append(c.doubts, err.Error())
		}
		if stats.Dropped > 0 {
			c.doubts = append(c.doubts, fmt.Sprintf("%s dropped %d of %d frames", points[i], stats.Dropped, stats.Received))
		}
		return nil
	})
	e.run.record.captured(ctx, points, c)
	return c, nil
}

// tap opens a tap where the point is.
func (e *Env) tap(ctx context.Context, at Point) (*capture.Tap, error) {
	o := capture.Options{Interface: at.Interface, Filter: at.Filter, Ring: e.run.o.Ring}
	s, err := e.Session(ctx, at.Node)
	if err != nil {
		return nil, err
	}
	if s.Peer() != nil {
		return capture.OpenIn(ctx, s, o)
	}
	ns, err := e.run.lab.Namespace(at.Node)
	if err != nil {
		return nil, err
	}
	return capture.Open(ns, o)
}

// Differences compares the named nodes and pods, or all, with what the plan
// asks for. Checks that run side by side share one comparison of each
// selection; one that disturbs the lab asks oracle.Differ, of what is there now.
func (e *Env) Differences(ctx context.Context, names ...string) (*oracle.Diff, error) {
	d, err := Shared(e, "differences "+strings.Join(names, " "), func(ctx context.Context) (*oracle.Diff, error) {
		return oracle.Differ(ctx, e.Lab(), e, names...)
	})
	if err != nil {
		return nil, err
	}
	return d, ctx.Err()
}

// FailEntries records a finding for each difference that counts says is the
// check's to judge, and returns how many.
func (e *Env) FailEntries(d *oracle.Diff, counts func(oracle.Entry) bool) int {
	n := 0
	for _, x := range d.Entries {
		if !counts(x) {
			continue
		}
		n++
		where := x.Space() + " " + x.Kind.Tool()
		e.Fail(where, cmp.Or(x.Want, "no such entry"), cmp.Or(x.Have, "no such entry"))
	}
	return n
}
