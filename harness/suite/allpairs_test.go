package suite_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// BenchmarkAllPairs pings from each of 256 pods, 16 on each of 16 nodes, every
// other one: 65,280 pings, through a check's PingAll and, in turn with it,
// through bare raw sockets that do nothing but send, receive and count, in the
// same namespaces and with as many pings under way. The metrics are the
// milliseconds of both and their ratio, and that of the processor's time, which
// what else the machine does disturbs less.
func BenchmarkAllPairs(b *testing.B) {
	lab := labtest.Up(b, labtest.Plan(16, 16, 1500))
	plan := lab.Plan()
	settleNeighbours(b, lab)
	var pings []suite.Ping
	for _, from := range plan.Pods {
		for _, to := range plan.Pods {
			if from.Name != to.Name {
				pings = append(pings, suite.Ping{From: from.Name, Ping: probe.Ping{Dst: to.Address.Addr()}})
			}
		}
	}
	var took, bare, work, bareWork time.Duration
	all := func(ctx context.Context, e *suite.Env) error {
		for _, pod := range plan.Pods { // open for the first check, and then for every other
			if _, err := e.Session(ctx, pod.Name); err != nil {
				return err
			}
		}
		began, busy := time.Now(), processorTime()
		pongs, err := e.PingAll(ctx, pings)
		took, work = took+time.Since(began), work+processorTime()-busy
		for i := range pongs {
			if !pongs[i].Answered() {
				return fmt.Errorf("%s > %s: %s", pings[i].From, pings[i].Dst, pongs[i].String())
			}
		}
		return err
	}
	for b.Loop() {
		r := run(b, lab, suite.Options{}, check("A", all))
		if r.Count(suite.Pass) != 1 {
			b.Fatalf("%+v", r.Results)
		}
		began, busy := time.Now(), processorTime()
		if err := pingBare(plan, lab); err != nil {
			b.Fatal(err)
		}
		bare, bareWork = bare+time.Since(began), bareWork+processorTime()-busy
	}
	n := float64(b.N)
	b.ReportMetric(float64(len(pings)), "pings")
	b.ReportMetric(float64(took.Milliseconds())/n, "ms")
	b.ReportMetric(float64(bare.Milliseconds())/n, "bare-ms")
	b.ReportMetric(took.Seconds()/bare.Seconds(), "ratio")
	b.ReportMetric(work.Seconds()/bareWork.Seconds(), "cpu-ratio")
	b.ReportMetric(0, "ns/op")
}

// processorTime is what this process has taken of the processors.
func processorTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // it fails for no process that asks for itself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// settleNeighbours makes the pods' neighbours on their node permanent: the kernel
// has room for 1024 others in all namespaces together (gc_thresh3), and drops
// packets when these are more.
func settleNeighbours(b *testing.B, lab topology.Lab) {
	b.Helper()
	plan := lab.Plan()
	sessions, macs := map[string]*probe.Session{}, map[netip.Addr]topology.MAC{}
	mac := func(name, link string, at netip.Addr) {
		ns, err := lab.Namespace(name)
		if err != nil {
			b.Fatal(err)
		}
		s, err := probe.Open(b.Context(), ns)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = s.Close() }) // nothing is left in it
		st, err := s.State(b.Context())
		if err != nil || st.Link(link) == nil {
			b.Fatalf("%s has no %s: %v", name, link, err)
		}
		sessions[name], macs[at] = s, st.Link(link).MAC
	}
	for i := range plan.Nodes {
		mac(plan.Nodes[i].Name, "cni0", plan.Nodes[i].Gateway().Addr())
	}
	for _, pod := range plan.Pods {
		mac(pod.Name, "eth0", pod.Address.Addr())
	}
	for at, m := range macs {
		for _, pod := range plan.Pods {
			if pod.Address.Masked().Contains(at) && pod.Address.Addr() != at {
				n := probe.Neighbour{IP: at, Dev: "eth0", MAC: m}
				if err := sessions[pod.Name].Change(b.Context(), probe.Change{Neighbour: &n}); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
}

// pingBare is the same by system calls alone: the sockets of 8 pods at a time, 32
// requests under way in each.
func pingBare(plan *topology.Plan, lab topology.Lab) error {
	const atOnce, window = 8, 32
	slots := make(chan struct{}, atOnce)
	errs := make([]error, len(plan.Pods))
	var wg sync.WaitGroup
	for i, pod := range plan.Pods {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ns, err := lab.Namespace(pod.Name)
			if err != nil {
				errs[i] = err
				return
			}
			fd := -1
			err = ns.(topology.Local).Do(func() (err error) {
				fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
				return err
			})
			if err == nil {
				err = errors.Join(bareSocket(fd, plan, pod.Address.Addr(), uint16(i+1), window), unix.Close(fd))
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// bareSocket pings every other pod; the sequence number says which.
func bareSocket(fd int, plan *topology.Plan, self netip.Addr, id uint16, window int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20); err != nil {
		return err
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
		return err
	}
	buf := make([]byte, 2048)
	under := 0
	receive := func() error {
		for {
			n, err := unix.Read(fd, buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("%s: an answer: %w", self, err)
			}
			const header, reply = 20, 0
			if n >= header+8 && buf[header] == reply && binary.BigEndian.Uint16(buf[header+4:]) == id {
				under--
				return nil
			}
		}
	}
	msg := make([]byte, 64) // of 84 bytes with the IP header
	for k, pod := range plan.Pods {
		if pod.Address.Addr() == self {
			continue
		}
		for under >= window {
			if err := receive(); err != nil {
				return err
			}
		}
		msg[0], msg[2], msg[3] = 8, 0, 0
		binary.BigEndian.PutUint16(msg[4:], id)
		binary.BigEndian.PutUint16(msg[6:], uint16(k))
		sum := uint32(8<<8) + uint32(id) + uint32(k) // the rest is zero
		for sum>>16 != 0 {
			sum = sum&0xffff + sum>>16
		}
		binary.BigEndian.PutUint16(msg[2:], ^uint16(sum))
		if err := unix.Sendto(fd, msg, 0, &unix.SockaddrInet4{Addr: pod.Address.Addr().As4()}); err != nil {
			return err
		}
		under++
	}
	for under > 0 {
		if err := receive(); err != nil {
			return err
		}
	}
	return nil
}
