package agent_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

const hostGW = `{"Network":"10.244.0.0/16","Backend":{"Type":"host-gw"}}`

// hostPeer makes the lease of a host-gw node that is only in the store.
func (c *cluster) hostPeer(subnet, publicIP string) {
	c.Helper()
	c.put(leases+subnet+"-24", fmt.Sprintf(`{"PublicIP":%q,"PublicIPv6":null,"BackendType":"host-gw"}`, publicIP))
}

// podRoutes are the node's routes to other nodes' pods.
func (n *node) podRoutes() string {
	n.Helper()
	return n.sh("ip route show | grep ^10.244 || true")
}

// expectRoutes waits for exactly these.
func (n *node) expectRoutes(what string, want ...string) {
	n.Helper()
	n.eventually(what, func() error {
		if d := cmp.Diff(strings.Join(want, "\n"), strings.ReplaceAll(n.podRoutes(), " \n", "\n")); d != "" {
			return errors.New(d)
		}
		return nil
	})
}

// TestHostGW: three agents, a route for each peer, and leases as flannel's.
//
//	.1   .2   .3       172.16.1, eth0
//	 +----+----+ br0   172.16.0.0/16
func TestHostGW(t *testing.T) {
	c := newCluster(t, hostGW)
	nodes := []*node{c.node(1).start(), c.node(2).start(), c.node(3).start()}
	for _, n := range nodes {
		n.waitReady()
		value, _ := c.get(n.key())
		if want := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null,"BackendType":"host-gw"}`, n.ip); value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
		if env := n.file(n.subnetFile); !strings.Contains(env, "FLANNEL_MTU=1500\n") {
			t.Errorf("subnet.env: %s", env)
		}
	}
	for _, n := range nodes {
		for _, peer := range nodes {
			if peer == n {
				continue
			}
			n.eventually("a route to "+peer.ip.String(), func() error {
				if want := fmt.Sprintf("%s via %s dev eth0", peer.subnet(), peer.ip); countLines(n.podRoutes(), want) != 1 {
					return errors.New(n.podRoutes())
				}
				return nil
			})
		}
		if got := n.sh("ip -o link show | wc -l"); got != "2" { // lo and eth0
			t.Errorf("node %s has %s links", n.ip, got)
		}
	}
}

// TestHostGWTampering: wrong and missing routes are repaired, foreign ones are
// not touched, and --cleanup leaves those.
func TestHostGWTampering(t *testing.T) {
	c := newCluster(t, hostGW)
	n := c.node(1).start()
	c.hostPeer("10.244.2.0", "172.16.1.2")
	c.hostPeer("10.244.3.0", "172.16.1.3")
	foreign := []string{
		"10.244.97.0/24 via 172.16.1.97 dev eth0 proto static",
		"10.244.98.0/24 via 172.16.1.98 dev eth0 metric 7",
		"10.244.99.0/25 via 172.16.1.99 dev eth0",
		"10.244.100.0/24 dev eth0 scope link",
	}
	for _, r := range foreign {
		n.sh("ip route add " + r)
	}
	n.sh("ip route add 10.99.0.0/24 via 172.16.1.99")
	mesh := []string{"10.244.2.0/24 via 172.16.1.2 dev eth0", "10.244.3.0/24 via 172.16.1.3 dev eth0"}
	all := append(append([]string{}, mesh...), foreign...)
	n.expectRoutes("the mesh", all...)
	n.waitReady()
	for _, tamper := range []string{
		"ip route del 10.244.2.0/24",
		"ip route replace 10.244.2.0/24 via 172.16.1.3",
		"ip route replace 10.244.2.0/24 via 172.16.1.3 proto static",
		"ip route append 10.244.2.0/24 via 172.16.1.3",
		"ip route prepend 10.244.2.0/24 via 172.16.1.3",
		"ip route replace 10.244.2.0/24 via 172.16.1.2 mtu 1000",
		"ip route replace 10.244.2.0/24 nexthop via 172.16.1.2 nexthop via 172.16.1.3",
		"ip route replace blackhole 10.244.2.0/24",
		"ip route add 10.244.50.0/24 via 172.16.1.50",
		"ip link add dummy0 type veth peer name dummy1; ip link set dummy0 up; ip route replace 10.244.2.0/24 dev dummy0",
	} {
		n.sh(tamper)
		began := time.Now()
		n.expectRoutes("repair of: "+tamper, all...)
		t.Logf("%-100s repaired within %v", tamper, time.Since(began).Round(time.Millisecond))
	}
	n.sh("ip link set eth0 down; ip link set eth0 up")
	n.expectRoutes("the mesh after the link was down", mesh...)
	for _, r := range foreign {
		n.sh("ip route add " + r)
	}

	// A peer leaves while the agent is away (K3).
	n.stop()
	n.expectRoutes("the agent's end changes nothing", all...)
	c.del(leases + "10.244.3.0-24")
	n.start()
	n.expectRoutes("the stale route goes", append([]string{mesh[0]}, foreign...)...)
	n.waitReady()
	n.stop()
	n.args = append(n.args, "--cleanup")
	n.start()
	if err := n.cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.cmd = nil
	n.expectRoutes("--cleanup", foreign...)
}

// TestHostGWPeerBehindRouter: a peer on another segment is named, /readyz
// tells of it, and its route comes as soon as it can.
func TestHostGWPeerBehindRouter(t *testing.T) {
	c := newCluster(t, hostGW)
	n := c.node(1).start()
	n.sh("ip route add default via 172.16.0.254")
	c.hostPeer("10.244.2.0", "172.16.1.2")
	c.hostPeer("10.244.3.0", "172.17.1.3")
	c.hostPeer("10.245.3.0", "172.16.1.3")
	n.expectRoutes("the adjacent peer", "10.244.2.0/24 via 172.16.1.2 dev eth0")
	const why = "lease 10.244.3.0-24: its PublicIP 172.17.1.3 is not on the segment of eth0, and host-gw crosses no router"
	n.eventually("/readyz names the peer", func() error {
		if ok, text := n.ready(); ok || !strings.Contains(text, why) {
			return errors.New(text)
		}
		return nil
	})
	n.eventually("the kernel's refusals are tried again", func() error {
		if got := n.said(); strings.Count(got, why) < 1 || !strings.Contains(got, "10.245.3.0-24: its subnet is not a /24 of 10.244.0.0/16") {
			return errors.New(got)
		}
		return nil
	})
	// Adjacency comes and goes with the node's addresses.
	n.sh("ip addr add 172.17.1.1/16 dev eth0")
	n.expectRoutes("the peer that has come to the segment", "10.244.2.0/24 via 172.16.1.2 dev eth0", "10.244.3.0/24 via 172.17.1.3 dev eth0")
	n.waitReady()
	if got := countLines(n.said(), "change=", "10.244.3.0/24 via 172.17.1.3"); got > 2 {
		t.Errorf("the log tells %d times of one route", got)
	}
}

func TestHostGWRefusesAnotherPublicIP(t *testing.T) {
	c := newCluster(t, hostGW)
	n := c.node(1, "--public-ip=192.0.2.1").start()
	if err := n.cmd.Wait(); err == nil {
		t.Error("the agent ran")
	}
	n.cmd = nil
	if !strings.Contains(n.said(), "host-gw: the public IP 192.0.2.1 is not 172.16.1.1") {
		t.Error(n.said())
	}
}

// TestHostGWOfAWiderNetwork: an agent that comes to own more routes than the one
// before it lets those be that both own, so that no packet is lost between the
// two. A dry run agrees.
func TestHostGWOfAWiderNetwork(t *testing.T) {
	c := newCluster(t, hostGW)
	n := c.node(1).start()
	c.hostPeer("10.244.2.0", "172.16.1.2")
	c.hostPeer("10.244.3.0", "172.16.1.3")
	mesh := []string{"10.244.2.0/24 via 172.16.1.2 dev eth0", "10.244.3.0/24 via 172.16.1.3 dev eth0"}
	n.expectRoutes("the mesh", mesh...)
	n.waitReady()
	n.kill()
	c.put("/coreos.com/network/config", `{"Network":"10.240.0.0/12","SubnetLen":24,"Backend":{"Type":"host-gw"}}`)
	c.del(leases + "10.244.3.0-24") // the node went while there was no agent
	if out := n.dryRun(1); countLines(out, "ip route del 10.244.3.0/24") != 1 || countLines(out, "10.244.2.0/24") != 0 {
		t.Errorf("the dry run says\n%s", out)
	}
	deleted := n.deletedRoutes()
	n.start().waitReady()
	n.expectRoutes("the mesh", mesh[0])
	if got := deleted(); !slices.Equal(got, []string{"10.244.3.0/24"}) {
		t.Errorf("the agent deleted the routes to %v", got)
	}
}

// deletedRoutes watches the node, and returns what tells the destinations of the
// IPv4 routes that were deleted since.
func (n *node) deletedRoutes() func() []string {
	n.Helper()
	var listener *rtnl.Listener
	err := n.set.Do(func() (err error) {
		listener, err = rtnl.Listen(unix.RTNLGRP_IPV4_ROUTE)
		return err
	})
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { _ = listener.Close() })
	return func() (gone []string) {
		err := listener.Drain(func(m rtnl.Message) error {
			if m.Type != unix.RTM_DELROUTE {
				return nil
			}
			r, err := m.Route()
			gone = append(gone, r.Dst.String())
			return err
		})
		if err != nil {
			n.Error(err)
		}
		return gone
	}
}
