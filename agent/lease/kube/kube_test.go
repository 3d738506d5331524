package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/kubetest"
	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const (
	address = "127.0.0.1:6443"
	v4      = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`
	dual    = `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10::/48","Backend":{"Type":"vxlan"}}`
	// patience bounds every wait; the machine may be busy.
	patience = 60 * time.Second
	flannel  = "flannel.alpha.coreos.com/"
)

// fixture is an API server and the stores that a test has opened.
type fixture struct {
	*testing.T
	*kubetest.Server
	log *syncBuffer
}

// syncBuffer is a log that a test can read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// open returns the store of a node that has read the network's configuration.
func (f *fixture) open(node, netConf string) *Store {
	f.Helper()
	path := filepath.Join(f.TempDir(), "net-conf.json")
	if err := os.WriteFile(path, []byte(netConf), 0o644); err != nil {
		f.Fatal(err)
	}
	s, err := Open(Config{
		Kubeconfig: f.Kubeconfig, NodeName: node, NetConfPath: path, AnnounceNetwork: true,
		Log: slog.New(slog.NewTextHandler(f.log, nil)),
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = s.Close() })
	if _, err := s.NetConf(f.Context()); err != nil {
		f.Fatal(err)
	}
	return s
}

func claim(node int, netConf string) lease.Claim {
	c, err := lease.ParseConfig([]byte(netConf))
	if err != nil {
		panic(err)
	}
	out := lease.Claim{Config: c, Attrs: lease.Attrs{
		PublicIP: netip.AddrFrom4([4]byte{172, 16, 1, byte(node)}), BackendType: "vxlan", BackendData: vtep(node),
	}}
	if c.EnableIPv6 {
		out.Attrs.PublicIPv6 = netip.MustParseAddr(fmt.Sprintf("fd00:16::%x", node))
		out.Attrs.BackendV6Data = vtep(node)
	}
	return out
}

func vtep(node int) json.RawMessage {
	return fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, node)
}

func (f *fixture) acquire(s *Store, c lease.Claim) lease.Grant {
	f.Helper()
	g, err := s.Acquire(f.Context(), c)
	if err != nil {
		f.Fatal(err)
	}
	return g
}

// ours returns the node's annotations that are flannel's, or another prefix's.
func (f *fixture) ours(node, prefix string) map[string]string {
	f.Helper()
	out := map[string]string{}
	for key, value := range f.Node(f.T, node).Annotations {
		if rest, ok := strings.CutPrefix(key, prefix); ok {
			out[rest] = value
		}
	}
	return out
}

// peer makes a node whose annotations are a hand's or a flanneld's.
func (f *fixture) peer(n int) string {
	f.Helper()
	name := fmt.Sprintf("peer-%d", n)
	f.AddNode(f.T, name, fmt.Sprintf("10.244.%d.0/24", n))
	f.Annotate(f.T, name, map[string]any{
		flannel + "kube-subnet-manager": "true", flannel + "backend-type": "vxlan",
		flannel + "backend-data": string(vtep(n)), flannel + "public-ip": fmt.Sprintf("172.16.1.%d", n),
	})
	return name
}

// watcher is a store that is being followed.
type watcher struct {
	*testing.T
	mu   sync.Mutex
	last lease.Snapshot
	all  []lease.Snapshot
}

func (f *fixture) watch(s *Store) *watcher {
	f.Helper()
	w := &watcher{T: f.T}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		s.Watch(ctx, func(snap lease.Snapshot) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.last = snap
			w.all = append(w.all, snap)
		})
	})
	f.Cleanup(func() { cancel(); running.Wait() })
	return w
}

// text spells a snapshot: each lease, then what is unreadable, then whether
// changes arrive.
func text(s lease.Snapshot) string {
	var out []string
	for _, l := range s.Leases {
		out = append(out, fmt.Sprintf("%s=%s%s", l.Key, l.Attrs.PublicIP, l.Attrs.BackendData))
	}
	for _, k := range s.Unreadable {
		out = append(out, "unreadable "+k.String())
	}
	if s.Err != nil {
		out = append(out, "broken")
	}
	return strings.Join(out, " ")
}

// expect waits for a snapshot.
func (w *watcher) expect(want ...string) lease.Snapshot {
	w.Helper()
	var last lease.Snapshot
	poll(w.T, strings.Join(want, " "), func() error {
		w.mu.Lock()
		last = w.last
		w.mu.Unlock()
		if got := text(last); got != strings.Join(want, " ") {
			return fmt.Errorf("the snapshot is %q, %v", got, last.Err)
		}
		return nil
	})
	return last
}

func poll(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

func leased(n int) string {
	return fmt.Sprintf("10.244.%d.0-24=172.16.1.%d%s", n, n, vtep(n))
}

// TestAgainstAPIs runs every test against the fake and against a real
// kube-apiserver. A test begins without nodes.
func TestAgainstAPIs(t *testing.T) {
	nstest.Require(t)
	kubetest.Each(t, func(t *testing.T, start kubetest.Start) {
		server := start(t, address)
		for _, tt := range []struct {
			name string
			run  func(*fixture)
		}{
			{"Acquire", acquireNew},
			{"AcquireDualStack", acquireDualStack},
			{"Overwrite", overwrite},
			{"Self", self},
			{"PodCIDR", podCIDR},
			{"Announce", announce},
			{"Watch", watchChanges},
			{"OneFamily", oneFamily},
			{"Outage", outage},
			{"OnePodCIDRTwice", onePodCIDRTwice},
		} {
			t.Run(tt.name, func(t *testing.T) { tt.run(newFixture(t, server)) })
		}
	})
}

// TestK1PoisonAnnotation: upstream's store drops every peer for one lease that
// it cannot read (seen with etcd, pkg/subnet/etcd/registry.go).
func TestK1PoisonAnnotation(t *testing.T) {
	nstest.Require(t)
	kubetest.Each(t, func(t *testing.T, start kubetest.Start) { poison(newFixture(t, start(t, address))) })
}

// TestK5Relist: upstream, when it lists again after 410 or a compaction,
// compares subnets alone and misses a changed MAC (pkg/lease/lease.go).
func TestK5Relist(t *testing.T) {
	nstest.Require(t)
	kubetest.Each(t, func(t *testing.T, start kubetest.Start) { relist(newFixture(t, start(t, address))) })
}

// newFixture is for a server without nodes, and leaves it so.
func newFixture(t *testing.T, server *kubetest.Server) *fixture {
	f := &fixture{T: t, Server: server, log: &syncBuffer{}}
	t.Cleanup(func() {
		server.DeleteNodes(t)
		if t.Failed() {
			t.Logf("the stores said:\n%s", f.log)
		}
	})
	return f
}

func acquireNew(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	s := f.open("a", v4)
	g := f.acquire(s, claim(3, v4))
	if d := cmp.Diff(map[string]string{
		"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "172.16.1.3",
		"backend-data": `{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}`,
	}, f.ours("a", flannel)); d != "" {
		f.Errorf("annotations (-flannel's +got):\n%s", d)
	}
	if g.Lease.Key.String() != "10.244.3.0-24" || g.TTL != 0 || !g.Bound || g.Replaced != nil || g.Lease.Revision == 0 {
		f.Errorf("grant %+v", g)
	}
	version := f.Node(f.T, "a").ResourceVersion
	if again := f.acquire(f.open("a", v4), claim(3, v4)); fmt.Sprint(again.Lease.Revision) != version {
		f.Errorf("the second run wrote the node anew: %+v, it was at %s", again, version)
	}
	if ttl, err := s.Renew(f.Context(), g.Lease); err != nil || ttl != 0 {
		f.Errorf("renewed for %v (%v)", ttl, err)
	}
	// The same in another spelling: flannel reads the text, so it is written.
	f.Annotate(f.T, "a", map[string]any{flannel + "backend-data": `{ "VtepMAC":"02:00:00:00:00:03", "VNI":1 }`})
	f.acquire(s, claim(3, v4))
	if got := f.ours("a", flannel)["backend-data"]; got != string(vtep(3)) {
		f.Errorf("backend-data is %s", got)
	}
	// A backend without data, as host-gw.
	bare := claim(3, v4)
	bare.Attrs.BackendType, bare.Attrs.BackendData = "host-gw", nil
	g = f.acquire(s, bare)
	if got := f.ours("a", flannel); got["backend-data"] != "null" || got["backend-type"] != "host-gw" {
		f.Errorf("host-gw's annotations are %v", got)
	}
	w := f.watch(s)
	snap := w.expect("10.244.3.0-24=172.16.1.3")
	if !snap.Leases[0].Attrs.Equal(g.Lease.Attrs) || snap.Revision < g.Lease.Revision {
		f.Errorf("granted %+v, seen %+v", g.Lease, snap)
	}
}

func acquireDualStack(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24", "fd00:10:0:3::/64")
	s := f.open("a", dual)
	g := f.acquire(s, claim(3, dual))
	if d := cmp.Diff(map[string]string{
		"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": "172.16.1.3", "public-ipv6": "fd00:16::3",
		"backend-data": string(vtep(3)), "backend-v6-data": string(vtep(3)),
	}, f.ours("a", flannel)); d != "" {
		f.Errorf("annotations (-flannel's +got):\n%s", d)
	}
	if g.Lease.Key.String() != "10.244.3.0-24&fd00:10:0:3::-64" {
		f.Errorf("grant %+v", g)
	}
	// IPv4 alone from now on: nothing of IPv6 stays, and the key is IPv4's.
	s = f.open("a", v4)
	g = f.acquire(s, claim(3, v4))
	if got := f.ours("a", flannel); len(got) != 4 || g.Lease.Key.String() != "10.244.3.0-24" {
		f.Errorf("after IPv6 was switched off: %v, %v", got, g.Lease.Key)
	}
	f.watch(s).expect(leased(3))
	f.AddNode(f.T, "b", "10.244.4.0/24")
	_, err := f.open("b", dual).Acquire(f.Context(), claim(4, dual))
	if err == nil || !strings.Contains(err.Error(), "node b has no IPv6 podCIDR (it has 10.244.4.0/24), and the network configuration enables IPv6") {
		f.Errorf("error of a node with one family: %v", err)
	}
}

// overwrite: an administrator publishes another address than the node uses.
func overwrite(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	f.Annotate(f.T, "a", map[string]any{flannel + "public-ip-overwrite": "203.0.113.3"})
	s := f.open("a", v4)
	g := f.acquire(s, claim(3, v4))
	if got := f.ours("a", flannel)["public-ip"]; got != "203.0.113.3" || g.Lease.Attrs.PublicIP.String() != got {
		f.Errorf("published %s, granted %+v", got, g.Lease)
	}
	f.Annotate(f.T, "a", map[string]any{flannel + "public-ip-overwrite": "here"})
	if _, err := s.Acquire(f.Context(), claim(3, v4)); err == nil || !strings.Contains(err.Error(), `public-ip-overwrite: "here" is not an IPv4 address`) {
		f.Errorf("error of an overwrite that is no address: %v", err)
	}
}

func self(f *fixture) {
	config := claim(3, v4).Config
	f.AddNode(f.T, "a", "10.244.3.0/25")
	s := f.open("a", v4)
	self, err := s.Self(f.Context(), config)
	if err != nil || self.Key.String() != "10.244.3.0-25" || self.PublicIP.IsValid() || self.Attrs.BackendType != "" {
		f.Errorf("before the first lease: %+v, %v", self, err)
	}
	f.acquire(s, claim(3, v4))
	f.Annotate(f.T, "a", map[string]any{flannel + "node-public-ip": "172.16.1.33", flannel + "node-public-ipv6": "fd00::33"})
	self, err = s.Self(f.Context(), config)
	if err != nil || self.PublicIP.String() != "172.16.1.33" || self.PublicIPv6.String() != "fd00::33" || string(self.Attrs.BackendData) != string(vtep(3)) {
		f.Errorf("%+v, %v", self, err)
	}
	f.Annotate(f.T, "a", map[string]any{flannel + "node-public-ip": "fd00::33"})
	if _, err := s.Self(f.Context(), config); err == nil || !strings.Contains(err.Error(), `node a: annotation flannel.alpha.coreos.com/node-public-ip: "fd00::33" is not an IPv4 address`) {
		f.Errorf("error of the wrong family: %v", err)
	}
	_, err = f.open("stranger", v4).Self(f.Context(), config)
	if err == nil || !strings.Contains(err.Error(), `read node stranger: nodes "stranger" not found`) {
		f.Errorf("error of an unknown node: %v", err)
	}
}

func podCIDR(f *fixture) {
	f.AddNode(f.T, "late")
	s := f.open("late", v4)
	if _, err := s.Acquire(f.Context(), claim(3, v4)); err == nil || !strings.Contains(err.Error(), "node late has no podCIDR yet: kube-controller-manager assigns it") {
		f.Errorf("error without a podCIDR: %v", err)
	}
	f.SetPodCIDRs(f.T, "late", "10.244.3.0/24")
	if g := f.acquire(s, claim(3, v4)); g.Lease.Key.String() != "10.244.3.0-24" {
		f.Errorf("grant %+v", g)
	}
	f.AddNode(f.T, "elsewhere", "10.9.3.0/24")
	_, err := f.open("elsewhere", v4).Acquire(f.Context(), claim(4, v4))
	if err == nil || !strings.Contains(err.Error(), "podCIDR 10.9.3.0/24 of node elsewhere is outside the Network 10.244.0.0/16") {
		f.Errorf("error of a podCIDR outside: %v", err)
	}
	if got := f.ours("elsewhere", flannel); len(got) > 0 {
		f.Errorf("it was published all the same: %v", got)
	}
}

func announce(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	s := f.open("a", v4)
	for range 2 {
		if err := s.Announce(f.Context()); err != nil {
			f.Fatal(err)
		}
	}
	version := ""
	for range 2 {
		n := f.Node(f.T, "a")
		if version != "" && version != n.ResourceVersion {
			f.Error("the second time wrote it again")
		}
		version = n.ResourceVersion
		c := n.Status.Conditions
		if len(c) != 1 || c[0].Type != corev1.NodeNetworkUnavailable || c[0].Status != corev1.ConditionFalse ||
			c[0].Reason != "FlannelIsUp" || c[0].Message != "Flannel is running on this node" || c[0].LastTransitionTime.IsZero() {
			f.Errorf("conditions %+v", c)
		}
		if err := s.Announce(f.Context()); err != nil {
			f.Fatal(err)
		}
	}
	f.AddNode(f.T, "b", "10.244.4.0/24")
	silent := f.open("b", v4)
	silent.config.AnnounceNetwork = false
	if err := silent.Announce(f.Context()); err != nil || len(f.Node(f.T, "b").Status.Conditions) > 0 {
		f.Errorf("announced against the configuration (%v)", err)
	}
}

func watchChanges(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	f.AddNode(f.T, "foreign", "10.244.9.0/24")
	two := f.peer(2)
	s := f.open("a", v4)
	w := f.watch(s)
	w.expect(leased(2))
	g := f.acquire(s, claim(3, v4))
	if snap := w.expect(leased(2), leased(3)); snap.Revision < g.Lease.Revision {
		f.Errorf("revision %d of a snapshot that shows %d", snap.Revision, g.Lease.Revision)
	}
	f.Annotate(f.T, two, map[string]any{flannel + "backend-data": string(vtep(22))})
	w.expect("10.244.2.0-24=172.16.1.2"+string(vtep(22)), leased(3))
	f.Annotate(f.T, two, map[string]any{flannel + "kube-subnet-manager": nil})
	w.expect(leased(3))
	f.peer(4)
	w.expect(leased(3), leased(4))
	f.DeleteNode(f.T, "peer-4")
	w.expect(leased(3))
	// What says nothing of a lease tells nobody anything.
	before := len(w.snapshots())
	f.Annotate(f.T, "foreign", map[string]any{"example.com/x": "1"})
	f.Annotate(f.T, "a", map[string]any{"example.com/x": "1"})
	f.peer(5)
	w.expect(leased(3), leased(5))
	if n := len(w.snapshots()) - before; n != 1 {
		f.Errorf("%d snapshots for one lease", n)
	}
}

func (w *watcher) snapshots() []lease.Snapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all[:len(w.all):len(w.all)]
}

// oneFamily changes IPv6 alone. Flannel compares both families at once, and so
// misses it (pkg/subnet/kube/kube.go, the informer's update handler).
func oneFamily(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24", "fd00:10:0:3::/64")
	s := f.open("a", dual)
	f.acquire(s, claim(3, dual))
	w := f.watch(s)
	w.expect("10.244.3.0-24&fd00:10:0:3::-64=172.16.1.3" + string(vtep(3)))
	f.Annotate(f.T, "a", map[string]any{flannel + "backend-v6-data": string(vtep(33))})
	poll(f.T, "the change of one family", func() error {
		all := w.snapshots()
		if got := all[len(all)-1].Leases[0].Attrs.BackendV6Data; string(got) != string(vtep(33)) {
			return fmt.Errorf("BackendV6Data is %s", got)
		}
		return nil
	})
}

// poison: one node's annotations must cost no other node anything.
func poison(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	s := f.open("a", v4)
	f.acquire(s, claim(3, v4))
	two := f.peer(2)
	f.peer(4)
	w := f.watch(s)
	w.expect(leased(2), leased(3), leased(4))
	for key, value := range map[string]string{"backend-data": `{"VNI":1,`, "public-ip": "nowhere", "public-ipv6": "172.16.1.2"} {
		f.Annotate(f.T, two, map[string]any{flannel + key: value})
		w.expect(leased(2), leased(3), leased(4), "unreadable 10.244.2.0-24")
		if want := "node " + two + ": annotation " + flannel + key; !strings.Contains(f.log.String(), want) {
			f.Errorf("the log does not say %q", want)
		}
		f.Annotate(f.T, two, map[string]any{flannel + "backend-data": string(vtep(2)), flannel + "public-ip": "172.16.1.2", flannel + "public-ipv6": nil})
		w.expect(leased(2), leased(3), leased(4))
	}
	// One that never could be read, and one without an address.
	f.AddNode(f.T, "peer-6", "10.244.6.0/24")
	f.Annotate(f.T, "peer-6", map[string]any{flannel + "kube-subnet-manager": "true"})
	w.expect(leased(2), leased(3), leased(4), "unreadable 10.244.6.0-24")
	// A new view does not know the last readable value.
	f.Annotate(f.T, two, map[string]any{flannel + "backend-data": `{`})
	f.watch(f.open("a", v4)).expect(leased(3), leased(4), "unreadable 10.244.2.0-24", "unreadable 10.244.6.0-24")
}

// relist: the API forgets what it was asked to resume from (410 Gone), as
// after a compaction. What changed meanwhile must be found by listing again.
func relist(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	s := f.open("a", v4)
	f.acquire(s, claim(3, v4))
	f.peer(2)
	f.peer(4)
	w := f.watch(s)
	w.expect(leased(2), leased(3), leased(4))
	before := len(w.snapshots())
	f.Stop()
	f.Lose(f.T, "peer-2")
	f.Restart(f.T)
	f.Annotate(f.T, "peer-4", map[string]any{flannel + "backend-data": string(vtep(44))})
	w.expect(leased(3), "10.244.4.0-24=172.16.1.4"+string(vtep(44)))
	for _, snap := range w.snapshots()[before:] {
		if got := text(snap); !strings.Contains(got, leased(3)) || !strings.Contains(got, "10.244.4.0-24") {
			f.Errorf("on the way, the snapshot was %q", got)
		}
	}
}

// outage: without the API everything stays as it was, and says so.
func outage(f *fixture) {
	f.AddNode(f.T, "a", "10.244.3.0/24")
	s := f.open("a", v4)
	f.acquire(s, claim(3, v4))
	f.peer(2)
	w := f.watch(s)
	w.expect(leased(2), leased(3))
	f.Stop()
	snap := w.expect(leased(2), leased(3), "broken")
	if !strings.Contains(snap.Err.Error(), "nodes: ") {
		f.Errorf("the error is %v", snap.Err)
	}
	if _, err := s.Acquire(f.Context(), claim(3, v4)); err == nil || !strings.Contains(err.Error(), "read node a: ") {
		f.Errorf("error without an API: %v", err)
	}
	f.Restart(f.T)
	w.expect(leased(2), leased(3))
	f.peer(4)
	w.expect(leased(2), leased(3), leased(4))
	if said := f.log.String(); strings.Count(said, "followed again") != 1 || strings.Count(said, "what is known stays in force") > 4 {
		f.Errorf("the log says\n%s", said)
	}
	// A store that begins without the API has no leases yet, not none.
	f.Stop()
	w = f.watch(f.open("a", v4))
	if snap := w.expect("broken"); snap.Revision != 0 {
		f.Errorf("it claims to have read revision %d", snap.Revision)
	}
	f.Restart(f.T)
	w.expect(leased(2), leased(3), leased(4))
}

// onePodCIDRTwice: the API does not forbid it; the node's own counts for it.
func onePodCIDRTwice(f *fixture) {
	f.AddNode(f.T, "z", "10.244.2.0/24")
	f.peer(2)
	s := f.open("z", v4)
	f.acquire(s, claim(3, v4))
	f.watch(s).expect("10.244.2.0-24=172.16.1.3" + string(vtep(3)))
	if want := "nodes z and peer-2 have one podCIDR, 10.244.2.0-24"; !strings.Contains(f.log.String(), want) {
		f.Errorf("the log does not say %q", want)
	}
	f.AddNode(f.T, "b", "10.244.9.0/24")
	f.watch(f.open("b", v4)).expect(leased(2))
}

func TestNetConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "net-conf.json")
	s, err := Open(Config{APIURL: "http://127.0.0.1:1", NodeName: "a", NetConfPath: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NetConf(t.Context()); !errors.Is(err, lease.ErrNoConfig) || !strings.Contains(err.Error(), path) {
		t.Errorf("error without the file: %v", err)
	}
	for text, want := range map[string]string{`{"Network":`: path, v4: ""} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		raw, err := s.NetConf(t.Context())
		if want == "" && (err != nil || string(raw) != text) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %s, %v", text, raw, err)
		}
	}
}

// TestPodName finds the node's name by the pod that the agent runs in.
func TestPodName(t *testing.T) {
	nstest.Require(t)
	server := kubetest.Fake(t, address)
	server.AddNode(t, "agent-node", "10.244.3.0/24")
	s, err := Open(Config{Kubeconfig: server.Kubeconfig, PodName: "agent", PodNamespace: "kube-flannel", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	self, err := s.Self(t.Context(), claim(3, v4).Config)
	if err != nil || self.Key.String() != "10.244.3.0-24" {
		t.Errorf("%+v, %v", self, err)
	}
	s, err = Open(Config{Kubeconfig: server.Kubeconfig, PodName: "agent", PodNamespace: "other", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Self(t.Context(), claim(3, v4).Config); err == nil || !strings.Contains(err.Error(), "find the node of pod other/agent: ") {
		t.Errorf("error of an unknown pod: %v", err)
	}
}
