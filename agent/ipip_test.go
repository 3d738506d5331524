package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

const ipipConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"ipip"}}`

// hasIPIP reports whether the running kernel makes IP-in-IP devices.
func hasIPIP(t *testing.T) bool {
	t.Helper()
	err := nstest.New(t).Do(func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.AddIPIP(rtnl.Link{Name: "probe"}, netip.MustParseAddr("127.0.0.1"))
		return errors.Join(conn.Do(&b), conn.Close())
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Fatal(err)
	}
	return err == nil
}

// TestIPIP: three agents ping each other through their tunnels, and what is
// taken from the device comes back.
func TestIPIP(t *testing.T) {
	if !hasIPIP(t) {
		t.Skip("SKIPPED, NOT TESTED: this kernel makes no devices of type ipip (CONFIG_NET_IPIP)")
	}
	c := newCluster(t, ipipConf)
	nodes := []*node{c.node(1).start(), c.node(2).start(), c.node(3).start()}
	for _, n := range nodes {
		n.waitReady()
	}
	for _, n := range nodes {
		for _, peer := range nodes {
			if peer != n {
				want := fmt.Sprintf("%s via %s dev flannel.ipip onlink", peer.subnet(), peer.ip)
				n.eventually(want, func() error {
					if countLines(n.podRoutes(), want) != 1 {
						return errors.New(n.podRoutes())
					}
					return nil
				})
				n.sh(fmt.Sprintf("ping -c1 -W5 %s", peer.subnet().Addr()))
			}
		}
		value, _ := c.get(n.key())
		if want := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"ipip"}`, n.ip); value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
	}
	n := nodes[0]
	whole := n.podRoutes()
	for _, tamper := range []string{"ip link del flannel.ipip", "ip link set flannel.ipip mtu 1400", "ip link set flannel.ipip down", "ip addr flush dev flannel.ipip"} {
		n.sh(tamper)
		n.eventually("repair of: "+tamper, func() error {
			if got := n.podRoutes() + n.sh("ip link show flannel.ipip"); !strings.HasPrefix(got, whole) || !strings.Contains(got, "mtu 1480") {
				return errors.New(got)
			}
			return nil
		})
		n.waitReady()
	}
}

// TestIPIPMissing: a kernel without the device is named, and no lease is left.
func TestIPIPMissing(t *testing.T) {
	if hasIPIP(t) {
		t.Skip("SKIPPED, NOT TESTED: this kernel makes devices of type ipip")
	}
	c := newCluster(t, ipipConf)
	n := c.node(1).start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("the agent ran")
	}
	n.cmd = nil
	if !strings.Contains(n.said(), "this kernel makes no devices of type ipip; load the module with `modprobe ipip`") {
		t.Error(n.said())
	}
	if r, err := c.etcd.Client.Get(t.Context(), leases, clientv3.WithPrefix()); err != nil || len(r.Kvs) > 0 {
		t.Errorf("it left a lease behind (%v)", err)
	}
}
