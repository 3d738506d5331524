package agent_test

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The tests here are of what upstream flannel gets wrong (docs/flannel.md). The
// cluster is that of cluster_test.go: agents on some nodes, and peers that are
// only in the store.

// has waits until the node's mesh has exactly these lines, of those that name
// an address of the peers' part of the network or a peer's MAC.
func (n *node) has(what string, want ...string) {
	n.Helper()
	n.eventually(what, func() error {
		mesh := n.mesh()
		for _, w := range want {
			if countLines(mesh, w) != 1 {
				return fmt.Errorf("not once %q:\n%s", w, mesh)
			}
		}
		if got := countLines(mesh, "onlink") + countLines(mesh, "PERMANENT") + countLines(mesh, "self permanent"); got != len(want) {
			return fmt.Errorf("%d entries, not %d:\n%s", got, len(want), mesh)
		}
		return nil
	})
}

// entriesOf are what a node has of a vxlan peer.
func entriesOf(subnet, publicIP, mac string) []string {
	return []string{
		fmt.Sprintf("%s/24 via %[1]s onlink", subnet),
		fmt.Sprintf("%s lladdr %s PERMANENT", subnet, mac),
		fmt.Sprintf("%s dst %s self permanent", mac, publicIP),
	}
}

var (
	second = entriesOf("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	third  = entriesOf("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
)

// withPeers starts an agent that has the peers second and third.
func withPeers(t *testing.T) (*cluster, *node) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	n.has("the peers", append(second, third...)...)
	n.waitReady()
	return c, n
}

// Upstream makes the deleted device anew, but without its routes, neighbours and
// FDB, and with another MAC that no peer learns of.
func TestK2DeletedDeviceReturnsWithItsPeers(t *testing.T) {
	c, n := withPeers(t)
	whole, key := n.mesh(), n.key()
	value, _ := c.get(key)
	n.sh("ip link del flannel.1")
	n.eventually("the device is as before", func() error {
		if d := cmp.Diff(whole, n.mesh()); d != "" {
			return errors.New(d)
		}
		return nil
	})
	if now, _ := c.get(key); now != value || !strings.Contains(value, n.mac()) {
		t.Errorf("the lease was %s and is %s; the device's MAC is %s", value, now, n.mac())
	}
	n.waitReady()
}

// Upstream never looks at what an earlier run has left: the entries of a peer
// that left meanwhile stay for ever.
func TestK3StaleEntriesGoAtStart(t *testing.T) {
	c, n := withPeers(t)
	n.kill()
	c.del(leases + "10.244.3.0-24")
	n.has("the agent's end changes nothing", append(second, third...)...)
	n.start()
	n.has("the peer that left is forgotten", second...)
	n.waitReady()
}

// Upstream replaces the neighbour when a peer's MAC changes, and leaves the old
// MAC's FDB entry.
func TestK4OldFDBEntryGoes(t *testing.T) {
	c, n := withPeers(t)
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:33")
	n.has("the new MAC, and nothing of the old", append(second, entriesOf("10.244.3.0", "172.16.1.3", "02:00:00:00:00:33")...)...)
}

// Upstream tries for 51 seconds to delete an entry that is gone already, and
// sees neither other leases nor SIGTERM meanwhile.
func TestK6EntriesThatAreGoneAlready(t *testing.T) {
	c, n := withPeers(t)
	// The agent must not have the time to repair what is deleted.
	signal := func(s syscall.Signal) {
		t.Helper()
		if err := n.cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	signal(syscall.SIGSTOP)
	n.sh("ip route del 10.244.3.0/24; ip neigh del 10.244.3.0 dev flannel.1; bridge fdb del 02:00:00:00:00:03 dev flannel.1")
	c.del(leases + "10.244.3.0-24")
	c.peer("10.244.4.0", "172.16.1.4", "02:00:00:00:00:04")
	signal(syscall.SIGCONT)
	n.has("the next lease is served", append(second, entriesOf("10.244.4.0", "172.16.1.4", "02:00:00:00:00:04")...)...)
	n.waitReady()
	if strings.Contains(n.said(), "not ready: datapath") {
		t.Error("deleting what was gone counted as a failure")
	}
	n.stop() // checks that it takes no time
}

// Upstream only adds routes that are missing: one of the same destination with
// a wrong gateway stays, and is not even logged.
func TestK9WrongGatewayIsReplaced(t *testing.T) {
	c := newCluster(t, hostGW)
	n := c.node(1).start()
	c.hostPeer("10.244.2.0", "172.16.1.2")
	n.expectRoutes("the mesh", "10.244.2.0/24 via 172.16.1.2 dev eth0")
	n.waitReady()
	n.sh("ip route replace 10.244.2.0/24 via 172.16.1.9")
	n.expectRoutes("the right gateway", "10.244.2.0/24 via 172.16.1.2 dev eth0")
	n.eventually("the log tells of it", func() error {
		if said := n.said(); countLines(said, "change=", "10.244.2.0/24 via 172.16.1.2") < 2 {
			return errors.New(said)
		}
		return nil
	})
}

// Upstream keeps a device whose MTU, learning or port differ from the changed
// configuration, and writes another MTU into subnet.env than the device has.
func TestK10ChangedConfigurationIsApplied(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	n.has("the peer", second...)
	n.waitReady()
	mac := n.mac()
	for _, step := range []struct{ backend, device, mtu string }{
		{`{"Type":"vxlan","MTU":1400}`, "dstport 8472 nolearning", "1350"},
		{`{"Type":"vxlan","Learning":true}`, "dstport 8472 ", "1450"},
		{`{"Type":"vxlan","Port":4789}`, "dstport 4789 nolearning", "1450"},
		{`{"Type":"vxlan"}`, "dstport 8472 nolearning", "1450"},
	} {
		n.stop()
		c.put("/coreos.com/network/config", `{"Network":"10.244.0.0/16","SubnetMin":"10.244.100.0","Backend":`+step.backend+`}`)
		n.start().waitReady()
		n.eventually(step.backend, func() error {
			link := n.sh("ip -d -o link show flannel.1")
			learns := !strings.Contains(link, "nolearning")
			if !strings.Contains(link, step.device) || !strings.Contains(link, " mtu "+step.mtu+" ") || learns != strings.Contains(step.backend, "Learning") {
				return errors.New(link)
			}
			if env := n.file(n.subnetFile); !strings.Contains(env, "FLANNEL_MTU="+step.mtu+"\n") {
				return errors.New(env)
			}
			return nil
		})
		n.has("the peer, with "+step.backend, second...)
		if n.mac() != mac {
			t.Errorf("with %s the MAC is %s, and was %s", step.backend, n.mac(), mac)
		}
	}
}

// Upstream never looks at its nftables rules again, and its fourth keeps the
// last from matching: who comes from outside by way of a node is not
// masqueraded, and the answer of another node's pod is lost. The rules that
// iptables carries must do the same.
func TestK13RulesAreRestoredAndAllMatch(t *testing.T) {
	for name, carrier := range map[string]struct {
		config, list, destroy string
		needs                 []string
	}{
		"nftables": {`"EnableNFTables":true,`, "nft list table ip flannel-ipv4", "nft delete table ip flannel-ipv4", []string{"nft"}},
		"iptables": {"", "iptables-save -t nat | grep -e ^-A", "iptables -t nat -F", []string{"iptables", "iptables-save", "iptables-restore"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, program := range carrier.needs {
				if _, err := exec.LookPath(program); err != nil {
					t.Skipf("SKIPPED, NOT TESTED: this machine has no %s", program)
				}
			}
			c := newCluster(t, strings.Replace(netConf, "{", "{"+carrier.config, 1))
			n, peer := c.node(1, "--ip-masq", "--iptables-resync=1").start(), c.node(2).start()
			for _, m := range []*node{n, peer} {
				m.picture().wait(t, 1)
				m.waitReady()
			}
			// The peer has no way back to 192.0.2.1.
			n.sh("ip addr add 192.0.2.1/32 dev lo")
			outside := fmt.Sprintf("ping -c1 -W5 -I 192.0.2.1 %s", peer.subnet().Addr())
			n.sh(outside)
			whole := n.sh(carrier.list)
			n.sh(carrier.destroy)
			n.eventually("the rules are back", func() error {
				if d := cmp.Diff(whole, n.sh(carrier.list+" 2>&1 || true")); d != "" {
					return errors.New(d)
				}
				return nil
			})
			n.sh(outside)
		})
	}
}
