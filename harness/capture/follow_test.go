package capture_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
)

// collector is a sink that keeps what it gets, and calls begun when it begins.
type collector struct {
	begun  func()
	frames []capture.Frame
	most   int
	fails  error
}

func (c *collector) Begin() error { go c.begun(); return nil }

func (c *collector) Frame(f capture.Frame) error {
	c.frames = append(c.frames, f)
	if len(c.frames) == c.most {
		return errors.Join(c.fails, capture.ErrEnough)
	}
	return nil
}

func (c *collector) Settle() error { return nil }

// TestFollow: the frames of several taps come in the order of their way.
//
//	master-pod-1 eth0 - cni0 master ens3 --- ens3 node-1 cni0 - eth0 node-1-pod-1
func TestFollow(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	s := session(t, lab, "master-pod-1")
	ping := func() {
		if pong, err := s.Ping(t.Context(), probe.Ping{Dst: nodePod}); err != nil || !pong.Answered() {
			t.Error(&pong, err)
		}
	}
	match, err := filter.Parse("icmp or inner icmp", 8472)
	if err != nil {
		t.Fatal(err)
	}
	sources := func(names ...string) []capture.Source {
		var out []capture.Source
		for _, name := range names {
			node, iface, _ := strings.Cut(name, ":")
			out = append(out, capture.Source{Namespace: namespace(t, lab, node), Options: capture.Options{Interface: iface, Filter: match}})
		}
		return out
	}
	t.Run("in order, until it is enough", func(t *testing.T) {
		c := &collector{begun: ping, most: 8}
		counts, err := capture.Follow(t.Context(), sources("node-1:ens3", "master:ens3", "node-1-pod-1:eth0", "master:cni0"), c)
		if err != nil {
			t.Fatal(err)
		}
		var way []string
		for _, f := range c.frames {
			way = append(way, f.Tap+" "+f.Direction.String())
		}
		want := "master:cni0 in, master:ens3 out, node-1:ens3 in, node-1-pod-1:eth0 in, " +
			"node-1-pod-1:eth0 out, node-1:ens3 out, master:ens3 in, master:cni0 out"
		if got := strings.Join(way, ", "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if len(counts) != 4 || counts[0].Dropped != 0 || counts[0].Began.After(counts[0].Ended) {
			t.Errorf("%+v", counts)
		}
	})
	t.Run("until the end, with all that passed", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := &collector{begun: func() { ping(); cancel() }}
		counts, err := capture.Follow(ctx, sources("master:ens3"), c)
		if err != nil || len(c.frames) != 2 || counts[0].Received != 2 || counts[0].Tap != "master:ens3" {
			t.Errorf("%d frames, %+v, %v", len(c.frames), counts, err)
		}
		line := c.frames[0].Line(8472)
		for _, want := range []string{"master:ens3 out  172.16.1.", ".8472 UDP, ttl 64, length 134 vxlan 1: 10.244.0.2 > 10.244.1.2 ICMP echo request", "ttl 63, length 84"} {
			if !strings.Contains(line, want) {
				t.Errorf("%s: no %q", line, want)
			}
		}
	})
	t.Run("a sink that fails", func(t *testing.T) {
		full := errors.New("no space")
		_, err := capture.Follow(t.Context(), sources("master:cni0"), &failing{collector{begun: ping}, full})
		if !errors.Is(err, full) {
			t.Error(err)
		}
	})
	t.Run("no such interface", func(t *testing.T) {
		if _, err := capture.Follow(t.Context(), sources("master:ens3", "master:ens9"), &collector{begun: ping}); err == nil || !strings.Contains(err.Error(), "master:ens9") {
			t.Error(err)
		}
	})
}

type failing struct {
	collector
	err error
}

func (f *failing) Frame(capture.Frame) error { return f.err }

// TestPcapngReadBack: what a Writer writes, ReadPcapng and tshark read.
func TestPcapngReadBack(t *testing.T) {
	at := time.Date(2024, 5, 6, 7, 26, 48, 356032123, time.UTC)
	ethernet := append([]byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x06}, make([]byte, 46)...)
	frames := []capture.Frame{
		{Tap: "node-1:ens3", Time: at, Data: ethernet, Length: 60, Direction: capture.Out, ChecksumNotReady: true},
		{Tap: "node-2:ens3", Time: at.Add(time.Microsecond), Data: ethernet[:20], Length: 60, Direction: capture.In},
		{Tap: "node-2:ens3", Time: at.Add(2 * time.Microsecond), Data: ethernet, Length: 60, Direction: capture.Other, Tagged: true, VLAN: 0x2005},
	}
	var b bytes.Buffer
	w, err := capture.NewWriter(&b, "lab default", []string{"node-1:ens3", "node-2:ens3"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if err := w.Write(f, "WF-01"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Stats("node-2:ens3", capture.Stats{Received: 7, Dropped: 5}, at, at.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Flush(), w.Stats("elsewhere", capture.Stats{}, at, at)); err == nil {
		t.Error("statistics of a tap that the file does not have: no error")
	}
	got, err := capture.ReadPcapng(bytes.NewReader(b.Bytes()))
	if err != nil || len(got) != 3 {
		t.Fatalf("%d frames, %v", len(got), err)
	}
	for i, f := range got {
		want := frames[i]
		if f.Tap != want.Tap || !f.Time.Equal(want.Time) || f.Direction != want.Direction || f.ChecksumNotReady != want.ChecksumNotReady {
			t.Errorf("read %+v, want %+v", f, want)
		}
	}
	if p := got[2].Decode(8472); !p.Has(capture.LayerVLAN) || p.Eth.VLAN != 0x2005 || got[2].Length != 64 {
		t.Errorf("the tag is not back in the frame: %+v, %d bytes", p.Eth, got[2].Length)
	}
	if _, err := capture.ReadPcapng(strings.NewReader("no pcapng")); err == nil {
		t.Error("a file that is none: no error")
	}
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("SKIPPED, NOT TESTED: this machine has no tshark")
	}
	file := filepath.Join(t.TempDir(), "x.pcapng")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-r", file, "-T", "fields", "-e", "frame.interface_name", "-e", "frame.packet_flags_direction", "-e", "vlan.id", "-e", "frame.comment").Output()
	want := "node-1:ens3\t0x00000002\t\tWF-01,the checksum is left to hardware, and not yet there\n" +
		"node-2:ens3\t0x00000001\t\tWF-01\nnode-2:ens3\t0x00000000\t5\tWF-01\n"
	if err != nil || string(out) != want {
		t.Errorf("tshark reads\n%swant\n%s%v", out, want, err)
	}
}
