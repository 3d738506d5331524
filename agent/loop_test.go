package agent

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/backend/vxlan"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/underlay"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

// memory is a store that grants 10.244.1.0/24 and knows nobody else.
type memory struct {
	ttl      time.Duration
	mu       sync.Mutex
	acquired int
	renewed  int
	expired  bool
	// away is how many renewals to come find no store.
	away int
}

func (m *memory) NetConf(context.Context) ([]byte, error) {
	return []byte(`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan"}}`), nil
}

func (m *memory) Acquire(_ context.Context, c lease.Claim) (lease.Grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.acquired++
	m.expired = false
	l := lease.Lease{Key: lease.Key{Subnet: netip.MustParsePrefix("10.244.1.0/24")}, Attrs: c.Attrs, ID: 1, Revision: 1000}
	return lease.Grant{Lease: l, TTL: m.ttl}, nil
}

func (m *memory) Renew(context.Context, lease.Lease) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.expired {
		return 0, lease.ErrExpired
	}
	if m.away > 0 {
		m.away--
		return 0, errors.New("down")
	}
	m.renewed++
	return m.ttl, nil
}

// Watch tells of an empty store that is older than any lease.
func (m *memory) Watch(ctx context.Context, fn func(lease.Snapshot)) {
	fn(lease.Snapshot{Err: errors.New("down")})
	fn(lease.Snapshot{Revision: 1})
	<-ctx.Done()
}

func (m *memory) Close() error { return nil }

func (m *memory) count() (acquired, renewed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.acquired, m.renewed
}

// run runs an agent on a dummy underlay until the test ends.
func run(t *testing.T, m *memory) *Agent {
	t.Helper()
	a := New(Options{
		Store: m, Backends: map[string]backend.New{vxlan.Type: vxlan.New}, Underlay: underlay.Options{Iface: []string{"eth0"}},
		SubnetFile: filepath.Join(t.TempDir(), "run", "subnet.env"), FirewallResync: time.Second,
		RenewMargin: 10 * time.Millisecond, Resync: 20 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	set := nstest.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- set.Do(func() error {
			conn, err := rtnl.Dial()
			if err != nil {
				return err
			}
			var b rtnl.Batch
			b.AddVeth(rtnl.Link{Name: "eth0", Index: 7}, rtnl.Link{Name: "port", Index: 6})
			b.AddAddr(7, netip.MustParsePrefix("172.16.1.1/24"))
			b.SetLink(rtnl.Link{Index: 7, Up: true})
			if err := errors.Join(conn.Do(&b), conn.Close()); err != nil {
				return err
			}
			return a.Run(ctx)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	until(t, "the agent is ready", func() error { return a.Check(t.Context()) })
	return a
}

func until(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

func TestSubnetFileIsRestored(t *testing.T) {
	a := run(t, &memory{})
	const want = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
	for _, spoil := range []func() error{
		func() error { return nil },
		func() error { return os.Remove(a.SubnetFile) },
		func() error { return os.RemoveAll(filepath.Dir(a.SubnetFile)) },
		func() error { return os.WriteFile(a.SubnetFile, []byte("FLANNEL_MTU=9000\n"), 0o600) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		until(t, "the subnet file comes back", func() error {
			got, err := os.ReadFile(a.SubnetFile)
			if err == nil && string(got) != want {
				err = errors.New(string(got))
			}
			return err
		})
		if entries, err := os.ReadDir(filepath.Dir(a.SubnetFile)); err != nil || len(entries) != 1 {
			t.Errorf("the folder holds %v (%v)", entries, err)
		}
	}
	config := &lease.Config{EnableIPv4: true, Network: netip.MustParsePrefix("10.244.0.0/16")}
	if got := previousKey(a.SubnetFile, config); got.String() != "10.244.1.0-24" {
		t.Errorf("the next run would ask for %s", got)
	}
	config.Network = netip.MustParsePrefix("10.5.0.0/16")
	if got := previousKey(a.SubnetFile, config); got != (lease.Key{}) {
		t.Errorf("in another network it would ask for %s", got)
	}
}

func TestRenewal(t *testing.T) {
	m := &memory{ttl: 20 * time.Millisecond}
	a := run(t, m)
	until(t, "two renewals", func() error {
		if _, renewed := m.count(); renewed < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	if acquired, _ := m.count(); acquired != 1 {
		t.Errorf("acquired %d times", acquired)
	}
	m.mu.Lock()
	m.expired = true
	m.mu.Unlock()
	until(t, "an expired lease is acquired again", func() error {
		if acquired, _ := m.count(); acquired < 2 {
			return errors.New("not yet")
		}
		return a.Check(t.Context())
	})
}

// TestRenewalIsTriedAgain: a store that is away for a moment costs no lease, also
// where the margin is less than the minute after which flannel tries again.
func TestRenewalIsTriedAgain(t *testing.T) {
	m := &memory{ttl: 20 * time.Millisecond, away: 3}
	run(t, m)
	until(t, "a renewal", func() error {
		if _, renewed := m.count(); renewed < 1 {
			return errors.New("not yet")
		}
		return nil
	})
	if acquired, _ := m.count(); acquired != 1 {
		t.Errorf("acquired %d times", acquired)
	}
}

func TestStatus(t *testing.T) {
	ready := 0
	var s *status
	s = newStatus(func() { ready++; _ = s.err() }, topicLease, topicStore)
	if err := s.err(); err == nil || err.Error() != "lease: not done yet\nstore: not done yet" {
		t.Error(err)
	}
	s.set(topicStore, nil)
	s.set(topicLease, errors.New("lost"))
	if err := s.err(); err == nil || err.Error() != "lease: lost" || ready != 0 {
		t.Error(err, ready)
	}
	for range 2 {
		s.set(topicLease, nil)
		if err := s.err(); err != nil || ready != 1 {
			t.Error(err, ready)
		}
		s.set(topicLease, errors.New("lost"))
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 20 * time.Millisecond, last: 100 * time.Millisecond}
	var got []string
	for range 5 {
		got = append(got, b.next().String())
	}
	b.reset()
	got = append(got, b.next().String())
	if s := strings.Join(got, " "); s != "20ms 40ms 80ms 100ms 100ms 20ms" {
		t.Error(s)
	}
}
