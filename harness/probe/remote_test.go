package probe_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// served is a namespace that can only be asked to run a program, and runs
// Serve in its place.
type served struct {
	topology.Namespace
	run func(ctx context.Context, p topology.Process) (int, error)
}

func (s served) Run(ctx context.Context, p topology.Process) (int, error) { return s.run(ctx, p) }

// far hides that a namespace can be entered, and serves a session in it.
func far(ns topology.Namespace) topology.Namespace {
	return served{ns, func(ctx context.Context, p topology.Process) (int, error) {
		s, err := probe.Open(ctx, ns)
		if err != nil {
			return 1, nil
		}
		if err := errors.Join(probe.Serve(ctx, s, p.Stdin, p.Stdout, nil), s.Close()); err != nil {
			return 1, nil
		}
		return 0, nil
	}}
}

// TestTransports: what is asked of a session is answered alike in-process and
// over a pipe.
//
//	master-pod-1 .0.2   node-1-pod-1 .1.2
//	     |                   |
//	   cni0 .0.1           cni0 .1.1
//	 flannel.1 .0.0      flannel.1 .1.0
//	   ens3 .8             ens3 .9
//	     +-------- lan -------+           172.16.1.0/24, MTU 1500
func TestTransports(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	for _, transport := range []struct {
		name string
		open func(context.Context, topology.Namespace) (*probe.Session, error)
	}{
		{"in-process", probe.Open},
		{"pipe", func(ctx context.Context, ns topology.Namespace) (*probe.Session, error) {
			return probe.OpenRemote(ctx, far(ns))
		}},
	} {
		t.Run(transport.name, func(t *testing.T) {
			open := func(name string) *probe.Session {
				ns, err := lab.Namespace(name)
				if err != nil {
					t.Fatal(err)
				}
				s, err := transport.open(t.Context(), ns)
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
			pod, peer, node := open("master-pod-1"), open("node-1-pod-1"), open("master")
			testMeasurements(t, pod, peer)
			testKernel(t, pod, node)
			testServers(t, pod, node)
			testFlows(t, pod, peer, node)
			testSending(t, pod)
			testCancel(t, pod)
		})
	}
}

func testMeasurements(t *testing.T, pod, peer *probe.Session) {
	t.Run("ping", func(t *testing.T) {
		pong := ping(t, pod, probe.Ping{Dst: nodePod, Size: 1400, DF: true})
		if !pong.Answered() || pong.Replies[0].TTL != 62 || pong.Replies[0].Size != 1400 {
			t.Error(&pong)
		}
		pong = ping(t, pod, probe.Ping{Dst: nodePod, Size: 1451, DF: true})
		if pong.Refused == nil || *pong.Refused != (probe.Refusal{Errno: "EMSGSIZE", MTU: 1450}) {
			t.Errorf("one byte too many: %s", &pong)
		}
		pong = ping(t, pod, probe.Ping{Dst: nodePod, TTL: 1})
		if pong.Error == nil || pong.Error.From != localCNI {
			t.Errorf("TTL 1: %s", &pong)
		}
		if _, err := pod.Ping(t.Context(), probe.Ping{Dst: nodePod, Size: 43}); err == nil {
			t.Error("a packet of 43 bytes: no error")
		}
	})
	t.Run("many pings", func(t *testing.T) {
		pings := make([]probe.Ping, 200)
		for i := range pings {
			pings[i].Dst = nodePod
		}
		pongs, err := pod.PingAll(t.Context(), pings)
		if err != nil {
			t.Fatal(err)
		}
		for i := range pongs {
			if !pongs[i].Answered() {
				t.Errorf("%d: %s", i, &pongs[i])
			}
		}
	})
	t.Run("path MTU", func(t *testing.T) {
		m, err := pod.PathMTU(t.Context(), nodePod, 0, time.Second)
		if err != nil || m.MTU != 1450 {
			t.Errorf("%s, %v", &m, err)
		}
	})
	t.Run("traceroute", func(t *testing.T) {
		hops, err := pod.Traceroute(t.Context(), probe.Ping{Dst: nodePod}, 0)
		var way []netip.Addr
		for _, h := range hops {
			way = append(way, h.From)
		}
		// The second node answers from the address of the link that it came by.
		if err != nil || len(way) != 3 || way[0] != localCNI || way[2] != nodePod {
			t.Errorf("%v, %v", way, err)
		}
	})
	t.Run("echo", func(t *testing.T) {
		for _, transport := range []probe.Transport{probe.UDP, probe.TCP} {
			port, err := peer.EchoPort(transport)
			if err != nil {
				t.Fatal(err)
			}
			got, err := pod.Echo(t.Context(), probe.Echo{Transport: transport, Server: netip.AddrPortFrom(nodePod, port)})
			if err != nil || got.Seen.Addr() != masterPod || got.From.Addr() != nodePod {
				t.Errorf("%s: %s, %v", transport, &got, err)
			}
		}
		if _, err := peer.EchoPort("sctp"); err == nil {
			t.Error("an unknown transport: no error")
		}
	})
}

func testKernel(t *testing.T, pod, node *probe.Session) {
	st, err := node.State(t.Context())
	if err != nil || st.Link("flannel.1") == nil || st.Link("flannel.1").VXLAN.VNI != 1 {
		t.Errorf("state: %v, %v", st, err)
	}
	env, err := node.ReadFile(t.Context(), "/run/flannel/subnet.env")
	if err != nil || !strings.Contains(string(env), "FLANNEL_MTU=1450") {
		t.Errorf("subnet.env: %s, %v", env, err)
	}
	if _, err := node.ReadFile(t.Context(), "/nowhere"); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("a file that is not there: %v", err)
	}
	values, err := node.Sysctls(t.Context(), "net/ipv4/ip_forward")
	if err != nil || values["net/ipv4/ip_forward"] != "1" {
		t.Errorf("%v, %v", values, err)
	}
	added := probe.Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Via: localCNI, Dev: "eth0"}
	if err := pod.Change(t.Context(), probe.Change{Route: &added}); err != nil {
		t.Fatal(err)
	}
	st, err = pod.State(t.Context())
	if err != nil || len(st.RoutesVia("eth0")) < 3 {
		t.Errorf("the routes of the pod are %v, %v", st.Routes, err)
	}
	if err := pod.Change(t.Context(), probe.Change{Delete: true, Route: &added}); err != nil {
		t.Error(err)
	}
}

// testSending: what is sent without an answer comes to the kernel.
func testSending(t *testing.T, pod *probe.Session) {
	if err := pod.Burst(t.Context(), probe.Burst{To: netip.AddrPortFrom(localCNI, 9), Flows: 2, Datagrams: 1}); err != nil {
		t.Error(err)
	}
	frame := append(bytes.Repeat([]byte{0xff}, 12), append([]byte{0x88, 0xb5}, make([]byte, 46)...)...)
	if err := pod.Inject(t.Context(), "eth0", frame); err != nil {
		t.Error(err)
	}
	if err := pod.Inject(t.Context(), "eth9", frame); err == nil || !strings.Contains(err.Error(), "eth9") {
		t.Error(err)
	}
}

// testServers: an echo server at a port is there until it is closed, errors that
// are told apart stay so, and a firewall tells what drops.
func testServers(t *testing.T, pod, node *probe.Session) {
	for _, transport := range []probe.Transport{probe.UDP, probe.TCP} {
		server, err := pod.ServeEcho(transport, 7007)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pod.ServeEcho(transport, 7007); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("a second server over %s: %v", transport, err)
		}
		ask := probe.Echo{Transport: transport, Server: netip.AddrPortFrom(masterPod, 7007), Tries: 1}
		if reply, err := node.Echo(t.Context(), ask); err != nil || reply.Failure != "" {
			t.Errorf("over %s: %s (%v)", transport, &reply, err)
		}
		if err := errors.Join(server.Close(), server.Close()); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if reply, err := node.Echo(t.Context(), ask); err != nil || reply.Failure == "" {
			t.Errorf("over %s, after its end: %s (%v)", transport, &reply, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := node.WriteFile(t.Context(), file, []byte("one")); err != nil {
		t.Fatal(err)
	}
	watch, err := node.WatchFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := node.WriteFile(t.Context(), file, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if how, err := watch.Written(); err != nil || !how.Moved || how.InPlace {
		t.Errorf("written %+v (%v)", how, err)
	}
	if text, err := node.ReadFile(t.Context(), file); err != nil || string(text) != "two" {
		t.Errorf("%q (%v)", text, err)
	}
	if err := watch.Close(); err != nil {
		t.Error(err)
	}
	if _, err := node.ReadFile(t.Context(), "/nosuch"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if list, err := node.Obstacles(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("obstacles %v (%v)", list, err)
	}
	knock := probe.Knock{Protocol: "tcp", Dst: masterPod, Port: 7007, ID: uuid.New()}
	if pong, err := node.Knock(t.Context(), knock); err != nil || !pong.Answered() {
		t.Errorf("a knock at a closed port: %s (%v)", &pong, err)
	}
	if ahead, within, err := node.Clock(t.Context()); err != nil || ahead.Abs() > within+time.Second {
		t.Errorf("a clock of this machine is ahead by %v, within %v (%v)", ahead, within, err)
	}
}

// testFlows: of a flow every datagram comes but those that were sent while the
// way was broken.
func testFlows(t *testing.T, pod, peer, node *probe.Session) {
	st := startFlow(t, pod, peer, probe.Flow{To: nodePod, Rate: 500})
	more(t, st, 50)
	if r := stop(t, st); r.Sent < 50 || r.Received != r.Sent || len(r.Lost) > 0 || time.Since(r.Began) > time.Minute || r.Ended.Before(r.Began) {
		t.Error(r)
	}
	if _, err := st.Stop(t.Context()); err == nil {
		t.Error("a second stop: no error")
	}
	st = startFlow(t, pod, peer, probe.Flow{To: nodePod, Rate: 500})
	more(t, st, 20)
	down := probe.Change{Link: "cni0", Down: true}
	if err := node.Change(t.Context(), down); err != nil {
		t.Fatal(err)
	}
	more(t, st, 20)
	if err := node.Change(t.Context(), probe.Change{Link: "cni0"}); err != nil {
		t.Fatal(err)
	}
	more(t, st, 200) // the bridge's port takes its time
	if r := stop(t, st); len(r.Lost) < 15 || r.Received < 20 || r.Lost[0].Number < 20 || r.Received+len(r.Lost) != r.Sent {
		t.Error(r)
	}
	ending, end := context.WithCancel(t.Context())
	st, err := pod.StartFlow(ending, peer, probe.Flow{To: nodePod})
	if err != nil {
		t.Fatal(err)
	}
	end()
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := st.Reach(waiting, 1<<30); err == nil || waiting.Err() != nil {
		t.Errorf("a flow whose context has ended goes on: %v", err)
	}
}

func testCancel(t *testing.T, s *probe.Session) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := s.Ping(ctx, probe.Ping{Dst: netip.MustParseAddr("172.16.1.200"), Wait: time.Minute})
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if pong := ping(t, s, probe.Ping{Dst: localCNI}); !pong.Answered() {
		t.Errorf("after one that was cancelled: %s", &pong)
	}
}

// TestRemoteRefuses: what needs the namespace itself is refused, not tried.
func TestRemoteRefuses(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	ns, err := lab.Namespace("master")
	if err != nil {
		t.Fatal(err)
	}
	s, err := probe.OpenRemote(t.Context(), far(ns))
	if err != nil {
		t.Fatal(err)
	}
	_, monitor := s.Monitor()
	_, ids := s.NamespaceIDs(t.Context(), []*probe.Session{s})
	for what, err := range map[string]error{"a monitor": monitor, "namespace ids": ids} {
		if !errors.Is(err, probe.ErrNotLocal) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.State(t.Context()); err == nil {
		t.Error("a session that was closed: no error")
	}
}

// TestRemoteGone: programs that are no probe, or die, are told of.
func TestRemoteGone(t *testing.T) {
	for name, c := range map[string]struct {
		run  func(p topology.Process) (int, error)
		says string
	}{
		"no such program": {func(topology.Process) (int, error) { return 0, errors.New("overlab: no such program") }, "no such program"},
		"it ends": {func(p topology.Process) (int, error) {
			_, _ = io.WriteString(p.Stderr, "out of memory\n")
			return 137, nil
		}, "exit code 137: out of memory"},
		"it babbles": {func(p topology.Process) (int, error) {
			_, _ = io.WriteString(p.Stdout, "Welcome!\n")
			_, _ = io.Copy(io.Discard, p.Stdin)
			return 0, nil
		}, "Welcome!"},
		"another version": {func(p topology.Process) (int, error) {
			_, _ = io.WriteString(p.Stdout, `{"id":1,"answer":"overlab/probe/v9"}`+"\n")
			_, _ = io.Copy(io.Discard, p.Stdin)
			return 0, nil
		}, "overlab/probe/v9"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := served{elsewhere{}, func(_ context.Context, p topology.Process) (int, error) { return c.run(p) }}
			_, err := probe.OpenRemote(t.Context(), ns)
			if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "far") {
				t.Errorf("%v, want %q", err, c.says)
			}
		})
	}
}

// TestRemoteDies: who waits for an answer when the probe dies learns of it.
func TestRemoteDies(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 1, 1500))
	ns, err := lab.Namespace("master")
	if err != nil {
		t.Fatal(err)
	}
	dying, die := context.WithCancel(t.Context())
	s, err := probe.OpenRemote(t.Context(), served{ns, func(ctx context.Context, p topology.Process) (int, error) {
		go func() { _, _ = far(ns).Run(ctx, p) }()
		<-dying.Done()
		return 137, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := s.Ping(t.Context(), probe.Ping{Dst: netip.MustParseAddr("172.16.1.200"), Wait: time.Minute})
		failed <- err
	}()
	die()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "exit code 137") {
		t.Error(err)
	}
	if _, err := s.State(t.Context()); err == nil || !strings.Contains(err.Error(), "gone") {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestServeRefuses: what is no call ends the service, an unknown kind does not.
func TestServeRefuses(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(1, 0, 1500))
	s := open(t, lab, "master")
	var out strings.Builder
	in := strings.NewReader(`{"id":1,"kind":"dance"}` + "\n" + `{"id":2,"kind":"ping","request":7}` + "\n" + `{"id":3,"kind":"hello","request":{}}` + "\nnonsense\n")
	err := probe.Serve(t.Context(), s, in, &out, nil)
	if err == nil || !strings.Contains(err.Error(), "read a call") {
		t.Error(err)
	}
	for _, want := range []string{`{"id":1,"answer":null,"error":"this probe knows no requests of kind \"dance\""}`, `"error":"read the request: `, `{"id":3,"answer":"overlab/probe/v1alpha1"}`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
}
