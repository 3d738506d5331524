package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/etcdtest"
	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

const prefix = "/coreos.com/network"

type fixture struct {
	*etcdtest.Server
	t     *testing.T
	store *Store
	log   *syncBuffer
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

func start(t *testing.T) *fixture {
	t.Helper()
	nstest.Require(t)
	f := &fixture{Server: etcdtest.Start(t, "127.0.0.1:2379"), t: t, log: &syncBuffer{}}
	f.store = f.open()
	return f
}

func (f *fixture) open() *Store {
	f.t.Helper()
	s, err := Open(Config{Endpoints: []string{f.Endpoint}, Prefix: prefix, Log: slog.New(slog.NewTextHandler(f.log, nil))})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (f *fixture) put(key, value string, o ...clientv3.OpOption) {
	f.t.Helper()
	if _, err := f.Client.Put(f.t.Context(), prefix+key, value, o...); err != nil {
		f.t.Fatal(err)
	}
}

// value returns a key's value and etcd lease.
func (f *fixture) value(key string) (string, int64) {
	f.t.Helper()
	r, err := f.Client.Get(f.t.Context(), prefix+key)
	if err != nil {
		f.t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return "", 0
	}
	return string(r.Kvs[0].Value), r.Kvs[0].Lease
}

func claim(node int, network string) lease.Claim {
	c, err := lease.ParseConfig([]byte(network))
	if err != nil {
		panic(err)
	}
	return lease.Claim{Config: c, Attrs: lease.Attrs{
		PublicIP: netip.AddrFrom4([4]byte{172, 16, 1, byte(node)}), BackendType: "vxlan",
		BackendData: fmt.Appendf(nil, `{"VNI":1,"VtepMAC":"02:00:00:00:00:%02x"}`, node),
	}}
}

const (
	wide = `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`
	one  = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.5.0","SubnetMax":"10.244.5.0","Backend":{"Type":"vxlan"}}`
)

func (f *fixture) acquire(s *Store, c lease.Claim) lease.Grant {
	f.t.Helper()
	g, err := s.Acquire(f.t.Context(), c)
	if err != nil {
		f.t.Fatal(err)
	}
	return g
}

func TestNetConf(t *testing.T) {
	f := start(t)
	if _, err := f.store.NetConf(t.Context()); err == nil || !strings.Contains(err.Error(), lease.ErrNoConfig.Error()) {
		t.Errorf("error without a configuration: %v", err)
	}
	f.put("/config", wide)
	if raw, err := f.store.NetConf(t.Context()); err != nil || string(raw) != wide {
		t.Errorf("%s, %v", raw, err)
	}
}

func TestAcquireNew(t *testing.T) {
	f := start(t)
	g := f.acquire(f.store, claim(3, one))
	value, id := f.value("/subnets/10.244.5.0-24")
	const want = `{"PublicIP":"172.16.1.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}}`
	if value != want {
		t.Errorf("value\n%s, not flannel's\n%s", value, want)
	}
	ttl, err := f.Client.TimeToLive(t.Context(), clientv3.LeaseID(id))
	if err != nil || ttl.GrantedTTL != 86400 {
		t.Errorf("lease of %d s (%v), not 24 h", ttl.GrantedTTL, err)
	}
	if g.Lease.Key.String() != "10.244.5.0-24" || g.TTL != lease.TTL || g.Replaced != nil || g.Lease.ID != id {
		t.Errorf("grant %+v", g)
	}
	// The same claim again, as after a restart: nothing is written.
	again := f.acquire(f.open(), claim(3, one))
	if again.Lease.Revision != g.Lease.Revision || again.Lease.ID != id || again.Replaced != nil {
		t.Errorf("the second run wrote the lease anew: %+v", again)
	}
	if ttl, err := f.store.Renew(t.Context(), g.Lease); err != nil || ttl != lease.TTL {
		t.Errorf("renewed for %v (%v)", ttl, err)
	}
	// Another VTEP, as after a reboot: the same subnet and etcd lease.
	rebooted := claim(3, one)
	rebooted.Attrs.BackendData = []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:99"}`)
	g = f.acquire(f.open(), rebooted)
	if value, now := f.value("/subnets/10.244.5.0-24"); !strings.Contains(value, ":99") || now != id {
		t.Errorf("value %s, lease %d, not %d", value, now, id)
	}
	if g.Replaced == nil || !strings.Contains(string(g.Replaced.BackendData), ":03") {
		t.Errorf("replaced %+v", g.Replaced)
	}
	if _, err := f.Client.Revoke(t.Context(), clientv3.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.store.Renew(t.Context(), g.Lease); err != lease.ErrExpired {
		t.Errorf("renewing an expired lease: %v", err)
	}
	if _, err := f.store.Acquire(t.Context(), claim(4, one)); err != nil {
		t.Errorf("its subnet is free again: %v", err)
	}
	_, err = f.store.Acquire(t.Context(), claim(5, one))
	if err == nil || !strings.Contains(err.Error(), "out of subnets: every /24 from 10.244.5.0 to 10.244.5.0 is taken") {
		t.Errorf("error without a free subnet: %v", err)
	}
}

// TestK8ReservationNeverExpires: upstream puts a claimed reservation under a
// lease of 24 h, so it is nobody's afterwards.
func TestK8ReservationNeverExpires(t *testing.T) {
	f := start(t)
	f.put("/subnets/10.244.7.0-24", `{"PublicIP":"172.16.1.3"}`)
	f.put("/subnets/10.244.8.0-24", `{"PublicIP":"172.16.1.4"}`)
	g := f.acquire(f.store, claim(3, wide))
	value, id := f.value("/subnets/10.244.7.0-24")
	if id != 0 || g.TTL != 0 || !strings.Contains(value, "VtepMAC") {
		t.Errorf("the reservation got the lease %d (%v): %s", id, g.TTL, value)
	}
	if ttl, err := f.store.Renew(t.Context(), g.Lease); ttl != 0 || err != nil {
		t.Errorf("renewed: %v, %v", ttl, err)
	}
	f.acquire(f.open(), claim(3, wide))
	if _, id := f.value("/subnets/10.244.7.0-24"); id != 0 {
		t.Error("the second claim made it expire")
	}
}

func TestAcquirePrevious(t *testing.T) {
	f := start(t)
	c := claim(3, wide)
	c.Previous = lease.Key{Subnet: netip.MustParsePrefix("10.244.200.0/24")}
	if g := f.acquire(f.store, c); g.Lease.Key != c.Previous {
		t.Errorf("got %s, not the previous subnet", g.Lease.Key)
	}
	// Its value was ruined: still ours.
	f.put("/subnets/10.244.200.0-24", `garbage`)
	if g := f.acquire(f.store, c); g.Lease.Key != c.Previous {
		t.Errorf("got %s, not the ruined key's subnet", g.Lease.Key)
	}
	// Somebody else has it.
	c = claim(4, wide)
	c.Previous = lease.Key{Subnet: netip.MustParsePrefix("10.244.200.0/24")}
	if g := f.acquire(f.store, c); g.Lease.Key == c.Previous {
		t.Error("took another node's subnet")
	}
	// The configuration no longer allows what the node has.
	g := f.acquire(f.store, claim(3, one))
	if g.Lease.Key.String() != "10.244.5.0-24" {
		t.Errorf("got %s", g.Lease.Key)
	}
	if value, _ := f.value("/subnets/10.244.200.0-24"); value != "" {
		t.Error("the forbidden lease stayed")
	}
}

// TestK7LosersTryAgain starts as many nodes at once as there are subnets.
// Upstream's loser of a race exits with "subnet already exists".
func TestK7LosersTryAgain(t *testing.T) {
	f := start(t)
	const network = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.1.0","SubnetMax":"10.244.12.0","Backend":{"Type":"vxlan"}}`
	const nodes = 12
	subnets := make([]string, nodes)
	var wg sync.WaitGroup
	for i := range nodes {
		s := f.open()
		wg.Go(func() {
			g, err := s.Acquire(t.Context(), claim(i+1, network))
			if err != nil {
				t.Error(err)
				return
			}
			subnets[i] = g.Lease.Key.String()
		})
	}
	wg.Wait()
	slices.Sort(subnets)
	if n := len(slices.Compact(subnets)); n != nodes {
		t.Errorf("%d nodes have %d subnets", nodes, n)
	}
	if !strings.Contains(f.log.String(), "another node took the subnet first") {
		t.Log("no race was lost in this run")
	}
}

// watch collects snapshots; next returns the newest that satisfies ok.
func (f *fixture) watch(s *Store) (next func(what string, ok func(lease.Snapshot) bool) lease.Snapshot) {
	f.t.Helper()
	ctx, cancel := context.WithCancel(f.t.Context())
	snapshots := make(chan lease.Snapshot, 1000)
	var wg sync.WaitGroup
	wg.Go(func() { s.Watch(ctx, func(s lease.Snapshot) { snapshots <- s }) })
	f.t.Cleanup(func() { cancel(); wg.Wait() })
	return func(what string, ok func(lease.Snapshot) bool) lease.Snapshot {
		f.t.Helper()
		deadline := time.After(20 * time.Second)
		var last lease.Snapshot
		for {
			select {
			case last = <-snapshots:
				if ok(last) {
					return last
				}
			case <-deadline:
				f.t.Fatalf("%s: the last snapshot is %+v", what, last)
			}
		}
	}
}

func has(n int) func(lease.Snapshot) bool {
	return func(s lease.Snapshot) bool { return s.Err == nil && len(s.Leases) == n }
}

// TestK1BadKeysChangeNothing: upstream takes any key that it cannot read for an
// empty store, and every node drops all routes, neighbours and FDB entries.
func TestK1BadKeysChangeNothing(t *testing.T) {
	f := start(t)
	first := f.acquire(f.store, claim(1, wide))
	next := f.watch(f.store)
	next("the first list", has(1))
	f.acquire(f.open(), claim(2, wide))
	next("a new lease", has(2))

	// What is no lease changes nothing, and what it is put over is kept.
	f.put("/subnets/hello", "world")
	f.put("/subnets/10.244.1.7-24", `{"PublicIP":"172.16.1.9"}`)
	f.put("/subnets/10.244.300.0-24", `{}`)
	f.put("/subnets/x10.244.77.0-24", `{"PublicIP":"172.16.1.9"}`)
	f.put("/subnets/"+first.Lease.Key.String(), `{"PublicIP":`)
	s := next("a ruined lease", func(s lease.Snapshot) bool { return len(s.Unreadable) == 1 })
	if l, ok := s.Find(first.Lease.Key); len(s.Leases) != 2 || !ok || !l.Attrs.Equal(first.Lease.Attrs) {
		t.Errorf("bad keys changed the leases: %+v", s)
	}
	for _, key := range []string{"hello", "10.244.1.7-24", "10.244.300.0-24", "x10.244.77.0-24", first.Lease.Key.String()} {
		if !strings.Contains(f.log.String(), prefix+"/subnets/"+key) {
			t.Errorf("the log does not name the bad key %s", key)
		}
	}
	// A fresh list with the same keys shows what can be read.
	f.watch(f.open())("a list with bad keys", func(s lease.Snapshot) bool {
		return s.Err == nil && len(s.Leases) == 1 && len(s.Unreadable) == 1
	})
	if _, err := f.Client.Delete(t.Context(), prefix+"/subnets/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	next("all deleted", has(0))
}

func TestWatchSurvivesTheStore(t *testing.T) {
	f := start(t)
	f.acquire(f.store, claim(1, wide))
	next := f.watch(f.store)
	next("the first list", has(1))
	f.Stop()
	s := next("the store's end", func(s lease.Snapshot) bool { return s.Err != nil })
	if len(s.Leases) != 1 || s.Revision == 0 {
		t.Errorf("without the store the leases are %+v", s)
	}
	f.Restart(t)
	next("the store's return", has(1))
	f.acquire(f.open(), claim(2, wide))
	next("a lease after that", has(2))
}

func TestWatchWithoutStore(t *testing.T) {
	f := start(t)
	f.Stop()
	next := f.watch(f.store)
	down := func(s lease.Snapshot) bool { return s.Err != nil }
	for range 2 {
		if s := next("no store", down); s.Revision != 0 {
			t.Errorf("revision %d without a store", s.Revision)
		}
	}
	f.Restart(t)
	next("the store appears", has(0))
	if said := f.log.String(); strings.Count(said, "was interrupted") != 1 || strings.Count(said, "followed again") != 1 {
		t.Errorf("one trouble and its end are to be told of once:\n%s", said)
	}
}

// TestK5CompactionLosesNothing makes the store forget what a watcher has yet to
// see. Upstream's reset afterwards compares subnets alone, so it misses a peer's
// new MAC, and tells of the node's own subnet as removed.
func TestK5CompactionLosesNothing(t *testing.T) {
	f := start(t)
	own := f.acquire(f.store, claim(1, one)).Lease
	const peer = "/subnets/10.244.200.0-24"
	f.put(peer, `{"PublicIP":"172.16.1.99","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:01"}}`)
	v, err := f.store.list(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		f.put(peer, fmt.Sprintf(`{"PublicIP":"172.16.1.99","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:%02x"}}`, 0x10+i))
	}
	r, err := f.Client.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Client.Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	err = f.store.follow(t.Context(), v, func(lease.Snapshot) {})
	if err == nil || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("following from before the compaction: %v", err)
	}
	s := f.watch(f.store)("the list after it", has(2))
	if _, ok := s.Find(own.Key); !ok || !strings.Contains(string(s.Leases[1].Attrs.BackendData), "02:00:00:00:00:14") {
		t.Errorf("the list is %+v", s.Leases)
	}
}
