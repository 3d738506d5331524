package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	nft "github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

// withPorts are the stock configuration and mappings of the node's ports.
func withPorts(mappings ...map[string]any) func(*Config) {
	return func(c *Config) { c.RuntimeConfig = map[string]any{"portMappings": mappings} }
}

func mapping(protocol string, host, pod int, ip string) map[string]any {
	m := map[string]any{"hostPort": host, "containerPort": pod, "protocol": protocol}
	if ip != "" {
		m["hostIP"] = ip
	}
	return m
}

// A pod behind a host port answers to its own node, by the node's address and
// by 127.0.0.1, to another node, to a neighbour on its bridge, and to itself
// (NM-07), whether or not iptables sees what is bridged. Another node's
// address is not hidden from it.
//
//	 other 172.16.1.9             node 172.16.1.8
//	+----------------+       +--------------------------+
//	|      eth0 -----|-------|- eth0    cni0 10.244.1.1 |
//	+----------------+       |         /          \     |
//	                         |    web :80       client  |
//	                         +--------------------------+
//	                          172.16.1.8:8080 -> web:80
func TestHostPortAnswers(t *testing.T) {
	const web, client = "10.244.1.2", "10.244.1.3"
	for _, calls := range []string{"0", "1"} {
		l := newLab(t, nil, withPorts(mapping("tcp", 8080, 80, ""), mapping("udp", 8053, 53, "172.16.1.8")))
		other := nstest.New(t)
		l.on(l.node, func() error {
			// Where the kernel has no such switch, the bridge never calls.
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(calls), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return underlay(other)
		})
		webNS, webAdd := l.newPod("web", "IP="+web)
		l.mustAdd(webAdd)
		clientNS, clientAdd := l.newPod("client", "IP="+client)
		quiet := *l.conf
		quiet.RuntimeConfig = nil
		clientAdd.Config = &quiet
		l.mustAdd(clientAdd)
		if err := l.check(webAdd); err != nil {
			t.Fatal(err)
		}
		peers := serve(t, webNS, "tcp", web+":80")
		datagrams := serve(t, webNS, "udp", web+":53")
		for _, tc := range []struct {
			name    string
			from    *netns.Set
			address string
			seen    string // as whom the pod sees the sender
			said    chan string
		}{
			{"another node", other, "172.16.1.8:8080", "172.16.1.9", peers},
			{"the node", l.node, "172.16.1.8:8080", "172.16.1.8", peers},
			{"the node, by cni0", l.node, "10.244.1.1:8080", "10.244.1.1", peers},
			{"the node, by loopback", l.node, "127.0.0.1:8080", "10.244.1.1", peers},
			{"a neighbour", clientNS, "172.16.1.8:8080", "10.244.1.1", peers},
			{"the pod itself", webNS, "172.16.1.8:8080", "10.244.1.1", peers},
			{"the pod itself, by cni0", webNS, "10.244.1.1:8080", "10.244.1.1", peers},
			{"a neighbour, past the mapping", clientNS, web + ":80", client, peers},
			{"another node, UDP", other, "udp 172.16.1.8:8053", "172.16.1.9", datagrams},
			{"the pod itself, UDP", webNS, "udp 172.16.1.8:8053", "10.244.1.1", datagrams},
		} {
			if err := greet(tc.from, tc.address); err != nil {
				t.Errorf("bridge-nf-call-iptables %s, %s: %v", calls, tc.name, err)
				continue
			}
			if seen := <-tc.said; seen != tc.seen {
				t.Errorf("bridge-nf-call-iptables %s, %s: the pod sees %s, not %s", calls, tc.name, seen, tc.seen)
			}
		}
		// hostIP: 8053 is that address's alone. And the node's own services on
		// loopback are not a pod's to reach.
		if err := greet(l.node, "udp 127.0.0.1:8053"); err == nil {
			t.Error("a port of one address answers at another")
		}
		l.localIsLocal(clientNS)
		if err := l.del(webAdd); err != nil {
			t.Fatal(err)
		}
		if err := greet(other, "172.16.1.8:8080"); err == nil {
			t.Error("the port answers after DEL")
		}
		if got := l.mapped(); len(got) > 0 {
			t.Errorf("after DEL there is %v", got)
		}
	}
}

// localIsLocal lets a pod send to the node's 127.0.0.1 by way of cni0.
func (l *lab) localIsLocal(pod *netns.Set) {
	l.Helper()
	serve(l.TB, l.node, "tcp", "127.0.0.1:9")
	l.on(pod, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		loopback, _ := netlink.ParseAddr("127.0.0.1/8")
		if err := netlink.AddrDel(lo, loopback); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0); err != nil {
			return err
		}
		_, local, _ := net.ParseCIDR("127.0.0.0/8")
		return netlink.RouteAdd(&netlink.Route{Dst: local, Gw: net.ParseIP("10.244.1.1")})
	})
	if err := greet(pod, "127.0.0.1:9"); err == nil {
		l.Error("a pod reached a service on the node's loopback")
	}
}

// underlay connects the calling thread's node with another.
func underlay(other *netns.Set) error {
	c, err := rtnl.Dial()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	b.AddVeth(rtnl.Link{Name: "eth0", Index: 100, Up: true}, rtnl.Link{Name: "eth0", Index: 100, NetNS: other.Net})
	b.AddAddr(100, netip.MustParsePrefix("172.16.1.8/24"))
	if err := errors.Join(c.Do(&b), c.Close()); err != nil {
		return err
	}
	return other.Do(func() error {
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		var b rtnl.Batch
		b.SetLink(rtnl.Link{Name: "eth0", Index: 100, Up: true})
		b.AddAddr(100, netip.MustParsePrefix("172.16.1.9/24"))
		return errors.Join(c.Do(&b), c.Close())
	})
}

// serve answers each greeting, and tells from which address it came.
func serve(t testing.TB, ns *netns.Set, network, address string) chan string {
	t.Helper()
	said := make(chan string, 16)
	err := ns.Do(func() error {
		if network == "udp" {
			c, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = c.Close() })
			go func() {
				b := make([]byte, 16)
				for {
					_, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					said <- from.(*net.UDPAddr).IP.String()
					_, _ = c.WriteTo([]byte("hello"), from)
				}
			}()
			return nil
		}
		ln, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				said <- c.RemoteAddr().(*net.TCPAddr).IP.String()
				_, _ = c.Write([]byte("hello"))
				_ = c.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// greet expects a "hello" from an address, over TCP unless it starts with udp.
func greet(from *netns.Set, address string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	network, address, udp := strings.Cut(address, " ")
	if !udp {
		network, address = "tcp", network
	}
	c, err := from.Dial(ctx, network, address)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if udp {
		if _, err := c.Write([]byte("hello?")); err != nil {
			return err
		}
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "hello" {
		return fmt.Errorf("received %q", b)
	}
	return nil
}

// mapped is what the node has of nftables.
func (l *lab) mapped() (out []string) {
	l.Helper()
	l.on(l.node, func() error {
		c, err := nft.New()
		if err != nil {
			return err
		}
		tables, err := c.ListTables()
		if err != nil {
			return err
		}
		for _, table := range tables {
			chains, err := c.ListChainsOfTableFamily(table.Family)
			if err != nil {
				return err
			}
			for _, chain := range chains {
				rules, err := c.GetRules(table, chain)
				if err != nil {
					return err
				}
				for _, r := range rules {
					out = append(out, fmt.Sprintf("%s %s %q", table.Name, chain.Name, r.UserData))
				}
			}
			out = append(out, "table "+table.Name)
		}
		return nil
	})
	return out
}

// A failed ADD leaves no mapping, and disturbs none.
func TestHostPortOfAnother(t *testing.T) {
	l := newLab(t, nil, withPorts(mapping("tcp", 8080, 80, "")))
	_, first := l.newPod("first", "")
	l.mustAdd(first)
	before, rules := l.state(), l.mapped()
	for _, m := range []map[string]any{mapping("tcp", 8080, 81, ""), mapping("TCP", 8080, 80, "172.16.1.8")} {
		conf := *l.conf
		withPorts(mapping("tcp", 9090, 90, ""), m)(&conf)
		_, second := l.newPod("second", "")
		second.Config = &conf
		_, err := l.add(second)
		l.wantError(err, ErrHostPort, "8080/tcp is that of container first")
		if after := l.state(); !slices.Equal(before, after) {
			t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
		}
		if after := l.mapped(); !slices.Equal(rules, after) {
			t.Errorf("before\n%s\nafter\n%s", strings.Join(rules, "\n"), strings.Join(after, "\n"))
		}
	}
	// The same number is free for another protocol.
	conf := *l.conf
	withPorts(mapping("sctp", 8080, 80, ""))(&conf)
	_, third := l.newPod("third", "")
	third.Config = &conf
	l.mustAdd(third)
	for _, r := range []Request{first, third} {
		if err := l.check(r); err != nil {
			t.Error(err)
		}
	}
}

// CHECK notices each rule that is missing, by the runtime's word and by the
// record's.
func TestCheckNoticesMissingPorts(t *testing.T) {
	for _, chain := range []string{"prerouting", "output", "hostports", "masquerade", "localnet"} {
		l := newLab(t, nil, withPorts(mapping("tcp", 8080, 80, "")))
		_, r := l.newPod("pod-1", "")
		l.mustAdd(r)
		silent := *l.conf
		silent.RuntimeConfig = nil
		for _, conf := range []*Config{l.conf, &silent} {
			r.Config = conf
			if err := l.check(r); err != nil {
				t.Fatal(err)
			}
		}
		l.on(l.node, func() error {
			c, err := nft.New()
			if err != nil {
				return err
			}
			table := &nft.Table{Name: "overlab-cni-cbr0", Family: nft.TableFamilyINet}
			c.FlushChain(&nft.Chain{Name: chain, Table: table})
			return c.Flush()
		})
		for _, conf := range []*Config{l.conf, &silent} {
			r.Config = conf
			l.wantError(l.check(r), ErrDamaged, "is missing in chain "+chain)
		}
		// Another pod's ADD mends what both have in common.
		other := *l.conf
		withPorts(mapping("tcp", 9090, 90, ""))(&other)
		_, second := l.newPod("pod-2", "")
		second.Config = &other
		l.mustAdd(second)
		if err := l.check(second); err != nil {
			t.Error(err)
		}
		common := chain != "hostports" && chain != "masquerade"
		if err := l.check(r); common && err != nil || !common && err == nil {
			t.Errorf("%s: CHECK of the first pod after the second's ADD: %v", chain, err)
		}
	}
}

func TestGCRemovesPorts(t *testing.T) {
	l := newLab(t, nil, withPorts(mapping("tcp", 8080, 80, "")))
	_, stay := l.newPod("stay", "")
	l.mustAdd(stay)
	rules := l.mapped()
	conf := *l.conf
	withPorts(mapping("tcp", 9090, 90, ""))(&conf)
	for _, withFiles := range []bool{true, false} {
		_, gone := l.newPod("gone", "")
		gone.Config = &conf
		l.mustAdd(gone)
		if !withFiles {
			if err := os.RemoveAll(l.dir); err != nil {
				t.Fatal(err)
			}
		}
		collect := *l.conf
		collect.RuntimeConfig = nil
		collect.ValidAttachments = []types.GCAttachment{{ContainerID: "stay", IfName: "eth0"}}
		l.on(l.node, func() error { return GC(context.Background(), &collect) })
		if got := l.mapped(); !slices.Equal(rules, got) {
			t.Errorf("with files %v: GC leaves\n%s\nwant\n%s", withFiles, strings.Join(got, "\n"), strings.Join(rules, "\n"))
		}
	}
	collect := *l.conf
	l.on(l.node, func() error { return GC(context.Background(), &collect) })
	if got := l.mapped(); len(got) > 0 {
		t.Errorf("GC of all leaves\n%s", strings.Join(got, "\n"))
	}
}

func TestHostPortIPv6(t *testing.T) {
	l := newLab(t, map[string]string{"FLANNEL_IPV6_NETWORK": "fd00:10:244::/48", "FLANNEL_IPV6_SUBNET": "fd00:10:244:1::1/64"},
		withPorts(mapping("tcp", 8080, 80, "")))
	ns, r := l.newPod("web", "IP=10.244.1.2,fd00:10:244:1::2")
	l.mustAdd(r)
	if err := l.check(r); err != nil {
		t.Error(err)
	}
	said := serve(t, ns, "tcp", ":80")
	for _, tc := range []struct {
		from *netns.Set
		to   string
	}{{l.node, "[fd00:10:244:1::1]:8080"}, {ns, "[fd00:10:244:1::1]:8080"}, {ns, "10.244.1.1:8080"}} {
		if err := greet(tc.from, tc.to); err != nil {
			t.Errorf("%s: %v", tc.to, err)
			continue
		}
		<-said
	}
}

// What nft(8) shows is what a person reads.
func TestHostPortsAreReadable(t *testing.T) {
	nstest.Require(t)
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: this machine has no nft")
	}
	l := newLab(t, nil, withPorts(mapping("tcp", 8080, 80, ""), mapping("udp", 53, 53, "172.16.1.8")))
	_, r := l.newPod("web", "IP=10.244.1.2")
	l.mustAdd(r)
	var out []byte
	l.on(l.node, func() (err error) {
		out, err = exec.Command("nft", "list", "table", "inet", "overlab-cni-cbr0").CombinedOutput()
		return err
	})
	for _, want := range []string{
		"fib daddr type local jump hostports",
		`tcp dport 8080 dnat ip to 10.244.1.2:80 comment "web eth0 8080/tcp"`,
		`ip daddr 172.16.1.8 udp dport 53 dnat ip to 10.244.1.2:53 comment "web eth0 172.16.1.8:53/udp"`,
		`ip saddr 10.244.1.0/24 ip daddr 10.244.1.2 ct status dnat masquerade comment "web eth0"`,
		`iifname "cni0" ip daddr 127.0.0.0/8 drop`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
