package etcd

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/overlab/overlab/agent/lease"
)

const (
	dual  = `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`
	only6 = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`
)

// claim6 is a claim of a node with both families, or of one with IPv6 alone.
func claim6(node int, network string) lease.Claim {
	c := claim(node, network)
	c.Attrs.PublicIPv6 = netip.MustParseAddr(fmt.Sprintf("fd00:172:16:1::%x", node))
	c.Attrs.BackendV6Data = c.Attrs.BackendData
	if !c.Config.EnableIPv4 {
		c.Attrs.PublicIP, c.Attrs.BackendData = netip.Addr{}, nil
	}
	return c
}

func TestAcquireDual(t *testing.T) {
	f := start(t)
	c := claim6(3, dual)
	c.Previous = key(t, "10.244.5.0-24&fd00:10:244:7::-64")
	g := f.acquire(f.store, c)
	value, id := f.value("/subnets/10.244.5.0-24&fd00:10:244:7::-64")
	const want = `{"PublicIP":"172.16.1.3","PublicIPv6":"fd00:172:16:1::3","BackendType":"vxlan",` +
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:03"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:00:03"}}`
	if value != want || id == 0 || g.TTL != lease.TTL {
		t.Errorf("value\n%s, not flannel's\n%s (lease %d)", value, want, id)
	}
	if again := f.acquire(f.store, claim6(3, dual)); again.Lease.Key != g.Lease.Key {
		t.Errorf("after a restart: %s, not %s", again.Lease.Key, g.Lease.Key)
	}
}

// TestReservationDual: a key without a lease names both subnets, and is the
// node's whose PublicIP it has, for ever.
func TestReservationDual(t *testing.T) {
	for name, value := range map[string]string{
		"by PublicIP": `{"PublicIP":"172.16.1.3"}`,
		"by both":     `{"PublicIP":"172.16.1.3","PublicIPv6":"fd00:172:16:1::3"}`,
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			const reserved = "10.244.9.0-24&fd00:10:244:9::-64"
			f.put("/subnets/"+reserved, value)
			if g := f.acquire(f.store, claim6(4, dual)); g.Lease.Key.Overlaps(key(t, reserved)) {
				t.Errorf("a stranger got %s", g.Lease.Key)
			}
			g := f.acquire(f.store, claim6(3, dual))
			if g.Lease.Key.String() != reserved || g.TTL != 0 {
				t.Errorf("got %s for %v", g.Lease.Key, g.TTL)
			}
			if _, id := f.value("/subnets/" + reserved); id != 0 {
				t.Errorf("the reservation expires with lease %x", id)
			}
		})
	}
}

// TestBecomesDual: a node keeps its IPv4 subnet when the network gets IPv6, and
// the key of IPv4 alone goes.
func TestBecomesDual(t *testing.T) {
	f := start(t)
	was := f.acquire(f.store, claim(3, wide))
	c := claim6(3, dual)
	c.Previous = was.Lease.Key
	g := f.acquire(f.store, c)
	if g.Lease.Key.Subnet != was.Lease.Key.Subnet || !g.Lease.Key.Subnet6.IsValid() {
		t.Errorf("%s became %s", was.Lease.Key, g.Lease.Key)
	}
	if value, _ := f.value("/subnets/" + was.Lease.Key.String()); value != "" {
		t.Errorf("the old key holds %s", value)
	}
}

// TestK12NodesOfIPv6Alone: upstream knows a node by its PublicIP, which is
// 0.0.0.0 for every node of IPv6 alone, so that all of them share one lease.
func TestK12NodesOfIPv6Alone(t *testing.T) {
	f := start(t)
	var grants []lease.Grant
	for node := range 3 {
		grants = append(grants, f.acquire(f.store, claim6(node+1, only6)))
	}
	for i, g := range grants {
		value, _ := f.value("/subnets/" + g.Lease.Key.String())
		if want := fmt.Sprintf(`{"PublicIP":"0.0.0.0","PublicIPv6":"fd00:172:16:1::%x"`, i+1); !strings.HasPrefix(value, want) {
			t.Errorf("%s holds %s", g.Lease.Key, value)
		}
		if again := f.acquire(f.store, claim6(i+1, only6)); again.Lease.Key != g.Lease.Key {
			t.Errorf("node %d had %s, and has %s after a restart", i+1, g.Lease.Key, again.Lease.Key)
		}
		for _, other := range grants[:i] {
			if other.Lease.Key.Overlaps(g.Lease.Key) {
				t.Errorf("%s is two nodes'", g.Lease.Key)
			}
		}
	}
}

// TestRacesDual: nodes that start at once share a subnet in no family, though
// two keys with one in common are two keys. Half of them remember an IPv4
// subnet, so that the choices do not go in pairs.
func TestRacesDual(t *testing.T) {
	f := start(t)
	const nodes = 12
	const narrow = `{"Network":"10.244.0.0/16","SubnetMax":"10.244.12.0","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetMax":"fd00:10:244:c::","Backend":{"Type":"vxlan"}}`
	var mu sync.Mutex
	var keys []lease.Key
	var wg sync.WaitGroup
	for node := range nodes {
		c, s := claim6(node+1, narrow), f.open()
		if node%2 == 0 {
			c.Previous = key(t, fmt.Sprintf("10.244.%d.0-24", node+1))
		}
		wg.Go(func() {
			g, err := s.Acquire(t.Context(), c)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			keys = append(keys, g.Lease.Key)
		})
	}
	wg.Wait()
	for i, k := range keys {
		if slices.ContainsFunc(keys[:i], k.Overlaps) {
			t.Errorf("%s shares a subnet with another of %v", k, keys)
		}
	}
	left, err := f.store.list(t.Context())
	if err != nil || len(left.entries) != nodes {
		t.Errorf("%d keys are left in the store (%v)", len(left.entries), err)
	}
}

func key(t *testing.T, s string) lease.Key {
	t.Helper()
	k, err := lease.ParseKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
