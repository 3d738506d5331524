package trace_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/harness/trace"
	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
)

// inode of the calling thread's network namespace.
func inode(t *testing.T, set *netns.Set) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := set.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &st) }); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

// send sends a datagram to a port of the namespace's own that nobody has.
func send(t *testing.T, set *netns.Set, payload []byte) {
	t.Helper()
	err := set.Do(func() error {
		c, err := net.Dial("udp4", "127.0.0.1:9")
		if err != nil {
			return err
		}
		_, err = c.Write(payload)
		return errors.Join(err, c.Close())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestDrops: of two namespaces that drop, only the one that is watched is told
// of, with the reason, the function and the packet as it was.
func TestDrops(t *testing.T) {
	watched, other := nstest.New(t), nstest.New(t)
	tracer, err := trace.Open([]uint32{inode(t, watched)})
	if errors.Is(err, trace.ErrUnavailable) {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := tracer.Close(); err != nil {
			t.Error(err)
		}
	}()
	long := bytes.Repeat([]byte("long"), 300)
	began := time.Now()
	send(t, other, []byte("of another namespace"))
	send(t, watched, []byte("marked"))
	send(t, watched, long)

	drops, err := tracer.Drops()
	if err != nil {
		t.Fatal(err)
	}
	var got []trace.Drop
	for _, d := range drops {
		t.Logf("%s in %s: %d bytes, network header at %d", d.Reason, d.Function, len(d.Packet), d.Network)
		if d.Reason == "NO_SOCKET" { // ICMP errors that answer are dropped too
			got = append(got, d)
		}
	}
	if len(got) != 2 {
		t.Fatalf("%d drops for want of a socket, not 2: %+v", len(got), drops)
	}
	for i, d := range got {
		const headers = 20 + 8 // of IPv4 and UDP
		payload := [][]byte{[]byte("marked"), long[:512-headers]}[i]
		if d.Function != "__udp4_lib_rcv" || d.Network != 0 || d.Ifindex != 1 || len(d.Packet) < headers || !bytes.Equal(d.Packet[headers:], payload) {
			t.Errorf("drop %d: %+v", i, d)
		}
		if d.Time.Before(began.Add(-time.Millisecond)) || d.Time.After(time.Now().Add(time.Millisecond)) {
			t.Errorf("drop %d at %v, began %v", i, d.Time, began)
		}
	}
	if drops, err = tracer.Drops(); err != nil || len(drops) != 0 {
		t.Errorf("told of twice: %+v, %v", drops, err)
	}
}

// TestLost: drops that do not fit are counted and told of.
func TestLost(t *testing.T) {
	set := nstest.New(t)
	tracer, err := trace.Open([]uint32{inode(t, set)})
	if errors.Is(err, trace.ErrUnavailable) {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	defer func() { _ = tracer.Close() }()
	for range 500 {
		send(t, set, []byte("many"))
	}
	drops, err := tracer.Drops()
	if err == nil || len(drops) < 100 {
		t.Errorf("%d of at least 500 drops, and %v", len(drops), err)
	}
}

// TestOrdinaryUser: who is not root of the machine itself is told why there is
// no trace, also where he is root of a user namespace, as in these tests.
func TestOrdinaryUser(t *testing.T) {
	m, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(m), "4294967295") {
		t.Skip("SKIPPED, NOT TESTED: this is root of the machine, who may trace")
	}
	if _, err = trace.Open(nil); !errors.Is(err, trace.ErrUnavailable) {
		t.Error(err)
	}
	t.Log(err)
}

// BenchmarkOpen is what a trace costs before anything is traced.
func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		tracer, err := trace.Open(nil)
		if err != nil {
			b.Skipf("SKIPPED: %v", err)
		}
		b.StopTimer()
		if err := tracer.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
