package agent_test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/internal/kubetest"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

// dryRun runs the agent's --dry-run on the node and returns what it printed. It
// checks that this has changed nothing, not even for a moment.
func (n *node) dryRun(wantCode int) string {
	n.Helper()
	cmd := exec.Command(n.program, append(n.args, "--dry-run")...)
	cmd.Env = append(append(cmd.Environ(), asAgent+"=1"), n.env...)
	cmd.Stderr = n.log
	n.settle()
	node, stored := n.everything(), n.stored()
	var out []byte
	err := n.set.Do(func() (err error) {
		changes, err := rtnl.Listen(unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE,
			unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
		if err != nil {
			return err
		}
		out, err = cmd.Output()
		return errors.Join(err, changes.Drain(func(m rtnl.Message) error {
			if l, err := m.Link(); err == nil && l.Name == "eth0" {
				return nil // its carrier is told of late
			}
			n.Errorf("the dry run made the kernel send a message of type %d", m.Type)
			return nil
		}), changes.Close())
	})
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		n.Errorf("exit code %d, not %d:\n%s", code, wantCode, out)
	}
	if d := cmp.Diff(node, n.everything()); d != "" {
		n.Errorf("the dry run changed the node:\n%s", d)
	}
	if d := cmp.Diff(stored, n.stored()); d != "" {
		n.Errorf("the dry run changed the store:\n%s", d)
	}
	return string(out)
}

// settle waits until the kernel has told all of eth0 that comes of its making: its
// carrier, and that nobody else has its link-local address, each with routes.
func (n *node) settle() {
	n.Helper()
	n.sh("for i in $(seq 200); do ip -o link show dev eth0 | grep -q LOWER_UP && test -z \"$(ip -o -6 addr show dev eth0 tentative)\" && exit;" +
		"sleep 0.05; done; echo eth0 has no carrier or a tentative address after 10 s; exit 1")
}

// everything is what a dry run might touch, in the tools' own words.
func (n *node) everything() string {
	n.Helper()
	return n.sh("ip -o link | sed 's/^[0-9]*: //; s/NO-CARRIER,//; s/,LOWER_UP//; s/ state [A-Z]*//' | sort; ip -o addr | sed 's/^[0-9]*: //; s/ tentative//' | sort;" +
		"ip route | sed 's/ linkdown//' | sort; ip -6 route | sed 's/ linkdown//' | sort; ip neigh show nud permanent | sort; bridge fdb | grep -v ^33:33: | sort;" + // the groups that the kernel joins, late at times
		"for family in '' 6; do ip${family}tables-save | grep -E '^[*-]' || true; nft list table ip$family flannel-ipv${family:-4} 2>/dev/null || true; done;" +
		"nft list table inet flannel-harden 2>/dev/null || true; ip -d link show type vxlan | grep -Eo 'srcport [0-9 ]*|(no)?udpcsum' || true;" +
		"for file in " + filepath.Dir(n.subnetFile) + "/*.[ej]*; do echo $file; cat $file; done 2>/dev/null; ls -l /run/flannel 2>/dev/null || true;" +
		"tail -n1 /proc/sys/net/ipv6/conf/flannel*/accept_ra 2>/dev/null || true")
}

// stored is what etcd holds, with the revisions.
func (c *cluster) stored() string {
	c.Helper()
	r, err := c.etcd.Client.Get(c.Context(), "/", clientv3.WithPrefix())
	if err != nil {
		c.Fatal(err)
	}
	var s strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&s, "%s@%d lease %d %s\n", kv.Key, kv.ModRevision, kv.Lease, kv.Value)
	}
	return s.String()
}

// foreseen returns the lease that a dry run has shown: its key, and its value.
func foreseen(said string) (key, value string) {
	for line := range strings.Lines(said) {
		if _, rest, ok := strings.Cut(line, "what follows is for "); ok {
			key = strings.TrimSpace(rest)
		}
		if rest, ok := strings.CutPrefix(line, "# + "); ok {
			value = strings.TrimSpace(rest)
		}
	}
	return key, value
}

// TestDryRunOfFreshNode: a dry run takes no lease and changes nothing; what it
// prints, when a shell runs it, is what the agent itself would have made.
func TestDryRunOfFreshNode(t *testing.T) {
	object := func(config, object string) string { return strings.Replace(config, `{"Type":"vxlan"}`, object, 1) }
	nftables := func(config string) string {
		return strings.Replace(config, `"Network"`, `"EnableNFTables":true,"Network"`, 1)
	}
	for name, tt := range map[string]struct {
		config string
		dual   bool
		tun    bool
		args   []string
	}{
		"vxlan":             {config: netConf},
		"vxlan with direct": {config: object(netConf, `{"Type":"vxlan","DirectRouting":true}`)},
		"host-gw":           {config: object(netConf, `{"Type":"host-gw"}`)},
		"alloc":             {config: object(netConf, `{"Type":"alloc"}`)},
		"nftables":          {config: nftables(netConf)},
		"dual vxlan":        {config: dualConf, dual: true},
		"dual direct":       {config: object(dualConf, `{"Type":"vxlan","DirectRouting":true}`), dual: true},
		"dual host-gw":      {config: object(dualConf, `{"Type":"host-gw"}`), dual: true},
		"dual nftables":     {config: nftables(dualConf), dual: true},
		"IPv6 alone":        {config: only6Conf, dual: true},
		"hardened":          {config: netConf, args: []string{"--harden"}},
		"dual hardened":     {config: nftables(dualConf), dual: true, args: []string{"--harden"}},
		"udp":               {config: object(netConf, `{"Type":"udp"}`), tun: true},
		"ipip":              {config: object(netConf, `{"Type":"ipip"}`), tun: true},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.tun {
				tuntest.Require(t)
			}
			c := newCluster(t, tt.config)
			c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
			for i, kind := range []string{"host-gw", "ipip", ""} {
				c.put(fmt.Sprintf(leases+"10.244.%d.0-24", 3+i), fmt.Sprintf(`{"PublicIP":"172.16.1.%d","BackendType":%q}`, 3+i, kind))
			}
			c.peer6(7)
			c.put(dualKey(8), `{"PublicIP":"172.16.1.8","PublicIPv6":"fd00:172:16::8","BackendType":"host-gw"}`)
			args := append([]string{"--ip-masq", "--ip-blackhole-route"}, tt.args...)
			n := c.machine(tt.dual, 1, args...)
			said := n.dryRun(1)
			key, value := foreseen(said)
			n.sh(said)
			pasted := n.everything()
			c.put(leases+key, value)
			if said := n.dryRun(0); countLines(said, "") != countLines(said, "#") {
				t.Errorf("after the commands it prints\n%s", said)
			}
			t.Cleanup(func() { n.kill(); n.agent("--cleanup") })
			n.start().waitReady()
			if d := cmp.Diff(pasted, n.everything()); d != "" {
				t.Errorf("the agent makes something else (-pasted +agent):\n%s\nof\n%s", d, said)
			}
			if said := n.said(); strings.Contains(said, "change=") {
				t.Errorf("the agent had something to change:\n%s", said)
			}
		})
	}
}

// machine is node6 or node.
func (c *cluster) machine(dual bool, n int, args ...string) *node {
	c.Helper()
	if dual {
		return c.node6(n, args...)
	}
	return c.node(n, args...)
}

// TestDryRunRunsNoCommands: not those of an extension, whose output the lease
// would carry.
func TestDryRunRunsNoCommands(t *testing.T) {
	c := newCluster(t, strings.Replace(netConf, `{"Type":"vxlan"}`, `{"Type":"extension","PreStartupCommand":"ip link add made type bridge"}`, 1))
	n := c.node(1)
	if said := n.dryRun(1); countLines(said, "# the backend extension runs programs besides") != 1 {
		t.Errorf("it prints\n%s", said)
	}
}

// TestDryRunOfIPv6Left: rules of IPv6 that an agent of another network left go.
func TestDryRunOfIPv6Left(t *testing.T) {
	for name, config := range map[string]string{
		"iptables": dualConf, "nftables": strings.Replace(dualConf, `"Network"`, `"EnableNFTables":true,"Network"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, config)
			n := c.node6(1).start()
			n.waitReady()
			n.stop()
			n.sh("ip link del flannel-v6.1")
			c.put("/coreos.com/network/config", strings.NewReplacer(`"EnableIPv6":true,`, "", "}}", "}}").Replace(config))
			said := n.dryRun(1)
			key, value := foreseen(said)
			n.sh(said)
			if left := n.sh("ip6tables-save | grep -E FLANNEL.*ACCEPT || true; nft list table ip6 flannel-ipv6 2>/dev/null || true"); left != "" {
				t.Errorf("left: %s", left)
			}
			c.put(leases+key, value)
			n.dryRun(0)
		})
	}
}

// TestDryRunKube: of a node without annotations, it knows the subnet that the
// API has assigned, and of a node with them whether they are right.
func TestDryRunKube(t *testing.T) {
	kubetest.Each(t, func(t *testing.T, start kubetest.Start) {
		c := newKubeCluster(t, start)
		c.api.AddNode(t, nodeName(1), podCIDR(1))
		c.api.AddNode(t, nodeName(2), podCIDR(2))
		c.api.AddNode(t, nodeName(3))
		n := c.member(1, kubeNetConf, "--ip-blackhole-route")
		c.member(2, kubeNetConf).start().waitReady()
		c.announced(2)
		dryRun := func(wantCode int) string {
			t.Helper()
			before := c.api.Node(t, nodeName(1))
			said := n.dryRun(wantCode)
			if d := cmp.Diff(before, c.api.Node(t, nodeName(1))); d != "" {
				t.Errorf("the dry run changed the node's object:\n%s", d)
			}
			return said
		}
		said := dryRun(1)
		if countLines(said, "# the store has assigned 10.244.1.0-24 to this node, which would publish") != 1 ||
			countLines(said, "ip route replace 10.244.2.0/24 ") != 1 {
			t.Errorf("of a node without annotations it prints\n%s", said)
		}
		n.sh(said)
		n.start().waitReady()
		c.announced(1)
		if log := n.said(); strings.Contains(log, "change=") {
			t.Errorf("the agent had something to change:\n%s", log)
		}
		n.stop()
		if said := dryRun(0); !strings.Contains(said, "lease 10.244.1.0-24 is this node's and stays as it is") {
			t.Errorf("of a sound node it prints\n%s", said)
		}
		c.api.Annotate(t, nodeName(1), map[string]any{flannelPrefix + "public-ip-overwrite": "192.0.2.1"})
		if said := dryRun(1); countLines(said, "# + ", "192.0.2.1") != 1 {
			t.Errorf("of a node with another address to publish it prints\n%s", said)
		}
		n.env = []string{"NODE_NAME=" + nodeName(3)}
		if said := n.dryRun(2); said != "" || !strings.Contains(n.said(), "node-3 has no podCIDR yet") {
			t.Errorf("of a node without a subnet it prints %s", said)
		}
	})
}

// TestDryRunKubeDualStack: the addresses that an administrator wants to be used
// are those of both families.
func TestDryRunKubeDualStack(t *testing.T) {
	c := newKubeCluster(t, kubetest.Fake)
	c.api.AddNode(t, nodeName(1), podCIDR(1), "fd00:10:244:1::/64")
	c.api.Annotate(t, nodeName(1), map[string]any{
		flannelPrefix + "node-public-ip": "192.0.2.1", flannelPrefix + "node-public-ipv6": "2001:db8::1",
	})
	n := c.member(1, dualConf, "--ip-blackhole-route")
	n.addIPv6()
	said := n.dryRun(1)
	for _, part := range []string{
		"# the store has assigned 10.244.1.0-24&fd00:10:244:1::-64 to this node",
		`"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1"`, " local 2001:db8::1 dev eth0",
		"ip route replace blackhole fd00:10:244:1::/64 metric 2147483647", "FLANNEL_IPV6_SUBNET=fd00:10:244:1::1/64",
	} {
		if countLines(said, part) != 1 {
			t.Errorf("%s is not in\n%s", part, said)
		}
	}
}

// TestDryRunWireGuard: it makes no key, and reads the device that there is.
func TestDryRunWireGuard(t *testing.T) {
	kernel := requireWireGuard(t)
	c := newCluster(t, wireguardConf)
	n := c.wireguardNode(1)
	key, err := wgtypes.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	c.put(leases+"10.244.2.0-24", fmt.Sprintf(`{"PublicIP":"172.16.1.2","BackendType":"wireguard","BackendData":{"PublicKey":%q,"Port":51820}}`, key.PublicKey()))
	peer := fmt.Sprintf("wg set flannel-wg peer %s endpoint 172.16.1.2:51820 allowed-ips 10.244.2.0/24", key.PublicKey())
	said := n.dryRun(1)
	for _, line := range []string{"wg genkey > /run/flannel/wgkey", "wg set flannel-wg private-key /run/flannel/wgkey", peer, "ip route replace 10.244.0.0/16 dev flannel-wg"} {
		if !strings.Contains(said, line) {
			t.Errorf("%s is not in\n%s", line, said)
		}
	}
	if process := countLines(said, "# this kernel has no WireGuard") == 1; process == kernel {
		t.Errorf("it prints\n%s", said)
	}
	n.start().waitReady()
	n.stop()
	n.dryRun(0)
	err = n.wg(func(w *wgctrl.Client) error {
		return w.ConfigureDevice("flannel-wg", wgtypes.Config{ReplacePeers: true})
	})
	if err != nil {
		t.Fatal(err)
	}
	if said := n.dryRun(1); countLines(said, peer) != 1 || countLines(said, "") != 1+countLines(said, "#") {
		t.Errorf("of a node without a peer it prints\n%s", said)
	}
	if peers := n.peers(); peers != "" {
		t.Errorf("the dry run made peers:\n%s", peers)
	}
}

// TestDryRunOfDamage: the commands mend what the agent would.
func TestDryRunOfDamage(t *testing.T) {
	c := newCluster(t, netConf)
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	n := c.node(1, "--ip-masq").start()
	n.picture().wait(t, 2)
	n.waitReady()
	n.stop() // everything stays
	whole := n.everything()
	if said := n.dryRun(0); !strings.Contains(said, "is this node's and stays as it is") {
		t.Errorf("of a sound node it prints\n%s", said)
	}
	for _, damage := range []string{
		"ip neigh del 10.244.2.0 dev flannel.1; ip route del 10.244.3.0/24",
		"bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.1.9 port 4789 via eth0 self permanent",
		"bridge fdb append 02:00:00:00:00:44 dev flannel.1 dst 172.16.1.44 self permanent",
		"ip route replace 10.244.2.0/24 via 172.16.1.3 dev eth0",
		"ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink proto static metric 7",
		"ip addr flush dev flannel.1; ip addr add 10.244.7.7/32 dev flannel.1",
		"ip link set flannel.1 mtu 1400; ip link set flannel.1 down",
		"iptables -D FLANNEL-FWD 1; iptables -t nat -F; rm -r " + strings.TrimSuffix(n.subnetFile, "/subnet.env"),
	} {
		n.sh(damage)
		n.sh(n.dryRun(1))
		if d := cmp.Diff(whole, n.everything()); d != "" {
			t.Errorf("%s (-before +mended):\n%s", damage, d)
		}
		n.dryRun(0)
	}
	// A device with another MAC keeps it, and the lease must follow.
	n.sh("ip link del flannel.1; ip link add flannel.1 address 02:00:00:00:99:99 type vxlan id 1 dev eth0 dstport 4789")
	n.sh(n.dryRun(1))
	if said := n.dryRun(1); countLines(said, "# + ", "02:00:00:00:99:99") != 1 || countLines(said, "") != countLines(said, "#") {
		t.Errorf("of a sound node with another MAC it prints\n%s", said)
	}
}

func TestDryRunTrouble(t *testing.T) {
	c := newCluster(t, "")
	n := c.node(1)
	if out := n.dryRun(2); out != "" || !strings.Contains(n.said(), "the store has no network configuration") {
		t.Errorf("without a configuration: %s", out)
	}
}
