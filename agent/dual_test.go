package agent_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	dualConf  = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.100.0","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","IPv6SubnetMin":"fd00:10:244:100::","Backend":{"Type":"vxlan"}}`
	only6Conf = `{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:244::/48","Backend":{"Type":"vxlan"}}`
)

// node6 makes a machine that has IPv6 besides:
//
//	        br0 172.16.0.254/16, etcd (IPv4)
//	         |                 |
//	eth0 172.16.1.1          .1.2
//	     fd00:172:16::1      ::2        each in a namespace of its own
//
// The namespaces of the tests have IPv6 off for new devices, so that flannel-v6.1
// has it by the agent's doing, and no duplicate address detection, which the kernel
// would end, and tell of, a second later.
func (c *cluster) node6(n int, args ...string) *node {
	c.Helper()
	nd := c.node(n, args...)
	nd.addIPv6()
	return nd
}

func (n *node) addIPv6() {
	n.Helper()
	n.sh("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0 net.ipv6.conf.eth0.accept_dad=0 net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.forwarding=1;" +
		fmt.Sprintf("ip addr add %s/64 dev eth0 nodad", n.ip6()))
}

func (n *node) ip6() string { return fmt.Sprintf("fd00:172:16::%x", n.ip.As4()[3]) }

// peer6 makes the lease of a dual-stack node that is only in the store: number
// n of everything.
func (c *cluster) peer6(n int) {
	c.Helper()
	c.put(dualKey(n), fmt.Sprintf(`{"PublicIP":"172.16.1.%[1]d","PublicIPv6":"fd00:172:16::%[1]x","BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:04:%02[1]x"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:%02[1]x"}}`, n))
}

func dualKey(n int) string { return fmt.Sprintf(leases+"10.244.%d.0-24&fd00:10:244:%x::-64", n, n) }

// mesh6 is mesh of flannel-v6.1.
func (n *node) mesh6() string {
	n.Helper()
	return n.sh("ip -6 -o route show | grep ^fd00:10:244 | grep -v proto.kernel; ip -6 neigh show dev flannel-v6.1 nud permanent | sort;" +
		"bridge fdb show dev flannel-v6.1 | sort; ip -o addr show dev flannel-v6.1 scope global | sed 's/.*inet/inet/';" +
		"ip link show flannel-v6.1 | sed 's/^[0-9]*://'; cat /proc/sys/net/ipv6/conf/flannel-v6.1/accept_ra || :") // the device may be away for a moment
}

// variable is the value of a line of subnet.env.
func (n *node) variable(name string) string {
	n.Helper()
	for line := range strings.Lines(n.file(n.subnetFile)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return v
		}
	}
	return ""
}

func (n *node) subnet6() netip.Prefix {
	n.Helper()
	return netip.MustParsePrefix(n.variable("FLANNEL_IPV6_SUBNET")).Masked()
}

// mac6 is flannel-v6.1's.
func (n *node) mac6() string {
	return n.sh("ip -br link show flannel-v6.1 | awk '{print $3}'")
}

// TestK14DualStack: three agents, the mesh of both families, and one MTU that
// both devices really have. Upstream writes 1450 into subnet.env, asks for that
// of its IPv6 device, too, and the kernel gives it 1430: packets between are
// lost, as nobody fragments IPv6.
func TestK14DualStack(t *testing.T) {
	c := newCluster(t, dualConf)
	nodes := []*node{c.node6(1, "--ip-masq"), c.node6(2, "--ip-masq"), c.node6(3, "--ip-masq")}
	for _, n := range nodes {
		n.start()
	}
	for _, n := range nodes {
		n.picture().wait(t, 2)
		n.waitReady()
	}
	nodes[0].sh(fmt.Sprintf("! ping -6 -c1 -W1 -M do -s 1383 %s", nodes[1].subnet6().Addr()))
	for _, n := range nodes {
		if mtus := n.sh("ip -o link show type vxlan | sed 's/.*mtu \\([0-9]*\\) .*/\\1/'"); mtus != "1430\n1430" {
			t.Errorf("the devices' MTUs are %q", mtus)
		}
		want := fmt.Sprintf("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=%s/24\nFLANNEL_IPV6_NETWORK=fd00:10:244::/48\nFLANNEL_IPV6_SUBNET=%s/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n",
			n.subnet().Addr().Next(), n.subnet6().Addr().Next())
		if d := cmp.Diff(want, n.file(n.subnetFile)); d != "" {
			t.Errorf("subnet.env (-want +got):\n%s", d)
		}
		key := fmt.Sprintf("%s%s-24&%s-64", leases, n.subnet().Addr(), n.subnet6().Addr())
		value, _ := c.get(key)
		want = fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":"%s","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"%s"},"BackendV6Data":{"VNI":1,"VtepMAC":"%s"}}`,
			n.ip, n.ip6(), n.mac(), n.mac6())
		if value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
		mesh := n.mesh6()
		for _, peer := range nodes {
			if peer == n {
				continue
			}
			for _, want := range []string{
				fmt.Sprintf("%s via %s dev flannel-v6.1 metric 1024 onlink", peer.subnet6(), peer.subnet6().Addr()),
				fmt.Sprintf("%s lladdr %s PERMANENT", peer.subnet6().Addr(), peer.mac6()),
				fmt.Sprintf("%s dst %s self permanent", peer.mac6(), peer.ip6()),
			} {
				if countLines(mesh, want) != 1 {
					t.Errorf("node %s lacks %q:\n%s", n.ip, want, mesh)
				}
			}
			// 1382 bytes, 8 of ICMPv6 and 40 of IPv6 are 1430, all that fits.
			n.sh(fmt.Sprintf("ping -6 -c1 -W5 -M do -s 1382 %s; ping -4 -c1 -W5 -M do -s 1402 %s", peer.subnet6().Addr(), peer.subnet().Addr()))
		}
		if rules := n.sh("ip6tables-save"); countLines(rules, "-A", "FLANNEL-POSTRTG") != 7 || countLines(rules, "-A", "FLANNEL-FWD") != 3 || countLines(rules, "ff00::/8") != 1 {
			t.Errorf("rules: %s", rules)
		}
	}
}

// TestTamperingDual: either family is repaired, and the other is let be. IPv6
// has ways of its own to spoil a route: another one beside it, one more hop.
func TestTamperingDual(t *testing.T) {
	c := newCluster(t, dualConf)
	n := c.node6(1).start()
	c.peer6(2)
	c.peer6(3)
	n.picture().wait(t, 2)
	n.waitReady()
	n.sh("ip -6 route add fd00:10:244:99::/64 via fd00:172:16::99 proto static; ip -6 route add fd00:10:244:2::/64 via fd00:172:16::99 dev eth0 metric 2048; ip -6 route add fd00::/16 via fd00:172:16::99")
	both := func() string { return n.mesh() + "\n" + n.mesh6() }
	whole := both()
	repaired := func(tamper string) {
		t.Helper()
		n.sh(tamper)
		began := time.Now()
		n.eventually("repair of: "+tamper, func() error {
			if d := cmp.Diff(whole, both()); d != "" {
				return errors.New(d)
			}
			return nil
		})
		t.Logf("%-100s repaired within %v", tamper, time.Since(began).Round(time.Millisecond))
	}
	const dst = "fd00:10:244:2::/64 "
	for _, tamper := range []string{
		"ip neigh del fd00:10:244:2:: dev flannel-v6.1",
		"ip neigh replace fd00:10:244:2:: lladdr 02:00:00:00:00:77 dev flannel-v6.1 nud permanent",
		"bridge fdb del 02:00:00:00:06:02 dev flannel-v6.1",
		"bridge fdb replace 02:00:00:00:06:02 dev flannel-v6.1 dst fd00:172:16::3 self permanent",
		"bridge fdb append 02:00:00:00:06:44 dev flannel-v6.1 dst fd00:172:16::44 self permanent",
		"ip route del " + dst + "metric 1024",
		"ip route replace " + dst + "via fd00:172:16::3 dev eth0",
		"ip route replace " + dst + "via fd00:10:244:3:: dev flannel-v6.1 onlink",
		"ip route replace " + dst + "dev eth0",
		"ip route replace " + dst + "dev flannel-v6.1",
		"ip route append " + dst + "via fd00:172:16::3 dev eth0",
		"ip route append " + dst + "via fd00:10:244:3:: dev flannel-v6.1 onlink",
		"ip route append " + dst + "dev flannel-v6.1",
		"ip route replace blackhole " + dst,
		"ip route append unreachable " + dst,
		"ip -6 route add fd00:10:244:50::/64 dev flannel-v6.1",
		"ip -6 addr add fd00:10:244:50::1/64 dev flannel-v6.1",
		"ip -6 addr flush dev flannel-v6.1 scope global",
		"sysctl -qw net.ipv6.conf.flannel-v6/1.disable_ipv6=1; sysctl -qw net.ipv6.conf.flannel-v6/1.disable_ipv6=0",
		"ip link set flannel-v6.1 down",
		"ip link set flannel-v6.1 mtu 1300",
		"ip link set flannel-v6.1 address 02:00:00:00:00:66",
		"ip link del flannel-v6.1",
		"ip link del flannel.1",
		"ip link del flannel.1; ip link del flannel-v6.1",
	} {
		repaired(tamper)
	}
	n.waitReady()
	n.stop()
	if d := cmp.Diff(whole, both()); d != "" {
		t.Errorf("the end of the agent changed the datapath:\n%s", d)
	}
	n.args = append(n.args, "--cleanup")
	n.start()
	if err := n.cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.cmd = nil
	if got := n.sh("ip -o link show type vxlan; ip6tables-save | grep FLANNEL || true; ip -6 route show | grep 244:2"); countLines(got, "") != 1 || countLines(got, "metric 2048") != 1 {
		t.Errorf("--cleanup left %s", got)
	}
}

// TestRestartDual: what is stale goes from both families when the agent comes
// back, the rest and the lease stay.
func TestRestartDual(t *testing.T) {
	c := newCluster(t, dualConf)
	n := c.node6(1).start()
	for _, peer := range []int{2, 3} {
		c.peer6(peer)
	}
	n.picture().wait(t, 2)
	n.waitReady()
	mac, mac6, subnet, subnet6 := n.mac(), n.mac6(), n.subnet(), n.subnet6()
	n.kill()
	c.del(dualKey(3))
	n.start()
	n.waitReady()
	for _, mesh := range []string{n.mesh(), n.mesh6()} {
		if strings.Contains(mesh, "244.3.0") || strings.Contains(mesh, "244:3:") || strings.Contains(mesh, ":03 ") ||
			countLines(mesh, "onlink") != 1 || countLines(mesh, "PERMANENT") != 1 || countLines(mesh, "self permanent") != 1 {
			t.Errorf("after the restart:\n%s", mesh)
		}
	}
	if n.mac() != mac || n.mac6() != mac6 || n.subnet() != subnet || n.subnet6() != subnet6 {
		t.Errorf("the node was %s %s %s %s, and is %s %s %s %s", mac, mac6, subnet, subnet6, n.mac(), n.mac6(), n.subnet(), n.subnet6())
	}
}

// TestDualLeases: half a lease is served by half, and named.
func TestDualLeases(t *testing.T) {
	c := newCluster(t, dualConf)
	n := c.node6(1).start()
	c.peer6(2)
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	c.put(leases+"10.244.4.0-24&fd00:10:244:4::-64", `{"PublicIP":"172.16.1.4","PublicIPv6":"fe80::4","BackendType":"vxlan",`+
		`"BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:04:04"},"BackendV6Data":{"VNI":1,"VtepMAC":"02:00:00:00:06:04"}}`)
	n.picture().wait(t, 3)
	n.waitReady()
	if mesh := n.mesh6(); countLines(mesh, "onlink") != 1 {
		t.Errorf("IPv6:\n%s", mesh)
	}
	for _, want := range []string{"10.244.3.0-24: it has no IPv6 subnet", "its PublicIPv6 fe80::4 is link-local"} {
		if !strings.Contains(n.said(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}
}

// TestDirectRoutingDual: a peer of the segment has plain routes of both
// families.
func TestDirectRoutingDual(t *testing.T) {
	c := newCluster(t, strings.Replace(dualConf, `"vxlan"`, `"vxlan","DirectRouting":true`, 1))
	n := c.node6(1).start()
	n.sh("ip route add default via 172.16.0.254; ip -6 route add default via fd00:172:16::254")
	c.peer6(2)
	const plain = "fd00:10:244:2::/64 via fd00:172:16::2 dev eth0 metric 1024"
	const tunnel = "fd00:10:244:2::/64 via fd00:10:244:2:: dev flannel-v6.1 metric 1024 onlink"
	expect := func(what, want string) {
		t.Helper()
		n.eventually(what, func() error {
			if mesh := n.mesh6(); countLines(mesh, want) != 1 || countLines(mesh, "fd00:10:244:2::/64") != 1 {
				return errors.New(mesh)
			}
			return nil
		})
		n.waitReady()
	}
	expect("a peer on the segment", plain)
	n.sh("ip -6 route replace fd00:10:244:2::/64 via fd00:172:16::9")
	expect("repair", plain)
	n.sh("ip -6 route add fd00:172:16::2 via fd00:172:16::254")
	expect("a gateway comes between", tunnel)
	n.sh("ip -6 route del fd00:172:16::2")
	expect("and goes", plain)
	n.stop()
	c.put("/coreos.com/network/config", dualConf)
	n.start()
	expect("without DirectRouting", tunnel)
}

// TestHostGWDual: bare routes of both families.
func TestHostGWDual(t *testing.T) {
	c := newCluster(t, strings.Replace(dualConf, "vxlan", "host-gw", 1))
	nodes := []*node{c.node6(1).start(), c.node6(2).start()}
	for _, n := range nodes {
		n.waitReady()
	}
	for i, n := range nodes {
		peer := nodes[1-i]
		n.eventually("bare routes", func() error {
			got := n.sh("ip route show; ip -6 route show")
			if countLines(got, fmt.Sprintf("%s via %s dev eth0", peer.subnet(), peer.ip)) != 1 || countLines(got, fmt.Sprintf("%s via %s dev eth0", peer.subnet6(), peer.ip6())) != 1 {
				return errors.New(got)
			}
			return nil
		})
		if mtu := n.variable("FLANNEL_MTU"); mtu != "1500" {
			t.Errorf("FLANNEL_MTU=%s", mtu)
		}
	}
	n, peer := nodes[0], nodes[1]
	n.sh(fmt.Sprintf("ip -6 route replace %s via fd00:172:16::77; ip -6 route append %s dev eth0", peer.subnet6(), peer.subnet6()))
	n.eventually("repair", func() error {
		if got := n.sh("ip -6 route show"); countLines(got, peer.subnet6().String()) != 1 || countLines(got, fmt.Sprintf("%s via %s dev eth0", peer.subnet6(), peer.ip6())) != 1 {
			return errors.New(got)
		}
		return nil
	})
}

// TestK12IPv6Alone: agents of a network of IPv6 alone. Upstream's all publish
// PublicIP 0.0.0.0, find each other's lease by it, and share it.
func TestK12IPv6Alone(t *testing.T) {
	c := newCluster(t, only6Conf)
	nodes := []*node{c.node6(1), c.node6(2), c.node6(3)}
	for _, n := range nodes {
		n.start()
	}
	var subnets []netip.Prefix
	for _, n := range nodes {
		n.waitReady()
		if slices.Contains(subnets, n.subnet6()) {
			t.Errorf("%s is two nodes'", n.subnet6())
		}
		subnets = append(subnets, n.subnet6())
		value, _ := c.get(fmt.Sprintf("%s0.0.0.0-0&%s-64", leases, n.subnet6().Addr()))
		if want := fmt.Sprintf(`{"PublicIP":"0.0.0.0","PublicIPv6":"%s","BackendType":"vxlan","BackendV6Data":{"VNI":1,"VtepMAC":"%s"}}`, n.ip6(), n.mac6()); value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
		if env := n.file(n.subnetFile); strings.Contains(env, "FLANNEL_SUBNET") || n.variable("FLANNEL_MTU") != "1430" {
			t.Errorf("subnet.env: %s", env)
		}
		if links := n.sh("ip -o link show type vxlan"); countLines(links, "") != 1 || countLines(links, "flannel-v6.1") != 1 {
			t.Errorf("devices: %s", links)
		}
	}
	for _, n := range nodes {
		for _, peer := range nodes {
			if peer == n {
				continue
			}
			want := fmt.Sprintf("%s via %s dev flannel-v6.1", peer.subnet6(), peer.subnet6().Addr())
			n.eventually(want, func() error {
				if mesh := n.mesh6(); countLines(mesh, want) != 1 {
					return errors.New(mesh)
				}
				return nil
			})
			n.sh(fmt.Sprintf("ping -6 -c1 -W5 %s", peer.subnet6().Addr()))
		}
	}
	// A node that comes back knows its lease by its PublicIPv6.
	subnet := nodes[1].subnet6()
	nodes[1].kill()
	nodes[1].sh("rm " + nodes[1].subnetFile)
	nodes[1].start()
	nodes[1].waitReady()
	if got := nodes[1].subnet6(); got != subnet {
		t.Errorf("it had %s, and has %s", subnet, got)
	}
}

// TestLinkLocalAlone: an agent whose interface has no global IPv6 address says
// so, and publishes nothing; upstream publishes fe80::.
func TestLinkLocalAlone(t *testing.T) {
	c := newCluster(t, dualConf)
	n := c.node6(1)
	n.sh("sysctl -qw net.ipv6.conf.eth0.addr_gen_mode=0; ip link set eth0 down; ip -6 addr flush dev eth0; ip link set eth0 up")
	n.start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	n.cmd = nil
	if said := n.said(); !strings.Contains(said, "has no IPv6 address but the link-local fe80:") {
		t.Errorf("it said %s", said)
	}
	if r, err := c.etcd.Client.Get(t.Context(), dualKey(100)); err != nil || len(r.Kvs) > 0 {
		t.Errorf("there is a lease: %v (%v)", r.Kvs, err)
	}
}
