package agent_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

const udpConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}`

// newUDP makes agents of udp that are ready and know each other.
//
//	.1   .2            172.16.1, eth0
//	 +----+ br0        172.16.0.0/16
func newUDP(t *testing.T, config string, count int) []*node {
	t.Helper()
	tuntest.Require(t)
	c := newCluster(t, config)
	var nodes []*node
	for i := range count {
		nodes = append(nodes, c.node(i+1).start())
	}
	for _, n := range nodes {
		n.waitReady()
	}
	for _, n := range nodes {
		for _, peer := range nodes {
			if peer != n {
				n.reaches(peer.subnet().Addr())
			}
		}
	}
	return nodes
}

// reaches waits for an echo of the address.
func (n *node) reaches(a netip.Addr) {
	n.Helper()
	n.eventually(fmt.Sprintf("%s reaches %s", n.ip, a), func() error {
		return n.set.Do(func() error { return exec.Command("ping", "-c1", "-W1", a.String()).Run() })
	})
}

// pod makes a pod of the node, with the subnet's address 2:
//
//	pod eth0 .2/24 --- vethpod .1/24 (node)
func (n *node) pod() *pod {
	n.Helper()
	p := &pod{set: nstest.New(n), ip: n.subnet().Addr().Next().Next()}
	gateway := n.subnet().Addr().Next()
	err := n.set.Do(func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.AddVeth(rtnl.Link{Name: "vethpod", Index: 77, MTU: 1472}, rtnl.Link{Name: "eth0", Index: 2, MTU: 1472, NetNS: p.set.Net})
		b.AddAddr(77, netip.PrefixFrom(gateway, 24))
		b.SetLink(rtnl.Link{Index: 77, Up: true})
		return errors.Join(conn.Do(&b), conn.Close())
	})
	if err != nil {
		n.Fatal(err)
	}
	err = p.set.Do(func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.AddAddr(2, netip.PrefixFrom(p.ip, 24))
		b.SetLink(rtnl.Link{Index: 2, Up: true})
		b.AddRoute(rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gateway, Dev: 2})
		return errors.Join(conn.Do(&b), conn.Close())
	})
	if err != nil {
		n.Fatal(err)
	}
	return p
}

type pod struct {
	set *netns.Set
	ip  netip.Addr
}

// ping returns what ping prints, also where there is no echo.
func (p *pod) ping(t *testing.T, args ...string) string {
	t.Helper()
	var out []byte
	err := p.set.Do(func() (err error) {
		out, err = exec.Command("ping", append([]string{"-n", "-c1", "-W5"}, args...)...).CombinedOutput()
		return err
	})
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(out)
}

// TestUDP: three agents ping each other through their forwarders, device,
// leases and subnet.env are as flannel's, and what is taken from the device
// comes back.
func TestUDP(t *testing.T) {
	nodes := newUDP(t, udpConf, 3)
	for _, n := range nodes {
		value, _ := n.get(n.key())
		if want := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null}`, n.ip); value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
		if env := n.file(n.subnetFile); !strings.Contains(env, "FLANNEL_MTU=1472\n") {
			t.Errorf("subnet.env: %s", env)
		}
		if got, want := n.podRoutes(), "10.244.0.0/16 dev flannel0"; strings.TrimSpace(got) != want {
			t.Errorf("routes %q, not %q", got, want)
		}
	}
	n, peer := nodes[0], nodes[1].subnet().Addr()
	for _, tamper := range []string{
		"ip link del flannel0", "ip link set flannel0 mtu 1400", "ip link set flannel0 down", "ip addr flush dev flannel0",
		"ip route del 10.244.0.0/16", "ip route replace 10.244.0.0/16 via 172.16.1.77",
	} {
		n.sh(tamper)
		n.eventually("repair of: "+tamper, func() error {
			got := n.podRoutes() + n.sh("ip addr show flannel0 || true") // it may be away
			for _, want := range []string{"10.244.0.0/16 dev flannel0", "mtu 1472", n.subnet().Addr().String() + "/32", "LOWER_UP"} {
				if !strings.Contains(got, want) {
					return fmt.Errorf("no %s in\n%s", want, got)
				}
			}
			return nil
		})
		n.waitReady()
		n.reaches(peer)
	}
}

// TestUDPRefused: what cannot be done is said, and leaves no lease.
func TestUDPRefused(t *testing.T) {
	tuntest.Require(t)
	c := newCluster(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"udp","Port":70000}}`)
	n := c.node(1).start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("the agent ran")
	}
	n.cmd = nil
	if !strings.Contains(n.said(), "Port 70000 is not a UDP port") {
		t.Error(n.said())
	}
}

// TestK16UnreachableArrives: a pod that sends to a subnet that nobody has is
// told so. Upstream writes that ICMP error to flannel0, where the kernel drops
// it for its local source address, unless accept_local is set: its pods wait in
// vain.
func TestK16UnreachableArrives(t *testing.T) {
	n := newUDP(t, udpConf, 1)[0]
	if n.sh("cat /proc/sys/net/ipv4/conf/all/accept_local") != "0" {
		t.Error("the test proves nothing: accept_local is set")
	}
	out := n.pod().ping(t, "10.244.250.7")
	if want := fmt.Sprintf("From %s icmp_seq=1 Destination Net Unreachable", n.subnet().Addr()); !strings.Contains(out, want) {
		t.Errorf("no %q:\n%s", want, out)
	}
}

// TestUDPHops: the TTL goes down at both ends of the wire besides both nodes'
// forwarding, and each of the four says so when it runs out.
//
//	pod --- node 1 --- forwarder 1 --- forwarder 2 --- node 2 --- pod
func TestUDPHops(t *testing.T) {
	nodes := newUDP(t, udpConf, 2)
	here, there := nodes[0].pod(), nodes[1].pod()
	gateway := nodes[0].subnet().Addr().Next()
	for ttl, want := range map[int]string{
		1: fmt.Sprintf("From %s icmp_seq=1 Time to live exceeded", gateway),
		2: fmt.Sprintf("From %s icmp_seq=1 Time to live exceeded", nodes[0].subnet().Addr()),
		3: fmt.Sprintf("From %s icmp_seq=1 Time to live exceeded", nodes[1].subnet().Addr()),
		4: fmt.Sprintf("From %s icmp_seq=1 Time to live exceeded", nodes[1].subnet().Addr()),
		5: fmt.Sprintf("64 bytes from %s: icmp_seq=1 ttl=60", there.ip),
	} {
		if out := here.ping(t, "-t", strconv.Itoa(ttl), there.ip.String()); !strings.Contains(out, want) {
			t.Errorf("TTL %d, no %q:\n%s", ttl, want, out)
		}
	}
	if out := here.ping(t, nodes[1].subnet().Addr().Next().String()); !strings.Contains(out, "ttl=61") {
		t.Errorf("the peer's bridge:\n%s", out)
	}
}

// TestUDPAgentKilled: a flow passes while the agent is killed and comes back,
// and loses nothing; the forwarder is the same.
func TestUDPAgentKilled(t *testing.T) {
	nodes := newUDP(t, udpConf, 2)
	n, peer := nodes[0], nodes[1]
	before := n.forwarder()
	var out bytes.Buffer
	flow := exec.Command("ping", "-n", "-i0.01", "-c200", "-W5", peer.subnet().Addr().String())
	flow.Stdout, flow.Stderr = &out, &out
	if err := n.set.Do(flow.Start); err != nil {
		t.Fatal(err)
	}
	n.kill()
	n.start().waitReady()
	n.stop()
	n.start().waitReady()
	if err := flow.Wait(); err != nil || !strings.Contains(out.String(), "200 packets transmitted, 200 received, 0% packet loss") {
		t.Errorf("the flow: %v\n%s", err, out.String())
	}
	if after := n.forwarder(); after != before {
		t.Errorf("the forwarder was %d and is %d", before, after)
	}
}

// TestUDPForwarderKilled: it is back at once.
func TestUDPForwarderKilled(t *testing.T) {
	nodes := newUDP(t, udpConf, 2)
	n, peer := nodes[0], nodes[1].subnet().Addr()
	for range 2 {
		before := n.forwarder()
		if err := unix.Kill(before, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		n.eventually("another forwarder", func() error {
			if n.forwarder() == before {
				return errors.New("it is the same")
			}
			return nil
		})
		n.waitReady()
		n.reaches(peer)
	}
}

// TestUDPCleanup: --cleanup ends the forwarder and leaves nothing.
func TestUDPCleanup(t *testing.T) {
	n := newUDP(t, udpConf, 1)[0]
	n.stop()
	n.args = append(n.args, "--cleanup")
	n.start()
	if err := n.cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.cmd = nil
	if out := n.sh("ip link show; ip route"); strings.Contains(out, "flannel0") {
		t.Error(out)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(n.subnetFile), "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := unix.Kill(n.forwarder(), 0); err == nil {
		n.eventually("the forwarder is gone", func() error {
			if err := unix.Kill(n.forwarder(), 0); err == nil {
				return errors.New("it runs")
			}
			return nil
		})
	}
}

// TestUDPPlainPeer: a node of flannel's, by hand: it has a TUN device without
// offloads and carries one packet a datagram. A TCP stream passes whole in both
// directions, so what is cut and joined at our end is right.
//
//	node 1: overlabd          node 2: plain, 10.244.2.0/24, known by its lease
func TestUDPPlainPeer(t *testing.T) {
	tuntest.Require(t)
	c := newCluster(t, `{"Network":"10.244.0.0/16","SubnetMin":"10.244.100.0","Backend":{"Type":"udp","Port":9285}}`)
	n := c.node(1).start()
	n.waitReady()
	plain := c.node(2)
	err := plain.set.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		ifr, err := unix.NewIfreq("flannel0")
		if err != nil {
			return err
		}
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
			return err
		}
		wire, err := net.ListenUDP("udp4", &net.UDPAddr{IP: plain.ip.AsSlice(), Port: 9285})
		if err != nil {
			return err
		}
		tun := os.NewFile(uintptr(fd), "tun")
		t.Cleanup(func() { tun.Close(); wire.Close() })
		go oneByOne(t, tun, wire, netip.AddrPortFrom(n.ip, 9285))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	plain.sh("ip link set flannel0 mtu 1472 up; ip addr add 10.244.2.0/32 dev flannel0; ip route add 10.244.0.0/16 dev flannel0")
	c.put(leases+"10.244.2.0-24", `{"PublicIP":"172.16.1.2","PublicIPv6":null}`)
	n.reaches(netip.MustParseAddr("10.244.2.0"))
	n.waitReady()
	for _, s := range []struct {
		from, to *node
		at       netip.Addr
	}{{n, plain, netip.MustParseAddr("10.244.2.0")}, {plain, n, n.subnet().Addr()}} {
		carry(t, s.from, s.to, s.at)
	}
}

// oneByOne moves packets as flannel's proxy does, less its TTL.
func oneByOne(t *testing.T, tun *os.File, wire *net.UDPConn, peer netip.AddrPort) {
	go func() {
		buf := make([]byte, 1472)
		for {
			size, _, err := wire.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := tun.Write(buf[:size]); err != nil && !errors.Is(err, os.ErrClosed) {
				t.Errorf("the device refuses a datagram's packet: %v", err)
			}
		}
	}()
	buf := make([]byte, 1472)
	for {
		size, err := tun.Read(buf)
		if err != nil {
			return
		}
		if _, err := wire.WriteToUDPAddrPort(buf[:size], peer); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Errorf("the plain peer cannot send: %v", err)
		}
	}
}

// carry sends some megabytes by TCP and compares them.
func carry(t *testing.T, from, to *node, at netip.Addr) {
	t.Helper()
	var listener net.Listener
	err := to.set.Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(at, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	data := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz-"), 400_000)
	go func() {
		conn, err := from.set.Dial(t.Context(), "tcp4", listener.Addr().String())
		if err == nil {
			_, err = conn.Write(data)
			err = errors.Join(err, conn.Close())
		}
		if err != nil {
			t.Error(err)
			listener.Close()
		}
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("to %s: %d of %d bytes arrived, or others (%v)", at, len(got), len(data), err)
	}
}

// TestUDPLogFormat: what the forwarder logs is in the form of the agent's log.
func TestUDPLogFormat(t *testing.T) {
	tuntest.Require(t)
	n := newCluster(t, udpConf).node(1, "--log-format=json").start()
	n.waitReady()
	n.sh("ip link del flannel0") // which ends it
	n.eventually("the forwarder's word", func() error {
		if said := n.said(); countLines(said, `{"time":`, `"msg":"the forwarder ends"`) == 0 {
			return errors.New(said)
		}
		return nil
	})
	if said := n.said(); countLines(said, "") != countLines(said, `{"time":`) {
		t.Errorf("not all is JSON:\n%s", said)
	}
	n.waitReady()
	n.stop()
	n.agent("--cleanup")
}
