package agent_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// largeConf leaves the subnets below 10.200.0.0 to peers that are only in the
// store.
const largeConf = `{"Network":"10.0.0.0/8","SubnetMin":"10.200.0.0","Backend":{"Type":"vxlan"}}`

// durations are one measurement's samples.
type durations []time.Duration

// report reports the samples' median and 99th percentile in milliseconds.
func (d durations) report(b *testing.B, what string) {
	if len(d) == 0 {
		return
	}
	slices.Sort(d)
	for _, p := range []int{50, 99} {
		at := d[(len(d)-1)*p/100]
		b.ReportMetric(float64(at.Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", what, p))
	}
}

// ear listens to a node's kernel.
type ear struct {
	testing.TB
	l    *rtnl.Listener
	conn *rtnl.Conn
}

func (n *node) ear() *ear {
	n.Helper()
	e := &ear{TB: n}
	err := n.set.Do(func() (err error) {
		if e.conn, err = rtnl.Dial(); err != nil {
			return err
		}
		e.l, err = rtnl.Listen(unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_LINK)
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _, _ = e.conn.Close(), e.l.Close() })
	return e
}

// hears waits for a notification that is wanted, and returns when the first one
// of any kind came, and that one.
func (e *ear) hears(wanted func(rtnl.Message) bool) (first, found time.Time) {
	e.Helper()
	for found.IsZero() {
		if err := e.l.Wait(); err != nil {
			e.Fatal(err)
		}
		err := e.l.Drain(func(m rtnl.Message) error {
			if first.IsZero() {
				first = time.Now()
			}
			if found.IsZero() && wanted(m) {
				found = time.Now()
			}
			return nil
		})
		if err != nil {
			e.Fatal(err)
		}
	}
	return first, found
}

// forget drops what was heard.
func (e *ear) forget() {
	e.Helper()
	if err := e.l.Drain(func(rtnl.Message) error { return nil }); err != nil {
		e.Fatal(err)
	}
}

func isRoute(subnet netip.Prefix, via netip.Addr) func(rtnl.Message) bool {
	return func(m rtnl.Message) bool {
		if m.Type != unix.RTM_NEWROUTE {
			return false
		}
		r, err := m.Route()
		return err == nil && r.Dst == subnet && r.Via == via
	}
}

func isNeigh(bridge bool, ip netip.Addr, mac string) func(rtnl.Message) bool {
	return func(m rtnl.Message) bool {
		if m.Type != unix.RTM_NEWNEIGH {
			return false
		}
		n, err := m.Neigh()
		return err == nil && (n.Family == unix.AF_BRIDGE) == bridge && n.IP == ip && n.MAC.String() == mac && n.State&unix.NUD_PERMANENT != 0
	}
}

// BenchmarkLeaseLatency measures from the put of a lease to the route in the
// kernel, beside a client that only watches the store.
func BenchmarkLeaseLatency(b *testing.B) {
	c := newCluster(b, largeConf)
	n := c.node(1)
	n.program = program(b)
	n.start().waitReady()
	e := n.ear()
	watch := c.etcd.Client.Watch(b.Context(), leases, clientv3.WithPrefix())
	var routes, baseline durations
	for i := 0; b.Loop(); i++ {
		subnet := netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i/250+1, i%250))
		heard := make(chan time.Time, 1)
		go func() {
			<-watch
			heard <- time.Now()
		}()
		began := time.Now()
		c.peer(subnet.Addr().String(), fmt.Sprintf("172.16.%d.%d", i/250+2, i%250+1), fmt.Sprintf("02:00:00:01:%02x:%02x", i/250, i%250))
		_, at := e.hears(isRoute(subnet, subnet.Addr()))
		routes, baseline = append(routes, at.Sub(began)), append(baseline, (<-heard).Sub(began))
	}
	routes.report(b, "route")
	baseline.report(b, "watcher")
	b.ReportMetric(0, "ns/op")
}

// pace is the pause between two alterations: an agent that has to repair more
// than 25 times a second takes it for a quarrel, and repairs once a second.
const pace = 60 * time.Millisecond

// BenchmarkRepairLatency measures from an alteration to its repair, beside the
// time until a listener hears of the alteration.
func BenchmarkRepairLatency(b *testing.B) {
	const mac, otherMAC = "02:00:00:00:00:02", "02:00:00:00:00:77"
	subnet, peer, nobody := netip.MustParsePrefix("10.244.2.0/24"), netip.MustParseAddr("172.16.1.2"), netip.MustParseAddr("172.16.1.99")
	hw, otherHW := mustMAC(b, mac), mustMAC(b, otherMAC)
	neigh := isNeigh(false, subnet.Addr(), mac)
	fdb := isNeigh(true, peer, mac)
	route := isRoute(subnet, subnet.Addr())
	for _, kind := range []struct {
		name   string
		alter  func(t *rtnl.Batch, dev int)
		wanted func(rtnl.Message) bool
	}{
		{"neighbour=deleted", func(t *rtnl.Batch, dev int) {
			t.DelNeigh(rtnl.Neigh{Dev: dev, IP: subnet.Addr(), MAC: hw})
		}, neigh},
		{"neighbour=altered", func(t *rtnl.Batch, dev int) {
			t.AddNeigh(rtnl.Neigh{Dev: dev, IP: subnet.Addr(), MAC: otherHW})
		}, neigh},
		{"fdb=deleted", func(t *rtnl.Batch, dev int) { t.DelFDB(rtnl.FDB{Dev: dev, MAC: hw, Dst: peer}) }, fdb},
		{"fdb=altered", func(t *rtnl.Batch, dev int) { t.AddFDB(rtnl.FDB{Dev: dev, MAC: hw, Dst: nobody}) }, fdb},
		{"route=deleted", func(t *rtnl.Batch, dev int) {
			t.DelRoute(rtnl.Route{Dst: subnet, Via: subnet.Addr(), Dev: dev, Onlink: true})
		}, route},
		{"route=altered", func(t *rtnl.Batch, dev int) {
			t.AddRoute(rtnl.Route{Dst: subnet, Via: nobody, Dev: dev, Onlink: true})
		}, route},
		{"device=deleted", func(t *rtnl.Batch, dev int) { t.DelLink(dev) }, route},
	} {
		b.Run(kind.name, func(b *testing.B) {
			c := newCluster(b, netConf)
			n := c.node(1)
			n.program = program(b)
			n.start().waitReady()
			c.peer("10.244.2.0", peer.String(), mac)
			n.picture().wait(b, 1)
			e := n.ear()
			var repairs, heard durations
			for b.Loop() {
				time.Sleep(pace)
				e.forget()
				link, err := e.conn.LinkByName("flannel.1")
				if err != nil {
					b.Fatal(err)
				}
				var batch rtnl.Batch
				kind.alter(&batch, link.Index)
				began := time.Now()
				if err := e.conn.Do(&batch); err != nil {
					b.Fatal(err)
				}
				first, repaired := e.hears(kind.wanted)
				repairs, heard = append(repairs, repaired.Sub(began)), append(heard, first.Sub(began))
			}
			repairs.report(b, "repair")
			heard.report(b, "heard")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func mustMAC(b *testing.B, s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

// footprintWindow is for how long an agent's processor time is counted.
const footprintWindow = 10 * time.Second

// churn is how many leases change in a second, of the benchmark with churn.
const churn = 10

// BenchmarkFootprint measures the processor time, in per cent of one
// processor, and the resident memory of one agent whose peers are in the store
// only: none, which is the baseline, 64 and 256; at rest, and while ten leases a
// second change their VTEP MAC.
func BenchmarkFootprint(b *testing.B) {
	for _, peers := range []int{0, 64, 256} {
		b.Run(fmt.Sprintf("peers=%d", peers), func(b *testing.B) { footprint(b, peers) })
	}
}

func footprint(b *testing.B, peers int) {
	c := newCluster(b, largeConf)
	n := c.node(1)
	n.program = program(b)
	n.start().waitReady()
	put := func(i, generation int) {
		c.peer(fmt.Sprintf("10.%d.%d.0", i/256+1, i%256), fmt.Sprintf("172.16.%d.%d", i/250+2, i%250+1),
			fmt.Sprintf("02:00:00:%02x:%02x:%02x", generation%256, i/256, i%256))
	}
	for i := range peers {
		put(i, 0)
	}
	n.picture().wait(b, peers)
	n.waitReady()
	measure := func(name string, work func(tick int)) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				before, began := n.processorTime(), time.Now()
				tick := time.NewTicker(time.Second / churn)
				for i := 0; time.Since(began) < footprintWindow; i++ {
					<-tick.C
					work(i)
				}
				tick.Stop()
				used := n.processorTime() - before
				b.ReportMetric(100*used.Seconds()/time.Since(began).Seconds(), "cpu-%")
			}
			b.ReportMetric(n.residentMiB(), "rss-MiB")
			b.ReportMetric(0, "ns/op")
		})
	}
	measure("idle", func(int) {})
	if peers > 0 {
		measure("churn", func(i int) { put(i%peers, i/peers+1) })
	}
}

// processorTime is what the agent's process has used of processors so far.
func (n *node) processorTime() time.Duration {
	n.Helper()
	stat := n.file(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	ticks := 0
	for _, f := range fields[11:13] { // utime and stime (proc_pid_stat(5))
		t, err := strconv.Atoi(f)
		if err != nil {
			n.Fatal(err)
		}
		ticks += t
	}
	const perSecond = 100 // USER_HZ
	return time.Duration(ticks) * time.Second / perSecond
}

// residentMiB is the agent's resident memory.
func (n *node) residentMiB() float64 {
	n.Helper()
	fields := strings.Fields(n.file(fmt.Sprintf("/proc/%d/statm", n.cmd.Process.Pid)))
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		n.Fatal(err)
	}
	return float64(pages) * float64(os.Getpagesize()) / (1 << 20)
}
