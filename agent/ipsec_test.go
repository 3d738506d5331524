package agent_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/internal/nstest"
)

var ipsecConf = fmt.Sprintf(`{"Network":"10.244.0.0/16","Backend":{"Type":"ipsec","PSK":%q}}`, strings.Repeat("secret", 16))

// noESP says why the running kernel encrypts no packets; empty where it does.
func noESP(t *testing.T) string {
	t.Helper()
	err := nstest.New(t).Do(datapath.ProbeESP)
	switch {
	case err == nil:
		return ""
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.ENOSYS):
		return "this kernel has no ESP with AES-GCM (CONFIG_INET_ESP, CONFIG_CRYPTO_GCM): run `make test-kernel`"
	}
	t.Fatal(err)
	return ""
}

// ipsecCluster is three nodes with ipsec; each has the first address of its
// subnet, to be pinged from the others.
//
//	10.244.A.1          10.244.B.1          10.244.C.1
//	node 1              node 2              node 3
//	eth0 172.16.1.1     eth0 172.16.1.2     eth0 172.16.1.3
//	  └───────────────── br0 ─────────────────┘
func ipsecCluster(t *testing.T) []*node {
	t.Helper()
	if why := noESP(t); why != "" {
		t.Skip("SKIPPED, NOT TESTED: " + why)
	}
	c := newCluster(t, ipsecConf)
	nodes := []*node{c.node(1).start(), c.node(2).start(), c.node(3).start()}
	for _, n := range nodes {
		n.waitReady()
		n.sh(fmt.Sprintf("ip addr add %s/32 dev lo", n.subnet().Addr().Next()))
	}
	for _, n := range nodes {
		n.hasMesh(nodes)
	}
	return nodes
}

// spis are the SPIs of the node's associations, sorted.
func (n *node) spis() string {
	n.Helper()
	return n.sh("ip xfrm state | grep -o 'spi 0x[0-9a-f]*' | sort")
}

// hasMesh waits until the node pings every other, through ESP.
func (n *node) hasMesh(nodes []*node) {
	n.Helper()
	for _, peer := range nodes {
		if peer == n {
			continue
		}
		n.eventually(fmt.Sprintf("%s reaches %s", n.ip, peer.ip), func() (err error) {
			return n.set.Do(func() error { return ping(n.subnet().Addr().Next().String(), peer.subnet().Addr().Next().String()) })
		})
	}
}

// TestIPsec: three agents ping each other through associations of their own
// making; nothing of a pod travels in the clear; what is flushed is made anew
// with other keys, at both ends.
func TestIPsec(t *testing.T) {
	nodes := ipsecCluster(t)
	first, second := nodes[0], nodes[1]
	for _, n := range nodes {
		if got := strings.Count(n.sh("ip xfrm state"), "proto esp spi"); got != 4 {
			t.Errorf("%s has %d associations with 2 peers, not 4", n.ip, got)
		}
		if strings.Contains(n.said(), "secret") {
			t.Error("the log has the pre-shared key")
		}
	}
	before := first.spis()
	for _, tamper := range []func() string{
		func() string { return "ip xfrm state flush" },
		func() string {
			return fmt.Sprintf("ip xfrm state delete dst %s proto esp spi %s", second.ip, spiTo(first, second))
		},
	} {
		command := tamper()
		first.sh(command)
		first.eventually("other keys after: "+command, func() error {
			if now := first.spis(); now == before || strings.Count(now, "spi") != 4 {
				return errors.New(now)
			}
			return nil
		})
		for _, n := range nodes {
			n.waitReady()
			n.hasMesh(nodes)
		}
		if !strings.Contains(first.said(), "publishing others") {
			t.Error("nothing is said of the keys")
		}
		before = first.spis()
	}
	first.sh("ip xfrm policy flush")
	first.eventually("policies", func() error {
		if got := first.sh("ip xfrm policy"); strings.Count(got, "tmpl src") != 16 {
			return errors.New(got)
		}
		return nil
	})
	if now := first.spis(); now != before {
		t.Errorf("policies were deleted, and associations have changed:\n%s\n%s", before, now)
	}
	first.hasMesh(nodes)
}

// TestIPsecRestart: an agent that is killed leaves the traffic alone, and so
// does the next.
func TestIPsecRestart(t *testing.T) {
	nodes := ipsecCluster(t)
	n, peer := nodes[0], nodes[1]
	before, lease := n.spis(), n.lease()
	for range 2 {
		n.kill()
		if err := n.set.Do(func() error { return ping(n.subnet().Addr().Next().String(), peer.subnet().Addr().Next().String()) }); err != nil {
			t.Errorf("without the agent: %v", err)
		}
		n.start().waitReady()
		if now := n.spis(); now != before {
			t.Errorf("a restart changes the associations:\n%s\n%s", before, now)
		}
		if now := n.lease(); now != lease {
			t.Errorf("a restart changes the lease from %s to %s", lease, now)
		}
	}
	n.kill()
	n.sh("ip xfrm state flush")
	n.start().waitReady()
	if n.lease() == lease {
		t.Error("what was lost while no agent ran is made again with the same keys")
	}
	for _, m := range nodes {
		m.hasMesh(nodes)
	}
	n.stop()
	n.args = append(n.args, "--cleanup")
	n.start()
	if err := n.cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.cmd = nil
	if left := n.sh("ip xfrm state; ip xfrm policy; ip route show 10.244.0.0/16"); left != "" {
		t.Errorf("cleanup leaves:\n%s", left)
	}
}

// TestIPsecOtherPSK: two nodes with different pre-shared keys name each other,
// and nothing passes between them until both have the same.
func TestIPsecOtherPSK(t *testing.T) {
	nodes := ipsecCluster(t)
	first, second := nodes[0], nodes[1]
	first.put("/coreos.com/network/config", strings.ReplaceAll(ipsecConf, "secret", "secre2"))
	second.stop()
	second.start().waitReady()
	for _, pair := range [][2]*node{{first, second}, {second, first}} {
		n, peer := pair[0], pair[1]
		n.eventually(n.ip.String()+" names the peer", func() error {
			if said := n.said(); !strings.Contains(said, "another PSK") {
				return errors.New(said)
			}
			return nil
		})
		n.eventually(n.ip.String()+" has no association with it", func() error {
			if got := n.sh(fmt.Sprintf("ip xfrm state list nokeys src %s dst %s", n.ip, peer.ip)); got != "" {
				return errors.New(got)
			}
			return nil
		})
		if got := n.sh(fmt.Sprintf("ip xfrm policy | grep -c 'tmpl.* %s'", peer.ip)); got != "8" {
			t.Errorf("%s has %s policies with %s, not 8", n.ip, got, peer.ip)
		}
		if n.set.Do(func() error { return ping(n.subnet().Addr().Next().String(), peer.subnet().Addr().Next().String()) }) == nil {
			t.Errorf("%s reaches %s", n.ip, peer.ip)
		}
	}
	for _, n := range []*node{first, nodes[2]} {
		n.stop()
		n.start().waitReady()
	}
	for _, n := range nodes {
		n.hasMesh(nodes)
	}
}

// TestIPsecFailsClosed: without an association a packet is dropped, and none is
// seen on the wire.
func TestIPsecFailsClosed(t *testing.T) {
	nodes := ipsecCluster(t)
	n, peer := nodes[0], nodes[1]
	n.kill()
	n.sh("ip xfrm state flush")
	sent := n.sh(`sed -n 's/^ *eth0:\(.*\)/\1/p' /proc/net/dev | awk '{print $10}'`)
	err := n.set.Do(func() error { return ping(n.subnet().Addr().Next().String(), peer.subnet().Addr().Next().String()) })
	if err == nil {
		t.Error("a ping is answered without an association")
	}
	if now := n.sh(`sed -n 's/^ *eth0:\(.*\)/\1/p' /proc/net/dev | awk '{print $10}'`); now != sent {
		t.Errorf("%s packets were sent before the ping, %s after it", sent, now)
	}
}

// TestIPsecMissing: a kernel that does not encrypt is named, and no lease is
// left.
func TestIPsecMissing(t *testing.T) {
	if noESP(t) == "" {
		t.Skip("SKIPPED, NOT TESTED: this kernel has ESP")
	}
	c := newCluster(t, ipsecConf)
	n := c.node(1).start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("the agent ran")
	}
	n.cmd = nil
	if !strings.Contains(n.said(), "this kernel encrypts no ESP packets") || !strings.Contains(n.said(), "modprobe esp4") {
		t.Error(n.said())
	}
	if r, err := c.etcd.Client.Get(t.Context(), leases, clientv3.WithPrefix()); err != nil || len(r.Kvs) > 0 {
		t.Errorf("it left a lease behind (%v)", err)
	}
}

// lease is the value of the node's lease in the store.
func (n *node) lease() string {
	value, _ := n.get(n.key())
	return value
}

// spiTo is the SPI of the association from one node to another.
func spiTo(from, to *node) string {
	return from.sh(fmt.Sprintf("ip xfrm state list src %s dst %s | grep -o '0x[0-9a-f]*' | head -1", from.ip, to.ip))
}

// ping pings once from an address, in the calling thread's namespace.
func ping(from, to string) error {
	if out, err := exec.Command("ping", "-c1", "-W1", "-I", from, to).CombinedOutput(); err != nil {
		return fmt.Errorf("ping %s: %w\n%s", to, err, out)
	}
	return nil
}
