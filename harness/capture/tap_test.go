package capture_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// The lab of these tests:
//
//	master-pod-1 .0.2   node-1-pod-1 .1.2
//	   cni0 .0.1           cni0 .1.1
//	 flannel.1 .0.0      flannel.1 .1.0
//	   ens3 .8             ens3 .9
//	     +-------- lan -------+           172.16.1.0/24, MTU 1500
var nodePod = netip.MustParseAddr("10.244.1.2")

func namespace(t testing.TB, lab *labtest.Lab, name string) topology.Namespace {
	t.Helper()
	ns, err := lab.Namespace(name)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func tap(t testing.TB, lab *labtest.Lab, node string, o capture.Options) *capture.Tap {
	t.Helper()
	tap, err := capture.Open(namespace(t, lab, node), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tap.Close(); err != nil {
			t.Error(err)
		}
	})
	return tap
}

func session(t testing.TB, lab *labtest.Lab, name string) *probe.Session {
	t.Helper()
	s, err := probe.Open(t.Context(), namespace(t, lab, name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestTap(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := session(t, lab, "master-pod-1")
	began := time.Now()
	taps := []*capture.Tap{
		tap(t, lab, "master", capture.Options{Interface: "ens3", Filter: filter.UDP()}),
		tap(t, lab, "node-1", capture.Options{Interface: "ens3", Filter: filter.UDP()}),
		tap(t, lab, "master", capture.Options{Interface: "cni0"}),
		tap(t, lab, "master-pod-1", capture.Options{Interface: "eth0", Filter: filter.ICMP()}),
	}
	t.Logf("4 taps bound after %v", time.Since(began))

	id := uuid.New()
	pong, err := s.Ping(t.Context(), probe.Ping{Dst: nodePod, ID: id})
	if err != nil || !pong.Answered() {
		t.Fatal(&pong, err)
	}
	want := map[string][]capture.Direction{
		"master:ens3":       {capture.Out, capture.In},
		"node-1:ens3":       {capture.In, capture.Out},
		"master:cni0":       {capture.In, capture.Out},
		"master-pod-1:eth0": {capture.Out, capture.In},
	}
	for _, tap := range taps {
		frames, stats, err := tap.Stop(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stats.Dropped != 0 || stats.Received == 0 {
			t.Errorf("%s: %+v", tap.Name(), stats)
		}
		var got []capture.Direction
		for _, f := range frames {
			p := f.Decode(8472)
			if !f.Contains(id) {
				continue
			}
			got = append(got, f.Direction)
			if outer := strings.HasSuffix(tap.Name(), "ens3"); p.Encapsulated() != outer || p.Innermost().ICMP.Type == 1 {
				t.Errorf("%s: %s", tap.Name(), &p)
			}
			if f.Tap != tap.Name() || f.Length != len(f.Data) || time.Since(f.Time).Abs() > time.Minute {
				t.Errorf("%s: frame of %s with %d of %d bytes at %v", tap.Name(), f.Tap, len(f.Data), f.Length, f.Time)
			}
		}
		if len(got) != 2 || got[0] != want[tap.Name()][0] || got[1] != want[tap.Name()][1] {
			t.Errorf("%s saw the ping %v, want %v", tap.Name(), got, want[tap.Name()])
		}
	}
}

func TestSnapLength(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := session(t, lab, "master-pod-1")
	tap := tap(t, lab, "master", capture.Options{Interface: "ens3", Filter: filter.UDP(), SnapLen: 50})
	if _, err := s.Ping(t.Context(), probe.Ping{Dst: nodePod}); err != nil {
		t.Fatal(err)
	}
	frames, _, err := tap.Stop(t.Context())
	if err != nil || len(frames) < 2 {
		t.Fatal(len(frames), err)
	}
	if f := frames[0]; len(f.Data) != 50 || f.Length != 148 {
		t.Errorf("kept %d of %d bytes, want 50 of 148", len(f.Data), f.Length)
	}
}

// TestVLAN: the kernel takes the tag off the frame and keeps it beside it.
func TestVLAN(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 0, 1500))
	tap := tap(t, lab, "node-1", capture.Options{Interface: "ens3", Filter: filter.EtherType(0x88b6)})
	frame := append(append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 9), 0x81, 0x00, 0x60, 0x07, 0x88, 0xb6)
	frame = append(frame, make([]byte, 60)...)
	err := namespace(t, lab, "master").(topology.Local).Do(func() error {
		link, err := net.InterfaceByName("ens3")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
	frames, _, err := tap.Stop(t.Context())
	if err != nil || len(frames) != 1 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	if f := frames[0]; !f.Tagged || f.VLAN&0xfff != 7 || f.VLAN>>13 != 3 {
		t.Errorf("tagged %v, VLAN 0x%04x, want 7 with priority 3", f.Tagged, f.VLAN)
	}
}

// blast sends datagrams until stop is called.
func blast(t *testing.T, lab *labtest.Lab, from, to string) (stop func()) {
	t.Helper()
	conn, err := namespace(t, lab, from).(topology.Local).Dial(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var wg sync.WaitGroup
	payload := make([]byte, 1200)
	wg.Go(func() {
		for !done.Load() {
			_, _ = conn.Write(payload) // nobody listens
		}
	})
	return func() {
		done.Store(true)
		wg.Wait()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(); {
		if time.Now().After(deadline) {
			t.Fatal("never came true:", what)
		}
	}
}

func TestDropsAreCounted(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 0, 1500))
	release := make(chan struct{})
	tap := tap(t, lab, "master", capture.Options{
		Interface: "ens3",
		Ring:      capture.Ring{BlockSize: 4096, Blocks: 1},
		Handle:    func(capture.Frame) { <-release }, // a reader that cannot keep up
	})
	stop := blast(t, lab, "master", "172.16.1.9:9")
	eventually(t, "a dropped frame", func() bool { return tap.Stats().Dropped > 0 })
	stop()
	close(release)
	if _, stats, err := tap.Stop(t.Context()); err != nil || stats.Dropped == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestCollectionIsBounded(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 0, 1500))
	tap := tap(t, lab, "master", capture.Options{Interface: "ens3", MaxBytes: 10 << 10})
	stop := blast(t, lab, "master", "172.16.1.9:9")
	eventually(t, "a frame beyond the bound", func() bool { return tap.Stats().Dropped > 0 })
	stop()
	frames, stats, err := tap.Stop(t.Context())
	if err != nil || stats.Dropped == 0 || len(frames) > 10 {
		t.Errorf("%d frames of 1242 bytes in 10 KiB, %+v, %v", len(frames), stats, err)
	}
}

func TestErrors(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 0, 1500))
	ns := namespace(t, lab, "master")
	for want, o := range map[string]capture.Options{
		"master:nope":   {Interface: "nope"},
		"power of two":  {Interface: "ens3", Ring: capture.Ring{BlockSize: 5000}},
		"at least one ": {Interface: "ens3", Ring: capture.Ring{Blocks: -1}},
	} {
		if _, err := capture.Open(ns, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error about %q", o, err, want)
		}
	}
	far := struct{ topology.Namespace }{ns}
	if _, err := capture.Open(far, capture.Options{Interface: "ens3"}); err == nil || !strings.Contains(err.Error(), "not on this machine") {
		t.Error(err)
	}

	// The sentinel cannot pass a link that is down.
	tap := tap(t, lab, "master", capture.Options{Interface: "ens3"})
	lab.Exec(t, "master", "ip", "link", "set", "ens3", "down")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := tap.Stop(ctx); err == nil {
		t.Error("a capture on a link that is down ended well")
	}
}

func TestFlushAfterClose(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 0, 1500))
	tap := tap(t, lab, "master", capture.Options{Interface: "ens3"})
	if err := errors.Join(tap.Close(), tap.Close()); err != nil {
		t.Fatal(err)
	}
	if err := tap.Flush(t.Context()); err == nil {
		t.Error("a closed tap saw a sentinel")
	}
}

// TestPcapng writes what two taps saw of one ping and reads it with tshark.
func TestPcapng(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: this machine has no tshark")
	}
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := session(t, lab, "master-pod-1")
	taps := []*capture.Tap{
		tap(t, lab, "master", capture.Options{Interface: "ens3", Filter: filter.UDPPort(8472)}),
		tap(t, lab, "node-1", capture.Options{Interface: "ens3", Filter: filter.UDPPort(8472)}),
	}
	id := uuid.New()
	if _, err := s.Ping(t.Context(), probe.Ping{Dst: nodePod, ID: id}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "frames.pcapng")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w, err := capture.NewWriter(f, "a test", []string{taps[0].Name(), taps[1].Name(), taps[0].Name()})
	if err != nil {
		t.Fatal(err)
	}
	for _, tap := range taps {
		frames, _, err := tap.Stop(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, frame := range frames {
			if err := w.Write(frame, "WF-01", "uuid="+id.String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Write(capture.Frame{Tap: "nobody:eth0"}); err == nil {
		t.Error("a frame of an unknown tap: no error")
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-r", path, "-d", "udp.port==8472,vxlan", "-T", "fields", "-E", "separator=|", "-E", "aggregator=,",
		"-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "vxlan.vni", "-e", "ip.ttl", "-e", "frame.comment").Output()
	if err != nil {
		t.Fatal(err)
	}
	note := "|1|64,63|WF-01,uuid=" + id.String()
	want := "master:ens3|0x00000002" + note + "\nmaster:ens3|0x00000001" + note +
		"\nnode-1:ens3|0x00000001" + note + "\nnode-1:ens3|0x00000002" + note + "\n"
	// Whether the kernel leaves the checksum for later is the kernel's to choose.
	if got := strings.ReplaceAll(string(out), ",the checksum is left to hardware, and not yet there", ""); got != want {
		t.Errorf("tshark reads\n%swant\n%s", out, want)
	}
}

func TestPcapngWithoutTaps(t *testing.T) {
	if _, err := capture.NewWriter(io.Discard, "", nil); err == nil {
		t.Error("a file without an interface: no error")
	}
}

func BenchmarkOpenStop(b *testing.B) {
	lab := labtest.Up(b, labtest.Plan(1, 0, 1500))
	ns := namespace(b, lab, "master")
	for b.Loop() {
		tap, err := capture.Open(ns, capture.Options{Interface: "ens3"})
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := tap.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
