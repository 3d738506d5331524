package capture_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// floodTime is how long each flood lasts.
const floodTime = time.Second

// BenchmarkFlood sends as much from pod to pod as this machine can, and captures
// every VXLAN packet as it leaves the node. The metrics are Mbit/s of payload
// without the tap and with it, packets a second, how many of the packets that the
// kernel counts the tap has seen, and how many it dropped.
func BenchmarkFlood(b *testing.B) {
	lab := labtest.Up(b, labtest.Plan(2, 1, 1500))
	for _, f := range []struct {
		name string
		send func(*floodEnds, context.Context) (int64, error)
	}{
		{"udp-64", func(e *floodEnds, ctx context.Context) (int64, error) { return e.udp(ctx, 64) }},
		{"udp-1400", func(e *floodEnds, ctx context.Context) (int64, error) { return e.udp(ctx, 1400) }},
		{"tcp", (*floodEnds).tcp},
	} {
		for _, keep := range []struct {
			name string
			o    capture.Options
		}{
			{"whole,4MiB", capture.Options{}}, // a tap's own ring
			{"whole,64MiB", capture.Options{Ring: capture.Ring{BlockSize: 256 << 10, Blocks: 256}}},
			{"first-128,4MiB", capture.Options{SnapLen: 128}},
		} {
			b.Run(f.name+"/"+keep.name, func(b *testing.B) { flood(b, lab, keep.o, f.send) })
		}
	}
}

func flood(b *testing.B, lab *labtest.Lab, o capture.Options, send func(*floodEnds, context.Context) (int64, error)) {
	ends := &floodEnds{from: namespace(b, lab, "master-pod-1").(topology.Local), to: namespace(b, lab, "node-1-pod-1").(topology.Local)}
	node := namespace(b, lab, "master").(topology.Local)
	var without, with, seen, sent, dropped float64
	for b.Loop() {
		without += ends.rate(b, send)
		var frames atomic.Uint64
		o.Interface, o.Filter = "ens3", filter.UDPPort(8472)
		o.Handle = func(f capture.Frame) {
			if f.Direction == capture.Out {
				frames.Add(1)
			}
		}
		t := tap(b, lab, "master", o)
		before := transmitted(b, node, "ens3")
		with += ends.rate(b, send)
		sent += float64(transmitted(b, node, "ens3") - before)
		_, stats, err := t.Stop(context.WithoutCancel(b.Context()))
		if err != nil {
			b.Fatal(err)
		}
		seen, dropped = seen+float64(frames.Load()), dropped+float64(stats.Dropped)
	}
	n := float64(b.N)
	b.ReportMetric(without/n, "Mbit/s-without")
	b.ReportMetric(with/n, "Mbit/s")
	b.ReportMetric(sent/n/floodTime.Seconds(), "packets/s")
	b.ReportMetric(100*seen/sent, "%seen")
	b.ReportMetric(dropped/n, "dropped")
	b.ReportMetric(0, "ns/op")
}

// transmitted is how many packets an interface has sent.
func transmitted(b *testing.B, ns topology.Local, name string) uint64 {
	b.Helper()
	var n uint64
	err := ns.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			n = l.Attrs().Statistics.TxPackets
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// floodEnds are the two pods.
type floodEnds struct{ from, to topology.Local }

// rate floods for a while, and returns the Mbit/s of payload that were sent.
func (e *floodEnds) rate(b *testing.B, send func(*floodEnds, context.Context) (int64, error)) float64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), floodTime)
	defer cancel()
	began := time.Now()
	n, err := send(e, ctx)
	if err != nil {
		b.Fatal(err)
	}
	return float64(8*n) / 1e6 / time.Since(began).Seconds()
}

// udp sends datagrams of a size from two sockets; nobody need receive them.
func (e *floodEnds) udp(ctx context.Context, size int) (int64, error) {
	to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(nodePod, 9))
	var sum atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		var c *net.UDPConn
		err := e.from.Do(func() (err error) {
			c, err = net.ListenUDP("udp4", nil) // not connected: that nobody listens is no error
			return err
		})
		if err != nil {
			return 0, err
		}
		defer c.Close() // everything was handed over
		wg.Go(func() {
			for payload := make([]byte, size); ctx.Err() == nil; {
				if n, err := c.WriteToUDP(payload, to); err == nil {
					sum.Add(int64(n))
				}
			}
		})
	}
	wg.Wait()
	return sum.Load(), nil
}

// tcp sends one stream.
func (e *floodEnds) tcp(ctx context.Context) (int64, error) {
	var l net.Listener
	err := e.to.Do(func() (err error) {
		l, err = net.Listen("tcp4", ":0")
		return err
	})
	if err != nil {
		return 0, err
	}
	defer l.Close() // it has served its one connection
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 1<<18))
			_ = c.Close() // everything was read
		}
	}()
	at := netip.AddrPortFrom(nodePod, l.Addr().(*net.TCPAddr).AddrPort().Port())
	c, err := e.from.Dial(ctx, "tcp4", at.String())
	if err != nil {
		return 0, err
	}
	defer c.Close() // what was not sent does not count
	var sum int64
	for data := make([]byte, 1<<18); ctx.Err() == nil; {
		n, err := c.Write(data)
		if err != nil {
			return sum, err
		}
		sum += int64(n)
	}
	return sum, nil
}
