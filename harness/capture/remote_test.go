package capture_test

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/fartest"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// TestRemoteTap: a tap in a namespace that cannot be entered sees what one that
// is opened in it sees, with the same counts, and tells of what it cannot do.
func TestRemoteTap(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	far, err := probe.OpenRemote(t.Context(), fartest.Namespace(namespace(t, lab, "master")))
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	o := capture.Options{Interface: "ens3", Filter: filter.UDP()}
	near := tap(t, lab, "master", o)
	remote, err := capture.OpenIn(t.Context(), far, o)
	if err != nil {
		t.Fatal(err)
	}
	pod := session(t, lab, "master-pod-1")
	for round := 1; round <= 2; round++ {
		id := uuid.New()
		if pong, err := pod.Ping(t.Context(), probe.Ping{Dst: nodePod, ID: id}); err != nil || !pong.Answered() {
			t.Fatal(&pong, err)
		}
		want, _, err := near.Collect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, stats, err := remote.Collect(t.Context())
		if err != nil || len(got) != len(want) || stats.Dropped > 0 || stats.Received < uint64(len(got)) {
			t.Fatalf("round %d: %d frames, %d here; %+v, %v", round, len(got), len(want), stats, err)
		}
		for i := range got {
			if string(got[i].Data) != string(want[i].Data) || got[i].Tap != "master:ens3" || got[i].Direction != want[i].Direction ||
				got[i].Time.Sub(want[i].Time).Abs() > time.Second {
				t.Errorf("frame %d: %+v, here %+v", i, got[i], want[i])
			}
		}
		if !got[len(got)-1].Contains(id) {
			t.Errorf("round %d: the last frame lacks the mark", round)
		}
	}
	if err := errors.Join(remote.Close(), remote.Close()); err != nil {
		t.Error(err)
	}
	if _, err := capture.OpenIn(t.Context(), far, capture.Options{Interface: "nosuch"}); err == nil {
		t.Error("no such interface: no error")
	}
	if _, err := capture.OpenIn(t.Context(), pod, o); err == nil {
		t.Error("a session of this process: no error")
	}
}

// TestRemoteClock: times of a machine whose clock is an hour ahead are moved to
// this one's.
func TestRemoteClock(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	ns := namespace(t, lab, "master")
	far, err := probe.OpenRemote(t.Context(), ahead{ns})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if by, within, err := far.Clock(t.Context()); err != nil || (by-time.Hour).Abs() > time.Second || within > time.Second {
		t.Errorf("ahead by %v, within %v (%v)", by, within, err)
	}
	remote, err := capture.OpenIn(t.Context(), far, capture.Options{Interface: "cni0", Filter: filter.ICMP()})
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	if _, err := session(t, lab, "master-pod-1").Ping(t.Context(), probe.Ping{Dst: netip.MustParseAddr("10.244.0.1")}); err != nil {
		t.Fatal(err)
	}
	frames, _, err := remote.Collect(t.Context())
	if err != nil || len(frames) == 0 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	// The frames' own times are of this machine, so that they are an hour too early.
	if early := time.Since(frames[0].Time); (early - time.Hour).Abs() > time.Minute {
		t.Errorf("a frame of %v ago", early)
	}
}

// ahead serves a session by a clock that is an hour ahead.
type ahead struct{ topology.Namespace }

func (a ahead) Run(ctx context.Context, p topology.Process) (int, error) {
	s, err := probe.Open(ctx, a.Namespace)
	if err != nil {
		return 1, err
	}
	taps := capture.NewServer(a.Namespace)
	more := taps.Handlers()
	more["clock"] = probe.HandlerOf(func(context.Context, struct{}) (time.Time, error) { return time.Now().Add(time.Hour), nil })
	return 0, errors.Join(probe.Serve(ctx, s, p.Stdin, p.Stdout, more), taps.Close(), s.Close())
}

// TestFollowRemote: frames of a far tap come as they pass, in order.
func TestFollowRemote(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	far, err := probe.OpenRemote(t.Context(), fartest.Namespace(namespace(t, lab, "master")))
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	pod := session(t, lab, "master-pod-1")
	sink := &pinging{t: t, pod: pod}
	counts, err := capture.Follow(ctx, []capture.Source{{Session: far, Options: capture.Options{Interface: "cni0", Filter: filter.ICMP()}}}, sink)
	if err != nil || len(sink.frames) < 2 || len(counts) != 1 || counts[0].Tap != "master:cni0" || counts[0].Dropped > 0 {
		t.Fatalf("%d frames, %+v, %v", len(sink.frames), counts, err)
	}
	if sink.frames[0].Time.After(sink.frames[1].Time) {
		t.Error("they are not in the order of time")
	}
}

// pinging pings once all taps are bound, and has enough with both its frames.
type pinging struct {
	t      *testing.T
	pod    *probe.Session
	frames []capture.Frame
}

func (p *pinging) Begin() error {
	pong, err := p.pod.Ping(p.t.Context(), probe.Ping{Dst: netip.MustParseAddr("10.244.0.1")})
	if err == nil && !pong.Answered() {
		err = errors.New(pong.String())
	}
	return err
}

func (p *pinging) Frame(f capture.Frame) error {
	if p.frames = append(p.frames, f); len(p.frames) == 2 {
		return capture.ErrEnough
	}
	return nil
}

func (p *pinging) Settle() error { return nil }
