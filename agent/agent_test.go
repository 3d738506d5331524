package agent_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

func TestMesh(t *testing.T) {
	c := newCluster(t, netConf)
	nodes := []*node{c.node(1, "--ip-masq"), c.node(2, "--ip-masq"), c.node(3, "--ip-masq")}
	began := time.Now()
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.picture().wait(t, 2)
	}
	t.Logf("3 agents, exec to full mesh: %v", time.Since(began))
	for _, n := range nodes {
		n.waitReady()
	}
	t.Logf("3 agents, exec to ready, firewall included: %v", time.Since(began))
	for _, n := range nodes {
		mesh := n.mesh()
		for _, peer := range nodes {
			if peer == n {
				continue
			}
			subnet, mac := peer.subnet(), peer.mac()
			for _, want := range []string{
				fmt.Sprintf("%s via %s onlink", subnet, subnet.Addr()),
				fmt.Sprintf("%s lladdr %s PERMANENT", subnet.Addr(), mac),
				fmt.Sprintf("%s dst %s self permanent", mac, peer.ip),
			} {
				if countLines(mesh, want) != 1 {
					t.Errorf("node %s lacks %q:\n%s", n.ip, want, mesh)
				}
			}
			n.sh(fmt.Sprintf("ping -c1 -W5 %s", subnet.Addr()))
		}
		if got := countLines(mesh, "permanent") + countLines(mesh, "PERMANENT") + countLines(mesh, "onlink"); got != 6 {
			t.Errorf("node %s has %d entries, not 6:\n%s", n.ip, got, mesh)
		}
		link := n.sh("ip -d -o link show flannel.1")
		want := fmt.Sprintf("vxlan id 1 local %s dev eth0 srcport 0 0 dstport 8472 nolearning", n.ip)
		if !strings.Contains(link, want) || !strings.Contains(link, "mtu 1450") {
			t.Errorf("the device is %s", link)
		}
		if got, want := n.sh("ip -4 -o addr show flannel.1 | awk '{print $4}'"), n.subnet().Addr().String()+"/32"; got != want {
			t.Errorf("the address is %s, not %s", got, want)
		}
		gateway := n.subnet().Addr().Next()
		wantEnv := fmt.Sprintf("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=%s/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", gateway)
		if d := cmp.Diff(wantEnv, n.file(n.subnetFile)); d != "" {
			t.Errorf("subnet.env (-want +got):\n%s", d)
		}
		value, _ := c.get(n.key())
		if want := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"}}`, n.ip, n.mac()); value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
		if rules := n.sh("iptables-save"); countLines(rules, "-A", "FLANNEL-POSTRTG") != 7 || countLines(rules, "-A", "FLANNEL-FWD") != 3 {
			t.Errorf("rules: %s", rules)
		}
		info, err := os.Stat(n.subnetFile)
		if err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("subnet.env: %v, %v", info, err)
		}
	}
}

// TestTampering does to a node what goes wrong in real ones.
func TestTampering(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	n.picture().wait(t, 2)
	n.waitReady()
	// What is somebody else's, and looks like ours.
	const foreign = "ip route show dev eth0; ip neigh show dev eth0 nud permanent; bridge fdb show dev vx9; ip neigh show dev vx9 nud permanent; ip route show dev vx9; ip -d -o link show vx9"
	n.sh("ip link add vx9 type vxlan id 9 dev eth0 dstport 9999 nolearning; ip link set vx9 up;" +
		"bridge fdb append 02:00:00:00:00:99 dev vx9 dst 172.16.1.99; ip neigh add 10.9.0.9 lladdr 02:00:00:00:00:99 dev vx9 nud permanent;" +
		"ip route add 10.9.0.0/24 dev vx9; ip route add 10.244.99.0/24 via 172.16.1.99; ip neigh add 172.16.1.99 lladdr 02:00:00:00:00:98 dev eth0 nud permanent")
	others := n.sh(foreign)
	whole := n.mesh()
	repaired := func(tamper string) {
		t.Helper()
		n.sh(tamper)
		began := time.Now()
		n.eventually("repair of: "+tamper, func() error {
			if d := cmp.Diff(whole, n.mesh()); d != "" {
				return errors.New(d)
			}
			return nil
		})
		t.Logf("%-100s repaired within %v", tamper, time.Since(began).Round(time.Millisecond))
	}
	for _, tamper := range []string{
		"ip neigh del 10.244.2.0 dev flannel.1",
		"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:77 dev flannel.1 nud permanent",
		"bridge fdb del 02:00:00:00:00:02 dev flannel.1",
		"bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.1.3 self permanent",
		"bridge fdb append 02:00:00:00:00:44 dev flannel.1 dst 172.16.1.44 self permanent",
		"ip route del 10.244.2.0/24",
		"ip route replace 10.244.2.0/24 via 172.16.1.3 dev eth0",
		"ip route replace 10.244.2.0/24 via 10.244.3.0 dev flannel.1 onlink",
		"ip route flush dev flannel.1",
		"ip addr flush dev flannel.1",
		"ip link set flannel.1 down",
		"ip link set flannel.1 mtu 1400",
		"ip link set flannel.1 address 02:00:00:00:00:66",
		"ip link del flannel.1",
	} {
		repaired(tamper)
	}
	// A device that goes takes its entries one by one; one repair sees to all.
	if said := n.said(); strings.Contains(said, "not ready: datapath") {
		t.Error("a repair had to be tried again")
	}
	// The agent is often faster than the second command.
	repaired("until ip link del flannel.1; ip link add flannel.1 type vxlan id 77 dev eth0 dstport 4789; do :; done")
	if d := cmp.Diff(others, n.sh(foreign)); d != "" {
		t.Errorf("what is not ours changed:\n%s", d)
	}
	n.waitReady()
	n.stop()
	if d := cmp.Diff(whole, n.mesh()); d != "" {
		t.Errorf("the end of the agent changed the datapath:\n%s", d)
	}
	n.args = append(n.args, "--cleanup")
	n.start()
	if err := n.cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.cmd = nil
	if got := n.sh("ip -o link show type vxlan; iptables-save | grep FLANNEL || true"); countLines(got, "vx9") != 1 || countLines(got, "") != 1 {
		t.Errorf("--cleanup left %s", got)
	}
	if d := cmp.Diff(others, n.sh(foreign)); d != "" {
		t.Errorf("--cleanup changed what is not ours:\n%s", d)
	}
	if _, err := os.Stat(n.subnetFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("--cleanup left the subnet file: %v", err)
	}
}

// TestQuarrel lets another program undo every repair.
func TestQuarrel(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	p := n.picture()
	p.wait(t, 1)
	n.waitReady()
	c.eventually("the agent notices the quarrel", func() error {
		p.dropRoutes(t)
		if !strings.Contains(n.said(), "something else keeps changing") {
			return errors.New("not yet")
		}
		return nil
	})
	p.wait(t, 1)
	n.waitReady()
}

// TestRestart: the MAC and the traffic of the living stay, the stale goes.
func TestRestart(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	c.peer("10.244.4.0", "172.16.1.4", "02:00:00:00:00:04")
	n.picture().wait(t, 3)
	n.waitReady()
	mac, key := n.mac(), n.key()
	before, id := c.get(key)
	revision := c.revision(key)
	for _, how := range []struct {
		end   func()
		fewer string
	}{{n.stop, "10.244.3.0"}, {n.kill, "10.244.4.0"}} {
		how.end()
		c.del(leases + how.fewer + "-24")
		var lost *rtnl.Listener
		if err := n.set.Do(func() (err error) {
			lost, err = rtnl.Listen(unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_NEIGH)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		n.start()
		n.waitReady()
		mesh := n.mesh()
		if strings.Contains(mesh, how.fewer) || !strings.Contains(mesh, "10.244.2.0/24") {
			t.Errorf("after the restart:\n%s", mesh)
		}
		err := lost.Drain(func(m rtnl.Message) error {
			if m.Type == unix.RTM_DELROUTE {
				if r, err := m.Route(); err != nil || r.Dst.Addr().String() != how.fewer {
					t.Errorf("the restart removed the route to %s (%v)", r.Dst, err)
				}
			}
			return nil
		})
		if err := errors.Join(err, lost.Close()); err != nil {
			t.Error(err)
		}
	}
	if after, now := c.get(key); after != before || now != id || n.mac() != mac || c.revision(key) != revision {
		t.Errorf("the lease was %s (%d), and is %s (%d); MAC %s", before, id, after, now, n.mac())
	}
}

func (c *cluster) revision(key string) int64 {
	c.Helper()
	r, err := c.etcd.Client.Get(c.Context(), key)
	if err != nil || len(r.Kvs) == 0 {
		c.Fatal("no such key", key, err)
	}
	return r.Kvs[0].ModRevision
}

// TestPeerChanges: a new VTEP MAC or address leaves nothing of the old behind.
func TestPeerChanges(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	n.picture().wait(t, 1)
	for _, peer := range [][2]string{{"172.16.1.2", "02:00:00:00:00:22"}, {"172.16.1.9", "02:00:00:00:00:22"}, {"172.16.1.8", "02:00:00:00:00:88"}} {
		c.peer("10.244.2.0", peer[0], peer[1])
		want := fmt.Sprintf("%s dst %s self permanent", peer[1], peer[0])
		n.eventually(want, func() error {
			mesh := n.mesh()
			if countLines(mesh, "self permanent") != 1 || countLines(mesh, want) != 1 || countLines(mesh, "10.244.2.0 lladdr "+peer[1]+" PERMANENT") != 1 {
				return errors.New(mesh)
			}
			return nil
		})
	}
	// Peers that cannot be: cloned MACs, no data, ourselves; none disturbs.
	whole := n.mesh()
	c.peer("10.244.7.0", "172.16.1.7", "02:00:00:00:00:88")
	c.peer("10.244.8.0", "172.16.1.8", "not a MAC")
	c.peer("10.244.9.0", "172.16.1.1", "02:00:00:00:00:09")
	c.put(leases+"10.244.10.0-24", `{"PublicIP":"172.16.1.10","BackendType":"host-gw"}`)
	c.put(leases+"10.244.11.0-24", `{"PublicIP":"172.16.1.11"}`)
	c.put(leases+"hello", `world`)
	c.put(leases+"10.244.2.0-24", `{"PublicIP":`)
	c.peer("10.244.12.0", "172.16.1.12", "02:00:00:00:00:12")
	n.picture().wait(t, 2)
	for line := range strings.Lines(whole) {
		if !strings.Contains(n.mesh(), strings.TrimSpace(line)) {
			t.Errorf("bad leases disturbed: %s", line)
		}
	}
	n.waitReady()
	for _, want := range []string{"10.244.7.0-24: VtepMAC", "10.244.8.0-24: VtepMAC", "10.244.9.0-24: its PublicIP", "10.244.10.0-24: it is of the backend host-gw", "subnets/hello", "subnets/10.244.2.0-24"} {
		if !strings.Contains(n.said(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}

// TestOrder: a peer's neighbour comes first and its route last.
func TestOrder(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	n.waitReady()
	var listener *rtnl.Listener
	if err := n.set.Do(func() (err error) {
		listener, err = rtnl.Listen(unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_ROUTE)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	n.picture().wait(t, 1)
	var order []string
	err := listener.Drain(func(m rtnl.Message) error {
		if m.Type == unix.RTM_NEWROUTE {
			order = append(order, "route")
			return nil
		}
		e, err := m.Neigh()
		switch {
		case e.MAC.String() != "02:00:00:00:00:02":
		case e.Family == unix.AF_BRIDGE:
			order = append(order, "fdb")
		default:
			order = append(order, "neighbour")
		}
		return err
	})
	if got := strings.Join(order, " "); err != nil || got != "neighbour fdb route" {
		t.Errorf("programmed in the order %s (%v)", got, err)
	}
}

// TestRace: as many nodes as subnets, all at once.
func TestRace(t *testing.T) {
	c := newCluster(t, `{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.4.0","Backend":{"Type":"vxlan"}}`)
	var nodes []*node
	for i := range 4 {
		nodes = append(nodes, c.node(i+1))
	}
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.picture().wait(t, 3)
		n.waitReady()
	}
}

func TestOwnLease(t *testing.T) {
	c := newCluster(t, netConf)
	c.put(leases+"10.244.177.0-24", `{"PublicIP":"172.16.1.1"}`)
	reserved, other := c.node(1).start(), c.node(2).start()
	for _, n := range []*node{reserved, other} {
		n.picture().wait(t, 1)
		n.waitReady()
	}
	if got := reserved.subnet().String(); got != "10.244.177.0/24" {
		t.Errorf("the reserved subnet was not taken but %s", got)
	}
	if _, id := c.get(reserved.key()); id != 0 {
		t.Errorf("the reservation expires with lease %d", id)
	}
	value, id := c.get(other.key())
	if id == 0 {
		t.Error("the lease never expires")
	}
	restored := func(what string) {
		t.Helper()
		c.eventually(what, func() error {
			if got, _ := c.get(other.key()); got != value {
				return fmt.Errorf("the lease is %q", got)
			}
			return nil
		})
		if _, id := c.get(other.key()); id == 0 {
			t.Errorf("%s, and never expires", what)
		}
		reserved.picture().wait(t, 1)
		other.waitReady()
	}
	c.del(other.key())
	restored("the deleted lease comes back")
	_, id = c.get(other.key())
	if _, err := c.etcd.Client.Revoke(t.Context(), clientv3.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
	restored("the expired lease comes back")
	c.put(other.key(), "garbage")
	restored("the ruined lease comes back")
	c.put(other.key(), `{"PublicIP":"172.16.1.2","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:55"}}`)
	restored("the overwritten lease comes back")
}

// TestK11SamePublicIP is the trap of a NAT interface that has the same address on
// every node: the second node must notice, and the first must not suffer.
// Upstream lets both own one subnet, and the last writer's MAC wins.
func TestK11SamePublicIP(t *testing.T) {
	c := newCluster(t, netConf)
	first := c.node(1, "--public-ip=172.16.1.1").start()
	first.waitReady()
	value, _ := c.get(first.key())
	second := c.node(2, "--public-ip=172.16.1.1").start()
	c.eventually("the second node gives in", func() error {
		if _, body := second.ready(); !strings.Contains(body, "another running agent has the same PublicIP 172.16.1.1") {
			return errors.New(body)
		}
		return nil
	})
	first.waitReady()
	if got, _ := c.get(first.key()); got != value {
		t.Errorf("the lease is %s, no longer %s", got, value)
	}
	second.stop()
	first.stop()
}

func TestStoreGone(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	p := n.picture()
	p.wait(t, 1)
	n.waitReady()
	whole := n.mesh()
	c.etcd.Stop()
	c.eventually("readyz tells of the store", func() error {
		if ok, body := n.ready(); ok || !strings.Contains(body, "store: ") {
			return errors.New(body)
		}
		return nil
	})
	n.sh("ip route flush dev flannel.1")
	p.wait(t, 1)
	if d := cmp.Diff(whole, n.mesh()); d != "" {
		t.Errorf("without the store:\n%s", d)
	}
	c.etcd.Restart(t)
	n.waitReady()
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	p.wait(t, 2)
}

// TestUnderlayIsNotForLease writes a lease whose route would replace the one
// to the other nodes and the store.
func TestUnderlayIsNotForLease(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	n.waitReady()
	whole, routes := n.mesh(), n.sh("ip route show dev eth0")
	c.peer("172.16.0.0", "172.16.1.2", "02:00:00:00:00:02")
	c.put(leases+"172.16.0.0-16", `{"PublicIP":"172.16.1.3","BackendType":"vxlan","BackendData":{"VtepMAC":"02:00:00:00:00:03"}}`)
	c.eventually("the agent tells of both", func() error {
		if said := n.said(); strings.Count(said, "is not inside the Network 10.244.0.0/16") != 2 {
			return errors.New(said)
		}
		return nil
	})
	n.waitReady()
	if d := cmp.Diff(whole, n.mesh()); d != "" {
		t.Errorf("the datapath changed:\n%s", d)
	}
	if got := n.sh("ip route show dev eth0"); got != routes {
		t.Errorf("the underlay's routes are %s", got)
	}
}

// TestRefusedRepair has somebody rename the device, so that its VNI is not
// free for another one: told once, and mended when that one goes.
func TestRefusedRepair(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	n.picture().wait(t, 1)
	n.waitReady()
	whole := n.mesh()
	n.sh("ip link set flannel.1 name other.1")
	tried := 0
	c.eventually("readyz names the mend", func() error {
		tried++
		if ok, body := n.ready(); ok || !strings.Contains(body, "ip link del other.1") || tried < 5 {
			return errors.New(body)
		}
		return nil
	})
	if got := strings.Count(n.said(), "ip link add flannel.1"); got > 3 { // at the start, the repair, and its error
		t.Errorf("the same changes were told of %d times", got)
	}
	n.sh("ip link del other.1")
	c.eventually("the device is back", func() error {
		if d := cmp.Diff(whole, n.mesh()); d != "" {
			return errors.New(d)
		}
		return nil
	})
	n.waitReady()
	if !strings.Contains(n.said(), "well again: datapath") {
		t.Error("the log does not tell of the end of the trouble")
	}
}

// TestReadyIsTrue asks right after every tampering: a yes must be true at that
// moment.
func TestReadyIsTrue(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1).start()
	for i := 2; i < 12; i++ {
		c.peer(fmt.Sprintf("10.244.%d.0", i), fmt.Sprintf("172.16.1.%d", i), fmt.Sprintf("02:00:00:00:00:%02x", i))
	}
	p := n.picture()
	p.wait(t, 10)
	n.waitReady()
	for range 20 {
		p.dropRoutes(t)
		if ok, _ := n.ready(); ok && p.routes() != 10 {
			t.Error("/readyz said yes, and routes were missing")
		}
		p.wait(t, 10)
		n.waitReady()
	}
	if err := os.Remove(n.subnetFile); err != nil {
		t.Fatal(err)
	}
	if ok, _ := n.ready(); ok {
		n.subnet() // fails without the file
	}
	n.sh("ip link del eth0")
	c.eventually("readyz tells of the underlay", func() error {
		if ok, body := n.ready(); ok || !strings.Contains(body, "datapath: find the underlay of flannel.1: link show eth0") {
			return errors.New(body)
		}
		return nil
	})
}

func TestSubnetFileIsInTheWay(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1)
	dir := filepath.Dir(n.subnetFile)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o644); err != nil { // a file where the folder is to be
		t.Fatal(err)
	}
	n.start()
	c.eventually("readyz tells of the file", func() error {
		if ok, body := n.ready(); ok || !strings.Contains(body, "subnet file: make the folder of the subnet file") {
			return errors.New(body)
		}
		return nil
	})
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	n.waitReady()
	n.subnet()
}

func TestWaitsForConfiguration(t *testing.T) {
	c := newCluster(t, "")
	n := c.node(1).start()
	for _, step := range []struct{ config, want string }{
		{"", "network configuration: read /coreos.com/network/config from etcd: the store has no network configuration"},
		{"{", "network configuration: parse the network configuration"},
		{`{"Network":"10.244.0.0/29","Backend":{"Type":"vxlan"}}`, "network 10.244.0.0/29 is too small"},
	} {
		if step.config != "" {
			c.put("/coreos.com/network/config", step.config)
		}
		c.eventually("readyz tells of "+step.config, func() error {
			if ok, body := n.ready(); ok || !strings.Contains(body, step.want) {
				return errors.New(body)
			}
			return nil
		})
	}
	c.put("/coreos.com/network/config", netConf)
	n.waitReady()
}

func TestRefusedConfigurations(t *testing.T) {
	for config, want := range map[string]string{
		`{"Network":"10.244.0.0/16","Backend":{"Type":"tencent-vpc"}}`:                                      "backend tencent-vpc is not in this build; it has ",
		`{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","VNI":16777216}}`:                             "VNI 16777216 is not a 24-bit number",
		`{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/56","Backend":{"Type":"ipip"}}`: "interface eth0 has no usable IPv6 address",
	} {
		t.Run(want, func(t *testing.T) {
			c := newCluster(t, config)
			n := c.node(1).start()
			if err := n.cmd.Wait(); err == nil || err.Error() != "exit status 1" {
				t.Errorf("%v, not exit status 1", err)
			}
			n.cmd = nil
			if !strings.Contains(n.said(), want) {
				t.Errorf("the log does not say %q", want)
			}
			if r, err := c.etcd.Client.Get(t.Context(), leases, clientv3.WithPrefix()); err != nil || len(r.Kvs) > 0 {
				t.Errorf("it left a lease behind (%v)", err)
			}
		})
	}
}

// TestPreparedDevice: a provider may make the device first, to fix its MAC.
func TestPreparedDevice(t *testing.T) {
	for name, link := range map[string]string{
		"the same":           "vxlan id 1 local 172.16.1.1 dev eth0 dstport 8472 nolearning",
		"another port":       "vxlan id 1 local 172.16.1.1 dev eth0 dstport 4789 nolearning",
		"learning":           "vxlan id 1 local 172.16.1.1 dev eth0 dstport 8472",
		"another VNI":        "vxlan id 2 local 172.16.1.1 dev eth0 dstport 8472 nolearning",
		"no local address":   "vxlan id 1 dev eth0 dstport 8472 nolearning",
		"with a group":       "vxlan id 1 group 239.1.1.1 local 172.16.1.1 dev eth0 dstport 8472 nolearning",
		"of another driver":  "bridge",
		"of the default MTU": "vxlan id 1 local 172.16.1.1 dev eth0 dstport 8472 nolearning; ip link set flannel.1 mtu 1300",
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, netConf)
			n := c.node(1)
			n.sh("ip link add flannel.1 address 02:00:00:00:11:11 type " + link)
			index := n.sh("cat /proc/net/dev >/dev/null; ip -o link show flannel.1 | cut -d: -f1")
			n.start().waitReady()
			if got := n.mac(); got != "02:00:00:00:11:11" {
				t.Errorf("the MAC became %s", got)
			}
			got := n.sh("ip -d -o link show flannel.1")
			if !strings.Contains(got, "vxlan id 1 local 172.16.1.1 dev eth0 srcport 0 0 dstport 8472 nolearning") || !strings.Contains(got, "mtu 1450") {
				t.Errorf("the device is %s", got)
			}
			kept := strings.HasPrefix(got, index+":")
			if wantKept := name == "the same" || name == "of the default MTU"; kept != wantKept {
				t.Errorf("kept: %v", kept)
			}
		})
	}
}

func TestWithoutBinaries(t *testing.T) {
	c := newCluster(t, strings.Replace(netConf, "{", `{"EnableNFTables":true,`, 1))
	n := c.node(1, "--ip-masq")
	t.Setenv("PATH", t.TempDir())
	n.start().waitReady()
}

// program builds overlabd as it is shipped: the test binary, which holds an
// etcd, takes longer to start.
func program(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "overlabd")
	if out, err := exec.Command("go", "build", "-o", path, "../cmd/overlabd").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return path
}

// BenchmarkMesh measures from exec of the agents to the last route.
func BenchmarkMesh(b *testing.B) {
	for _, size := range []int{3, 16, 64} {
		b.Run(fmt.Sprintf("nodes=%d", size), func(b *testing.B) {
			c := newCluster(b, netConf)
			var nodes []*node
			var pictures []*picture
			binary := program(b)
			for i := range size {
				nodes = append(nodes, c.node(i+1))
				nodes[i].program = binary
				pictures = append(pictures, nodes[i].picture())
			}
			b.ResetTimer()
			for range b.N {
				for _, n := range nodes {
					n.start()
				}
				for _, p := range pictures {
					p.wait(b, size-1)
				}
				b.StopTimer()
				for i, n := range nodes {
					n.kill()
					n.sh("ip link del flannel.1")
					pictures[i].index = 0
				}
				if _, err := c.etcd.Client.Delete(b.Context(), leases, clientv3.WithPrefix()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/mesh")
		})
	}
}
