package rtnl_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// inside runs fn with a socket in a namespace that has one VXLAN device.
func inside(t *testing.T, fn func(c *rtnl.Conn)) {
	t.Helper()
	err := nstest.New(t).Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer c.Close()
		var b rtnl.Batch
		b.AddVxlan(rtnl.Link{Name: "flannel.1", Index: 7, MTU: 1450, Up: true},
			rtnl.Vxlan{VNI: 1, Port: 8472, Local: netip.MustParseAddr("192.0.2.1")})
		if err := c.Do(&b); err != nil {
			return err
		}
		fn(c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func peer(i int) (netip.Prefix, net.HardwareAddr) {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24),
		net.HardwareAddr{2, 0, 0, 0, byte(i >> 8), byte(i)}
}

// More messages than go into one send arrive, all of them.
func TestManyMessages(t *testing.T) {
	const peers = 300
	inside(t, func(c *rtnl.Conn) {
		var b rtnl.Batch
		for i := range peers {
			subnet, mac := peer(i)
			b.AddNeigh(rtnl.Neigh{Dev: 7, IP: subnet.Addr(), MAC: mac})
			b.AddFDB(rtnl.FDB{Dev: 7, MAC: mac, Dst: netip.MustParseAddr("192.0.2.2")})
			b.AddRoute(rtnl.Route{Dst: subnet, Via: subnet.Addr(), Dev: 7, Onlink: true})
		}
		if b.Len() != 3*peers {
			t.Fatalf("the batch holds %d messages, want %d", b.Len(), 3*peers)
		}
		if err := c.Do(&b); err != nil {
			t.Fatal(err)
		}
		if b.Len() != 0 {
			t.Errorf("the batch still holds %d messages", b.Len())
		}
		routes, err := c.Routes(unix.AF_INET, 7)
		if err != nil {
			t.Fatal(err)
		}
		got := 0
		for _, r := range routes {
			if r.Dst.Bits() == 24 {
				got++
			}
		}
		if got != peers {
			t.Errorf("the kernel has %d routes, want %d", got, peers)
		}
	})
}

// Every refused message is named, and stops none behind it.
func TestRefusals(t *testing.T) {
	inside(t, func(c *rtnl.Conn) {
		var b rtnl.Batch
		refused := 0
		for i := range 450 {
			subnet, mac := peer(i)
			if i%2 == 0 {
				b.DelNeigh(rtnl.Neigh{Dev: 7, IP: subnet.Addr(), MAC: mac}) // there is none
				refused++
				continue
			}
			b.AddNeigh(rtnl.Neigh{Dev: 7, IP: subnet.Addr(), MAC: mac})
		}
		err := c.Do(&b)
		if !errors.Is(err, unix.ENOENT) {
			t.Fatalf("got %v, want ENOENT", err)
		}
		var first *rtnl.Error
		if !errors.As(err, &first) || !strings.HasPrefix(first.Op, "neigh del 10.0.0.0 ") {
			t.Errorf("the first refusal is %v", first)
		}
		if n := strings.Count(err.Error(), "neigh del"); n != refused {
			t.Errorf("%d refusals are named, want %d", n, refused)
		}
		neighs, err := c.Neighs(unix.AF_INET, 7)
		if err != nil {
			t.Fatal(err)
		}
		if len(neighs) != 450-refused {
			t.Errorf("the kernel has %d neighbours, want %d", len(neighs), 450-refused)
		}
	})
}

func TestToleratedRefusal(t *testing.T) {
	inside(t, func(c *rtnl.Conn) {
		subnet, mac := peer(1)
		var b rtnl.Batch
		b.DelFDB(rtnl.FDB{Dev: 7, MAC: mac, Dst: netip.MustParseAddr("192.0.2.2")})
		b.Tolerate(unix.ENOENT)
		b.DelRoute(rtnl.Route{Dst: subnet, Dev: 7})
		b.Tolerate(unix.ESRCH)
		if err := c.Do(&b); err != nil {
			t.Error(err)
		}
	})
}

// The kernel's own explanation is part of the error.
func TestExplanation(t *testing.T) {
	inside(t, func(c *rtnl.Conn) {
		var b rtnl.Batch
		b.AddRoute(rtnl.Route{Dst: netip.MustParsePrefix("10.1.0.0/24"), Via: netip.MustParseAddr("10.9.9.9"), Dev: 7})
		var refused *rtnl.Error
		if err := c.Do(&b); !errors.As(err, &refused) || refused.Detail == "" {
			t.Errorf("got %v, want the kernel's words with it", err)
		}
	})
}
