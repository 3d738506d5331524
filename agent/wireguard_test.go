package agent_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

const wireguardConf = `{"Network":"10.244.0.0/16","SubnetMin":"10.244.100.0","Backend":{"Type":"wireguard"}}`

// requireWireGuard skips the test where nodes have neither the kernel's
// WireGuard nor TUN devices, and reports which they have.
func requireWireGuard(t testing.TB) (kernel bool) {
	t.Helper()
	err := nstest.New(t).Do(func() error {
		kernel = datapath.Makes("wireguard")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if !kernel {
		tuntest.Require(t)
	}
	t.Logf("WireGuard is the kernel's: %t", kernel)
	return kernel
}

// wireguardNode is a machine without an agent that has, as every machine has, a
// /run of its own: there WireGuard processes listen, and the key is kept.
func (c *cluster) wireguardNode(n int) *node {
	c.Helper()
	nd := c.node(n)
	mounts, err := netns.Create(unix.CLONE_NEWNS, func() error {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return unix.Mount("tmpfs", "/run", "tmpfs", 0, "")
	})
	if err != nil {
		c.Fatal(err)
	}
	nd.set.Mount = mounts.Mount
	c.Cleanup(func() { // before the namespaces are closed
		nd.kill()
		nd.agent("--cleanup")
	})
	return nd
}

// agent runs the agent for one short thing.
func (n *node) agent(flag string) {
	n.Helper()
	cmd := exec.Command(n.program, append(n.args, flag)...)
	cmd.Env = append(os.Environ(), asAgent+"=1")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.set.Do(cmd.Run); err != nil {
		n.Errorf("%s: %v\n%s", flag, err, out.String())
	}
}

// wg calls fn with what configures the node's WireGuard devices.
func (n *node) wg(fn func(*wgctrl.Client) error) error {
	return n.set.Do(func() error {
		c, err := wgctrl.New()
		if err != nil {
			return err
		}
		return errors.Join(fn(c), c.Close())
	})
}

// device returns flannel-wg.
func (n *node) device() (d *wgtypes.Device, err error) {
	err = n.wg(func(c *wgctrl.Client) error {
		d, err = c.Device("flannel-wg")
		return err
	})
	return d, err
}

// peers returns what flannel-wg knows of others, a line each.
func (n *node) peers() string {
	d, err := n.device()
	if err != nil {
		return err.Error()
	}
	var lines []string
	for _, p := range d.Peers {
		lines = append(lines, fmt.Sprintf("%s %s %s", p.PublicKey, p.Endpoint, p.AllowedIPs))
	}
	return strings.Join(lines, "\n")
}

// pair are two nodes whose agents are ready and know each other.
//
//	 br0, etcd
//	  |      |
//	node 1  node 2   each with flannel-wg, 10.244.x.0/32
func (c *cluster) pair() (one, two *node) {
	c.Helper()
	one, two = c.wireguardNode(1).start(), c.wireguardNode(2).start()
	for _, n := range []*node{one, two} {
		n.waitReady()
	}
	one.waitPeer(two)
	two.waitPeer(one)
	one.eventually("a handshake, without a packet that asks for it", func() error {
		if d, err := one.device(); err != nil || len(d.Peers) != 1 || d.Peers[0].LastHandshakeTime.IsZero() {
			return fmt.Errorf("%s (%v)", one.peers(), err)
		}
		return nil
	})
	return one, two
}

// waitPeer waits until the node knows the other, and nobody else.
func (n *node) waitPeer(other *node) {
	n.Helper()
	var d *wgtypes.Device
	n.eventually("the other node's device", func() (err error) {
		d, err = other.device()
		return err
	})
	want := fmt.Sprintf("%s %s:51820 [{%s ffffff00}]", d.PublicKey, other.ip, other.subnet().Addr())
	n.eventually("the peer "+want, func() error {
		if got := n.peers(); got != want {
			return errors.New(got)
		}
		return nil
	})
}

// ping sends packets through the tunnel to the other node until one is answered.
// The first may be lost to a handshake that is under way; that the protocol
// itself doubts a session takes longer than this waits.
func (n *node) ping(other *node) {
	n.Helper()
	n.sh(fmt.Sprintf("for i in 1 2 3 4 5 6 7 8; do ping -c1 -W1 -I %s %s && exit 0; done; exit 1", n.subnet().Addr(), other.subnet().Addr()))
}

// TestWireGuard: two agents ping through the tunnel, the lease is flannel's,
// and whatever is taken from the device comes back.
func TestWireGuard(t *testing.T) {
	kernel := requireWireGuard(t)
	one, two := newCluster(t, wireguardConf).pair()
	one.ping(two)
	two.ping(one)
	d, err := one.device()
	if err != nil {
		t.Fatal(err)
	}
	value, _ := one.get(one.key())
	if want := fmt.Sprintf(`{"PublicIP":"172.16.1.1","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":%q,"Port":51820}}`, d.PublicKey); value != want {
		t.Errorf("the lease is %s, not %s", value, want)
	}
	if env := one.file(one.subnetFile); !strings.Contains(env, "FLANNEL_MTU=1420\n") {
		t.Error(env)
	}
	if got := one.sh("stat -c %a /run/flannel/wgkey; cat /run/flannel/wgkey"); got != "400\n"+d.PrivateKey.String() {
		t.Errorf("the key file: %s", got)
	}
	link := one.sh("ip -d link show flannel-wg")
	if strings.Contains(link, " wireguard ") != kernel || !strings.Contains(link, "mtu 1420") {
		t.Error(link)
	}
	whole := one.wireguardState()
	other := d.Peers[0].PublicKey
	zero := 0
	for name, tamper := range map[string]func() error{
		"peer removed": one.configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: other, Remove: true}}}),
		"peer added":   one.configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: wgtypes.Key{1}}}}),
		"all allowed":  one.configure(wgtypes.Config{Peers: []wgtypes.PeerConfig{{PublicKey: other, AllowedIPs: []net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}}}}}),
		"no key":       one.configure(wgtypes.Config{PrivateKey: &wgtypes.Key{}}),
		"another port": one.configure(wgtypes.Config{ListenPort: &zero}),
		"deleted":      one.tamper("ip link del flannel-wg"),
		"down":         one.tamper("ip link set flannel-wg down"),
		"MTU":          one.tamper("ip link set flannel-wg mtu 1400"),
		"no address":   one.tamper("ip addr flush dev flannel-wg"),
		"no route":     one.tamper("ip route del 10.244.0.0/16"),
	} {
		if err := tamper(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if ok, _ := one.ready(); ok && one.wireguardState() != whole {
			t.Errorf("%s: the node is ready as %s", name, one.wireguardState())
		}
		one.eventually("repair of: "+name, func() error {
			if got := one.wireguardState(); got != whole {
				return errors.New(got)
			}
			return nil
		})
		one.waitReady()
		two.ping(one) // in a session of which one may know nothing any more
	}
}

// tamper is a command to be run on the node.
func (n *node) tamper(command string) func() error {
	return func() error {
		n.sh(command)
		return nil
	}
}

// configure is what wg(8) would do.
func (n *node) configure(cfg wgtypes.Config) func() error {
	return func() error {
		return n.wg(func(c *wgctrl.Client) error { return c.ConfigureDevice("flannel-wg", cfg) })
	}
}

// wireguardState is everything of flannel-wg that an agent looks after.
func (n *node) wireguardState() string {
	d, err := n.device()
	if err != nil {
		return err.Error()
	}
	var link string
	err = n.set.Do(func() error {
		out, err := exec.Command("sh", "-c", "ip link show flannel-wg | sed 's/^[0-9]*://'; ip -o -4 addr show flannel-wg | sed 's/.*inet/inet/'; ip route show dev flannel-wg").CombinedOutput()
		link = string(out)
		return err
	})
	return fmt.Sprintf("%s %d %v\n%s\n%s", d.PublicKey, d.ListenPort, err, n.peers(), link)
}

// TestWireGuardDisturbed: a device that was down, or had another key, has lost its
// sessions, and one that had another port is not where its peers believe. The
// node begins anew by itself: a peer that sends first would send into the void.
// No pod sends anything here.
func TestWireGuardDisturbed(t *testing.T) {
	requireWireGuard(t)
	one, two := newCluster(t, wireguardConf).pair()
	one.ping(two)
	heard := func() wgtypes.Peer { // what two knows of one
		d, err := two.device()
		if err != nil || len(d.Peers) != 1 {
			t.Fatalf("%v, %v", d, err)
		}
		return d.Peers[0]
	}
	zero := 0
	for name, tamper := range map[string]func() error{
		"down":         one.tamper("ip link set flannel-wg down"),
		"no key":       one.configure(wgtypes.Config{PrivateKey: &wgtypes.Key{}}),
		"another port": one.configure(wgtypes.Config{ListenPort: &zero}),
	} {
		before := heard()
		if err := tamper(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		two.eventually("after "+name+", the node is heard of", func() error {
			if now := heard(); now.ReceiveBytes == before.ReceiveBytes || now.Endpoint.String() != "172.16.1.1:51820" {
				return fmt.Errorf("before %+v, now %+v", before, now)
			}
			return nil
		})
		one.waitReady()
	}
}

// TestWireGuardOutlivesTheAgent: a flow of 100 packets a second loses nothing
// while the agent is killed, and started again.
func TestWireGuardOutlivesTheAgent(t *testing.T) {
	requireWireGuard(t)
	one, two := newCluster(t, wireguardConf).pair()
	one.ping(two) // the first handshake
	before := one.wireguardState()
	flow := exec.Command("ping", "-q", "-i0.01", "-c300", one.subnet().Addr().String())
	var out strings.Builder
	flow.Stdout, flow.Stderr = &out, &out
	if err := two.set.Do(flow.Start); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		one.kill()
		one.start().waitReady()
	}
	if err := flow.Wait(); err != nil || !strings.Contains(out.String(), " 0% packet loss") {
		t.Errorf("%v: %s", err, out.String())
	}
	if after := one.wireguardState(); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestWireGuardLeasesChange: neither a node's old key nor a node that has gone
// leaves a peer behind, also where that happens while the agent is down.
func TestWireGuardLeasesChange(t *testing.T) {
	requireWireGuard(t)
	c := newCluster(t, wireguardConf)
	n := c.wireguardNode(1).start()
	n.waitReady()
	first, second := wgtypes.Key{1}, wgtypes.Key{2}
	put := func(key wgtypes.Key, ip string) {
		c.put(leases+"10.244.2.0-24", fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":%q,"Port":4242}}`, ip, key))
	}
	expect := func(want string) {
		t.Helper()
		n.eventually(fmt.Sprintf("the peers %q", want), func() error {
			if got := n.peers(); got != want {
				return errors.New(got)
			}
			return nil
		})
		n.waitReady()
	}
	line := func(key wgtypes.Key, ip string) string {
		return fmt.Sprintf("%s %s:4242 [{10.244.2.0 ffffff00}]", key, ip)
	}
	put(first, "172.16.1.2")
	expect(line(first, "172.16.1.2"))
	put(second, "172.16.1.2")
	expect(line(second, "172.16.1.2"))
	put(second, "172.16.1.22")
	expect(line(second, "172.16.1.22"))
	n.kill()
	put(first, "172.16.1.2")
	n.start()
	expect(line(first, "172.16.1.2"))
	n.kill()
	c.del(leases + "10.244.2.0-24")
	n.start()
	expect("")
}

// TestWireGuardProcess: a process that is the device is replaced when it ends.
func TestWireGuardProcess(t *testing.T) {
	if requireWireGuard(t) {
		t.Skip("SKIPPED, NOT TESTED: this kernel makes devices of type wireguard, so there is no process")
	}
	one, two := newCluster(t, wireguardConf).pair()
	one.ping(two)
	before := one.wireguardState()
	pid := one.forwarder()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.eventually("another process", func() error {
		if one.forwarder() == pid || one.wireguardState() != before {
			return errors.New(one.wireguardState())
		}
		return nil
	})
	one.waitReady()
	two.ping(one) // in a session of which the new process knows nothing
	one.ping(two)
}

// forwarder returns the process that the log told of last.
func (n *node) forwarder() int {
	n.Helper()
	_, last, _ := strings.Cut(n.said()[max(0, strings.LastIndex(n.said(), "msg=forwarder")):], "pid=")
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(last, "\n", 2)[0]))
	if err != nil {
		n.Fatal(err)
	}
	return pid
}

// TestWireGuardCleanup: nothing stays.
func TestWireGuardCleanup(t *testing.T) {
	requireWireGuard(t)
	c := newCluster(t, wireguardConf)
	n := c.wireguardNode(1)
	const links = "ip -br link | cut -d' ' -f1" // a carrier may be told of late
	before := n.sh(links + "; ip route; ls -R /run")
	n.start().waitReady()
	n.stop()
	if _, err := n.device(); err != nil {
		t.Errorf("stopping the agent took the device along: %v", err)
	}
	n.agent("--cleanup")
	after := n.sh(links + "; ip route; rmdir /run/flannel /run/wireguard 2>/dev/null; rm -f /run/xtables.lock; ls -R /run")
	if after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestWireGuardByHand: a machine that is programmed by hand, with WireGuard in
// userspace and one etcd put in flannel's format, is a node as any other.
//
//	 br0, etcd
//	  |      |
//	node 1  machine 3: tun3 10.244.3.0/32, no agent
func TestWireGuardByHand(t *testing.T) {
	requireWireGuard(t)
	tuntest.Require(t)
	c := newCluster(t, wireguardConf)
	n := c.wireguardNode(1).start()
	n.waitReady()
	d, err := n.device()
	if err != nil {
		t.Fatal(err)
	}
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	hand := c.node(3)
	hand.wireguardByHand("tun3", fmt.Sprintf("private_key=%x\nlisten_port=4242\npublic_key=%x\nendpoint=%s:51820\nallowed_ip=%s\n", private[:], d.PublicKey[:], n.ip, n.subnet()))
	hand.sh("ip addr add 10.244.3.0/32 dev tun3; ip link set tun3 mtu 1420 up; ip route add 10.244.0.0/16 dev tun3")
	c.put(leases+"10.244.3.0-24", fmt.Sprintf(`{"PublicIP":"172.16.1.3","PublicIPv6":null,"BackendType":"wireguard","BackendData":{"PublicKey":%q,"Port":4242}}`, private.PublicKey()))
	n.eventually("the peer", func() error {
		if got := n.peers(); got != fmt.Sprintf("%s 172.16.1.3:4242 [{10.244.3.0 ffffff00}]", private.PublicKey()) {
			return errors.New(got)
		}
		return nil
	})
	n.sh(fmt.Sprintf("ping -c1 -W5 -I %s 10.244.3.0", n.subnet().Addr()))
	hand.sh("ping -c1 -W5 -s 1392 -M do " + n.subnet().Addr().String())
}

// wireguardByHand runs WireGuard on a TUN device of the node until the test
// ends; config is of wg(8)'s protocol.
func (n *node) wireguardByHand(name, config string) {
	n.Helper()
	err := n.set.Do(func() error {
		if err := tuntap.Create(name); err != nil {
			return err
		}
		fd, err := tuntap.Attach(name)
		if err != nil {
			return err
		}
		packets, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
		if err != nil {
			return err
		}
		d := device.NewDevice(packets, conn.NewDefaultBind(), device.NewLogger(device.LogLevelError, "by hand: "))
		n.Cleanup(d.Close)
		return errors.Join(d.IpcSet(config), d.Up())
	})
	if err != nil {
		n.Fatal(err)
	}
}

// TestWireGuardRefusesConfiguration names all that is wrong, and shows no key.
func TestWireGuardRefusesConfiguration(t *testing.T) {
	c := newCluster(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"wireguard","PSK":"secret","ListenPort":70000}}`)
	n := c.wireguardNode(1).start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("the agent ran")
	}
	n.cmd = nil
	for _, want := range []string{"ListenPort 70000 is not a UDP port", "PSK is not 32 bytes in base64"} {
		if !strings.Contains(n.said(), want) || strings.Contains(n.said(), "secret") {
			t.Errorf("%q: %s", want, n.said())
		}
	}
}
