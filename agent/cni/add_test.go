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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

// CN-01: what ADD says is what the kernel has.
func TestAddResultIsTheKernels(t *testing.T) {
	l := newLab(t, nil, func(c *Config) { c.BridgeMAC = "da:54:dc:f2:f3:fe" })
	ns, r := l.newPod("0dc487cc6e4f", "IP=10.244.1.96;MAC=4a:60:9c:0a:01:60;HostInterface=vethae159e77")
	res := l.mustAdd(r)

	bridge, host, inside := res.Interfaces[0], res.Interfaces[1], res.Interfaces[2]
	if bridge.Name != "cni0" || bridge.Mac != "da:54:dc:f2:f3:fe" || host.Name != "vethae159e77" ||
		inside.Name != "eth0" || inside.Mac != "4a:60:9c:0a:01:60" || inside.Sandbox != r.Netns {
		t.Errorf("interfaces %v", res.Interfaces)
	}
	if len(res.IPs) != 1 || res.IPs[0].Address.String() != "10.244.1.96/24" ||
		res.IPs[0].Gateway.String() != "10.244.1.1" || *res.IPs[0].Interface != 2 {
		t.Errorf("addresses %v", res.IPs)
	}
	if got := fmt.Sprint(res.Routes); !strings.Contains(got, "10.244.0.0") || !strings.Contains(got, "0.0.0.0") {
		t.Errorf("routes %v", got)
	}

	var hostIndex int
	l.on(l.node, func() error {
		br := l.wantLink(bridge, "bridge")
		wantAddrs(t, br, "10.244.1.1/24")
		h := l.wantLink(host, "veth")
		hostIndex = h.Attrs().Index
		if h.Attrs().MasterIndex != br.Attrs().Index {
			t.Errorf("%s is not a port of cni0", host.Name)
		}
		port, err := netlink.LinkGetProtinfo(h)
		if !port.Hairpin {
			t.Error("the port has no hairpin mode")
		}
		if f, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); strings.TrimSpace(string(f)) != "1" {
			t.Errorf("ip_forward is %s", f)
		}
		return err
	})
	l.on(ns, func() error {
		eth0 := l.wantLink(inside, "veth")
		if eth0.Attrs().ParentIndex != hostIndex {
			t.Errorf("eth0's peer is %d, not %d", eth0.Attrs().ParentIndex, hostIndex)
		}
		wantAddrs(t, eth0, "10.244.1.96/24")
		if lo, err := netlink.LinkByName("lo"); err != nil || lo.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("lo is not up (%v)", err)
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		var got []string
		for _, rt := range routes {
			got = append(got, fmt.Sprintf("%s via %v src %v proto %s", rt.Dst, rt.Gw, rt.Src, rt.Protocol))
		}
		slices.Sort(got)
		want := []string{
			"0.0.0.0/0 via 10.244.1.1 src <nil> proto boot",
			"10.244.0.0/16 via 10.244.1.1 src <nil> proto boot",
			"10.244.1.0/24 via <nil> src 10.244.1.96 proto kernel",
		}
		if !slices.Equal(got, want) {
			t.Errorf("routes\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		return err
	})
	if err := l.check(r); err != nil {
		t.Errorf("CHECK of a fresh pod: %v", err)
	}
}

// wantLink checks a result's interface against the kernel.
func (l *lab) wantLink(i *types100.Interface, kind string) netlink.Link {
	l.Helper()
	link, err := netlink.LinkByName(i.Name)
	if err != nil {
		l.Fatalf("%s: %v", i.Name, err)
	}
	a := link.Attrs()
	if a.HardwareAddr.String() != i.Mac || a.MTU != 1400 || i.Mtu != 1400 ||
		link.Type() != kind || a.OperState != netlink.OperUp {
		l.Errorf("%s: result %+v, kernel %s mtu %d %s %s", i.Name, i, a.HardwareAddr, a.MTU, link.Type(), a.OperState)
	}
	return link
}

func wantAddrs(t *testing.T, link netlink.Link, want ...string) {
	t.Helper()
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() {
			got = append(got, a.IPNet.String())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s has %v, not %v", link.Attrs().Name, got, want)
	}
}

func TestFilesAreFlannelsAndHostLocals(t *testing.T) {
	for _, tc := range []struct {
		legacy      bool
		ipam, owner string
	}{
		{false, `{"dataDir":"DIR/networks","ranges":[[{"subnet":"10.244.1.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}],"type":"host-local"}`, "pod-1\r\neth0"},
		{true, `{"dataDir":"DIR/networks","routes":[{"dst":"10.244.0.0/16"}],"subnet":"10.244.1.0/24","type":"host-local"}`, "pod-1"},
	} {
		t.Run(fmt.Sprint("legacy ", tc.legacy), func(t *testing.T) {
			l := newLab(t, nil, func(c *Config) { c.LegacyRecords = tc.legacy })
			_, r := l.newPod("pod-1", "IP=10.244.1.96")
			l.mustAdd(r)
			wantFile(t, filepath.Join(l.conf.DataDir, "pod-1"),
				`{"cniVersion":"0.3.1","hairpinMode":true,"ipMasq":false,"ipam":`+strings.ReplaceAll(tc.ipam, "DIR", l.dir)+
					`,"isDefaultGateway":true,"isGateway":true,"mtu":1400,"name":"cbr0","type":"bridge"}`)
			wantFile(t, filepath.Join(l.reservations(), "10.244.1.96"), tc.owner)
			if fi, err := os.Stat(l.conf.DataDir); err != nil || fi.Mode().Perm() != 0o700 {
				t.Errorf("%s: %v, %v", l.conf.DataDir, fi.Mode(), err)
			}
			if err := l.check(r); err != nil {
				t.Error(err)
			}
			if err := l.del(r); err != nil {
				t.Fatal(err)
			}
			for _, s := range l.state() {
				if strings.HasPrefix(s, "file") {
					t.Errorf("after DEL there is %s", s)
				}
			}
		})
	}
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != want {
		t.Errorf("%s\n got %q\nwant %q", path, b, want)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v (%v)", path, fi.Mode(), err)
	}
}

// Two pods of a node talk as soon as their ADDs have returned.
func TestPodsTalk(t *testing.T) {
	for _, tc := range []struct {
		name string
		env  map[string]string
		own  int // which of the addresses
	}{
		{"IPv4", nil, 0},
		{"IPv6", map[string]string{"FLANNEL_IPV6_NETWORK": "fd00:10:244::/48", "FLANNEL_IPV6_SUBNET": "fd00:10:244:1::1/64"}, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, tc.env)
			server, r1 := l.newPod("server", "")
			client, r2 := l.newPod("client", "")
			addr := l.mustAdd(r1).IPs[tc.own].Address.IP.String()
			l.mustAdd(r2)
			if err := talk(server, client, addr); err != nil {
				t.Error(err)
			}
			for _, r := range []Request{r1, r2} {
				if err := l.check(r); err != nil {
					t.Error(err)
				}
				if err := l.del(r); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// talk sends a word over TCP.
func talk(server, client *netns.Set, addr string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var ln net.Listener
	err = server.Do(func() (err error) {
		ln, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ln.Close()) }()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	c, err := client.Dial(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	b, err := io.ReadAll(c)
	if string(b) != "hello" {
		err = errors.Join(err, fmt.Errorf("received %q", b))
	}
	return errors.Join(err, c.Close())
}

func TestDualStack(t *testing.T) {
	l := newLab(t, map[string]string{
		"FLANNEL_IPV6_NETWORK": "fd00:10:244::/48",
		"FLANNEL_IPV6_SUBNET":  "fd00:10:244:1::1/64",
	})
	ns, r := l.newPod("pod-1", "IP=10.244.1.7,fd00:10:244:1::7")
	res := l.mustAdd(r)
	if len(res.IPs) != 2 || res.IPs[1].Address.String() != "fd00:10:244:1::7/64" {
		t.Errorf("addresses %v", res.IPs)
	}
	l.on(ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		wantAddrs(t, eth0, "10.244.1.7/24", "fd00:10:244:1::7/64")
		routes, err := netlink.RouteList(eth0, netlink.FAMILY_V6)
		if got := fmt.Sprint(routes); !strings.Contains(got, "::/0") || !strings.Contains(got, "fd00:10:244::/48") {
			t.Errorf("routes %s", got)
		}
		return err
	})
	l.on(l.node, func() error {
		br, err := netlink.LinkByName("cni0")
		if err == nil {
			wantAddrs(t, br, "10.244.1.1/24", "fd00:10:244:1::1/64")
		}
		return err
	})
}

func TestNoIPv6InASingleStackPod(t *testing.T) {
	l := newLab(t, nil)
	ns, r := l.newPod("pod-1", "")
	l.mustAdd(r)
	l.on(ns, func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6")
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if strings.TrimSpace(string(b)) != "1" {
			t.Errorf("disable_ipv6 is %s", b)
		}
		return err
	})
}

// CN-03: a failed ADD leaves nothing behind. Each case breaks one step, on a
// node without pods and on one that has some.
func TestFailedAddLeavesNothing(t *testing.T) {
	full := map[string]string{"FLANNEL_SUBNET": "10.244.1.1/30"} // one pod's worth
	for _, tc := range []struct {
		name string
		env  map[string]string
		// spoil prepares the failure once the bystander pod, if any, is up.
		spoil func(l *lab, pod *netns.Set, r *Request)
		code  uint
		says  string
		// needsOther runs the case only beside another pod.
		needsOther bool
	}{
		{"an address that is taken", nil, func(l *lab, _ *netns.Set, r *Request) { r.Args = "IP=10.244.1.2" }, ErrAddress, "10.244.1.2 is not available", true},
		{"no address left", full, nil, ErrAddress, "no IP addresses available", true},
		{"a second ADD", nil, func(l *lab, _ *netns.Set, r *Request) { r.ContainerID = "other" }, ErrAddress, "eth0 has 10.244.1.2 already", true},
		{"a second ADD with another address", nil, func(l *lab, _ *netns.Set, r *Request) {
			r.ContainerID, r.Args = "other", "IP=10.244.1.9"
		}, ErrAddress, "eth0 has 10.244.1.2 already", true},
		{"an address of another node", nil, func(l *lab, _ *netns.Set, r *Request) { r.Args = "IP=10.244.2.2" }, ErrAddress, "10.244.2.2 is in none", false},
		{"the gateway's address", nil, func(l *lab, _ *netns.Set, r *Request) { r.Args = "IP=10.244.1.1" }, ErrAddress, "gateway", false},
		{"the network's address", nil, func(l *lab, _ *netns.Set, r *Request) { r.Args = "IP=10.244.1.0" }, ErrAddress, "10.244.1.0 is in none", false},
		{"the broadcast address", nil, func(l *lab, _ *netns.Set, r *Request) { r.Args = "IP=10.244.1.255" }, ErrAddress, "10.244.1.255 is in none", false},
		{"eth0 exists", nil, func(l *lab, pod *netns.Set, r *Request) {
			l.on(pod, func() error { return bridgeLink("eth0") })
		}, ErrKernel, "file exists", false},
		{"the host interface exists", nil, func(l *lab, _ *netns.Set, r *Request) {
			r.Args = "HostInterface=veth1"
			l.on(l.node, func() error { return bridgeLink("veth1") })
		}, ErrKernel, "veth1, for container pod-1, is on the node already", false},
		{"a route exists", nil, func(l *lab, pod *netns.Set, r *Request) {
			l.on(pod, func() error { return defaultRoute("10.0.0.1") })
		}, ErrKernel, "route add default", false},
		{"no such namespace", nil, func(_ *lab, _ *netns.Set, r *Request) { r.Netns = "/run/netns/nobody" }, types.ErrInvalidNetNS, "/run/netns/nobody", false},
		{"a file for a namespace", nil, func(l *lab, _ *netns.Set, r *Request) { r.Netns = l.conf.SubnetFile }, types.ErrInvalidNetNS, "not a network namespace", false},
		{"no subnet file", nil, func(l *lab, _ *netns.Set, _ *Request) { l.conf.SubnetFile = "/run/none/subnet.env" }, types.ErrTryAgainLater, "/run/none/subnet.env", false},
		{"no directory for the record", nil, func(l *lab, _ *netns.Set, _ *Request) { l.conf.DataDir = l.conf.SubnetFile }, types.ErrIOFailure, "directory of the records", false},
		{"no directory for the addresses", nil, func(l *lab, _ *netns.Set, _ *Request) { l.conf.IPAM["dataDir"] = l.conf.SubnetFile }, types.ErrIOFailure, "reserved addresses", false},
		{"a record that cannot be written", nil, func(l *lab, _ *netns.Set, _ *Request) {
			if err := os.MkdirAll(filepath.Join(l.conf.DataDir, "pod-1"), 0o700); err != nil {
				l.Fatal(err)
			}
		}, types.ErrIOFailure, "the record of container pod-1", false},
		{"the bridge's MAC", nil, func(l *lab, _ *netns.Set, _ *Request) { l.conf.BridgeMAC = "ff:ff:ff:ff:ff:ff" }, types.ErrInvalidNetworkConfig, "bridgeMAC", false},
		{"a container's name", nil, func(l *lab, _ *netns.Set, r *Request) { r.ContainerID = "../x" }, types.ErrInvalidEnvironmentVariables, "containerID", false},
		{"an interface's name", nil, func(l *lab, _ *netns.Set, r *Request) { r.IfName = "a-name-that-is-too-long" }, types.ErrInvalidEnvironmentVariables, "interface name", false},
		{"the node's subnet has changed", nil, func(l *lab, _ *netns.Set, _ *Request) {
			l.conf.SubnetFile = write(l, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.9.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n")
		}, ErrKernel, "already has an IP address different from 10.244.9.1/24", true},
	} {
		for _, other := range []bool{false, true} {
			if tc.needsOther && !other {
				continue
			}
			t.Run(fmt.Sprintf("%s, others %v", tc.name, other), func(t *testing.T) {
				l := newLab(t, tc.env)
				if other {
					_, r := l.newPod("other", "")
					l.mustAdd(r)
				}
				ns, r := l.newPod("pod-1", "")
				if tc.spoil != nil {
					tc.spoil(l, ns, &r)
				}
				before := l.state()
				_, err := l.add(r)
				l.wantError(err, tc.code, tc.says)
				if after := l.state(); !slices.Equal(before, after) {
					t.Errorf("before\n%s\nafter\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
				}
			})
		}
	}
}

// bridgeLink makes a link of that name: any kind would do.
func bridgeLink(name string) error {
	c, err := rtnl.Dial()
	if err != nil {
		return err
	}
	var b rtnl.Batch
	b.AddBridge(rtnl.Link{Name: name, Up: true})
	return errors.Join(c.Do(&b), c.Close())
}

// defaultRoute gives the namespace another network, with the default route.
func defaultRoute(gw string) error {
	if err := bridgeLink("other0"); err != nil {
		return err
	}
	l, err := netlink.LinkByName("other0")
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr("10.0.0.2/24")
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(l, a), netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}))
}

func TestAddAll(t *testing.T) {
	l := newLab(t, nil)
	var requests []Request
	for i := range 3 {
		_, r := l.newPod(fmt.Sprint("pod-", i), fmt.Sprintf("IP=10.244.1.%d", 10+i))
		requests = append(requests, r)
	}
	addAll := func() (res []*types100.Result, err error) {
		err = l.node.Do(func() error {
			res, err = AddAll(context.Background(), requests)
			return err
		})
		return res, err
	}
	before := l.state()
	good := requests[2].Args
	requests[2].Args = "IP=10.244.1.10"
	if _, err := addAll(); err == nil {
		t.Error("two pods got one address")
	}
	if after := l.state(); !slices.Equal(before, after) {
		t.Errorf("after the failure there is\n%s", strings.Join(after, "\n"))
	}
	requests[2].Args = good
	res, err := addAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range requests {
		if want := fmt.Sprintf("10.244.1.%d/24", 10+i); res[i].IPs[0].Address.String() != want {
			t.Errorf("pod %d has %s, not %s", i, &res[i].IPs[0].Address, want)
		}
		if err := l.check(r); err != nil {
			t.Error(err)
		}
	}
}

// IP-01: many ADDs at once, each as its own process would run it, give no
// address twice. They also race for the bridge.
func TestConcurrentAdds(t *testing.T) {
	const pods = 100
	l := newLab(t, nil)
	var requests []Request
	for i := range pods {
		_, r := l.newPod(fmt.Sprint("pod-", i), "")
		requests = append(requests, r)
	}
	var mu sync.Mutex
	seen := map[string]string{}
	var wg sync.WaitGroup
	for _, r := range requests {
		wg.Go(func() {
			res, err := l.add(r)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			ip := res.IPs[0].Address.IP.String()
			if other := seen[ip]; other != "" {
				t.Errorf("%s went to %s and to %s", ip, other, r.ContainerID)
			}
			seen[ip] = r.ContainerID
		})
	}
	wg.Wait()
	if len(seen) != pods {
		t.Errorf("%d addresses for %d pods", len(seen), pods)
	}
}

// IP-02 and IP-04: the range gives every host but the gateway, never the
// network's or the broadcast address, and then a clear error. IP-03: a DEL
// gives an address back.
func TestExhaustion(t *testing.T) {
	l := newLab(t, map[string]string{"FLANNEL_SUBNET": "10.244.1.1/29"})
	var got []string
	var last Request
	for i := range 5 {
		_, r := l.newPod(fmt.Sprint("pod-", i), "")
		got = append(got, l.mustAdd(r).IPs[0].Address.IP.String())
		last = r
	}
	slices.Sort(got)
	if want := []string{"10.244.1.2", "10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	_, r := l.newPod("one-too-many", "")
	_, err := l.add(r)
	l.wantError(err, ErrAddress, "no IP addresses available in range set: 10.244.1.1-10.244.1.6")
	if err := l.del(last); err != nil {
		t.Fatal(err)
	}
	l.mustAdd(r)
}

func TestAnExistingBridgeIsBroughtUpToDate(t *testing.T) {
	l := newLab(t, nil)
	l.on(l.node, func() error { return bridgeLink("cni0") })
	mac := func() (s string) {
		l.on(l.node, func() error {
			br, err := netlink.LinkByName("cni0")
			if err == nil {
				s = br.Attrs().HardwareAddr.String()
			}
			return err
		})
		return s
	}
	_, r := l.newPod("pod-1", "")
	before := l.state()
	r.Args = "HostInterface=lo" // fails once the bridge is done
	if _, err := l.add(r); err == nil {
		t.Fatal("a pod was wired to lo")
	}
	after := slices.DeleteFunc(l.state(), func(s string) bool { return strings.HasPrefix(s, "link cni0 mtu 1400") })
	if len(after) != len(before)-1 {
		t.Errorf("after a failed ADD there is\n%s", strings.Join(after, "\n"))
	}
	r.Args = ""
	res := l.mustAdd(r)
	if got := mac(); got != res.Interfaces[0].Mac {
		t.Errorf("cni0 has %s, and the result says %s", got, res.Interfaces[0].Mac)
	}
	if err := l.check(r); err != nil {
		t.Error(err)
	}
	// Its MAC stays when pods come, and follows the configuration.
	was := mac()
	_, r2 := l.newPod("pod-2", "MAC=02:00:00:00:00:01")
	l.mustAdd(r2)
	if got := mac(); got != was {
		t.Errorf("cni0's MAC changed from %s to %s with a pod", was, got)
	}
	l.conf.BridgeMAC = "da:54:dc:f2:f3:fe"
	_, r3 := l.newPod("pod-3", "")
	if got := l.mustAdd(r3).Interfaces[0].Mac; got != mac() || got != l.conf.BridgeMAC {
		t.Errorf("cni0 has %s, the result %s", mac(), got)
	}
}

func TestDerivedBridgeMAC(t *testing.T) {
	l := newLab(t, nil)
	_, r := l.newPod("pod-1", "")
	if got := l.mustAdd(r).Interfaces[0].Mac; got != "0a:58:0a:f4:01:01" {
		t.Errorf("cni0 has the MAC address %s", got)
	}
}

func TestANetworkOfOneNode(t *testing.T) {
	l := newLab(t, map[string]string{"FLANNEL_NETWORK": "10.244.1.0/24"})
	_, r := l.newPod("pod-1", "")
	if routes := l.mustAdd(r).Routes; len(routes) != 1 {
		t.Errorf("routes %v, want the default one alone", routes)
	}
	if err := l.check(r); err != nil {
		t.Error(err)
	}
}

// Where the agent does not masquerade the plugin does, but not towards the
// overlay's other nodes.
func TestMasquerade(t *testing.T) {
	nstest.Require(t)
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: this machine has no iptables")
	}
	l := newLab(t, map[string]string{"FLANNEL_IPMASQ": "false"})
	rules := func() (s string) {
		l.on(l.node, func() error {
			b, err := exec.Command("iptables", "-t", "nat", "-S").CombinedOutput()
			s = string(b)
			return err
		})
		return s
	}
	_, r := l.newPod("pod-1", "IP=10.244.1.96")
	l.mustAdd(r)
	for _, want := range []string{"-A POSTROUTING -s 10.244.1.96/32", "-d 10.244.0.0/16", "MASQUERADE"} {
		if got := rules(); !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if err := l.del(r); err != nil {
		t.Fatal(err)
	}
	if got := rules(); strings.Contains(got, "10.244") {
		t.Errorf("after DEL there is\n%s", got)
	}
}

func TestAddEndsWithItsContext(t *testing.T) {
	l := newLab(t, nil)
	_, r := l.newPod("pod-1", "")
	before := l.state()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := l.node.Do(func() error { _, err := Add(ctx, r); return err })
	l.wantError(err, types.ErrTryAgainLater, "canceled")
	if after := l.state(); !slices.Equal(before, after) {
		t.Errorf("after it there is\n%s", strings.Join(after, "\n"))
	}
}

// TestAddAwaitsTheAgent: when a node starts, its pods are wired when its agent
// has told the subnet, and not before.
func TestAddAwaitsTheAgent(t *testing.T) {
	l := newLab(t, nil)
	there := l.conf.SubnetFile
	l.conf.SubnetFile, l.conf.AwaitSubnet = filepath.Join(t.TempDir(), "subnet.env"), 60
	_, r := l.newPod("pod-1", "")
	began := make(chan struct{})
	go func() {
		<-began
		if err := os.Symlink(there, l.conf.SubnetFile); err != nil {
			t.Error(err)
		}
	}()
	l.on(l.node, func() error {
		close(began)
		_, err := Add(context.Background(), r)
		return err
	})
	l.conf.SubnetFile, l.conf.AwaitSubnet = "/run/none/subnet.env", 1
	_, r = l.newPod("pod-2", "")
	_, err := l.add(r)
	l.wantError(err, types.ErrTryAgainLater, "/run/none/subnet.env")
}

func BenchmarkAdd(b *testing.B) { benchmark(b, 1) }

// BenchmarkAddAll wires eight pods at a time.
func BenchmarkAddAll(b *testing.B) { benchmark(b, 8) }

func benchmark(b *testing.B, pods int) {
	l := newLab(b, map[string]string{"FLANNEL_NETWORK": "10.0.0.0/8", "FLANNEL_SUBNET": "10.244.0.1/16"})
	first := netip.MustParseAddr("10.244.1.0")
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		var requests []Request
		for p := range pods {
			first = first.Next()
			_, r := l.newPod(fmt.Sprintf("pod-%d-%d", i, p), "IP="+first.String())
			requests = append(requests, r)
		}
		b.StartTimer()
		l.on(l.node, func() error {
			_, err := AddAll(context.Background(), requests)
			return err
		})
		b.StopTimer()
		for _, r := range requests {
			if err := l.del(r); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*pods), "µs/pod")
}

// BenchmarkBareKernel makes the same links, addresses and routes as
// BenchmarkAddAll, with nothing but the messages: the floor to measure by.
func BenchmarkBareKernel(b *testing.B) {
	const pods = 8
	l := newLab(b, nil)
	_, r := l.newPod("bridge", "")
	l.mustAdd(r)
	var c *rtnl.Conn
	var bridge int
	l.on(l.node, func() (err error) {
		br, err := netlink.LinkByName("cni0")
		if err != nil {
			return err
		}
		bridge = br.Attrs().Index
		c, err = rtnl.Dial()
		return err
	})
	for b.Loop() {
		b.StopTimer()
		var batch rtnl.Batch
		var namespaces []*netns.Set
		for i := range pods {
			ns, _ := l.newPod("", "")
			namespaces = append(namespaces, ns)
			batch.AddVeth(
				rtnl.Link{Name: fmt.Sprint("veth", i), Index: 1000 + i, MTU: 1400, Master: bridge, Up: true},
				rtnl.Link{Name: "eth0", Index: 2, MTU: 1400, NetNS: ns.Net})
			batch.SetHairpin(1000+i, true)
		}
		b.StartTimer()
		if err := c.Do(&batch); err != nil {
			b.Fatal(err)
		}
		if err := netns.Thread(func() error { return bareInside(namespaces) }); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		for i := range pods {
			batch.DelLink(1000 + i)
		}
		if err := c.Do(&batch); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*pods), "µs/pod")
	if err := c.Close(); err != nil {
		b.Error(err)
	}
}

// bareInside configures eth0, number 2, in each namespace.
func bareInside(namespaces []*netns.Set) error {
	for _, ns := range namespaces {
		if err := ns.Enter(); err != nil {
			return err
		}
		c, err := rtnl.Dial()
		if err != nil {
			return err
		}
		if err := setIPv6("eth0", "disable_ipv6", "1"); err != nil {
			return err
		}
		gw := netip.MustParseAddr("10.244.1.1")
		var batch rtnl.Batch
		batch.SetLink(rtnl.Link{Index: 1, Up: true})
		batch.AddAddr(2, netip.MustParsePrefix("10.244.1.2/24"))
		batch.SetLink(rtnl.Link{Index: 2, Up: true})
		batch.NewRoute(rtnl.Route{Dst: netip.MustParsePrefix("10.244.0.0/16"), Via: gw, Dev: 2})
		batch.NewRoute(rtnl.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: gw, Dev: 2})
		if err := errors.Join(c.Do(&batch), c.Close()); err != nil {
			return err
		}
	}
	return nil
}
