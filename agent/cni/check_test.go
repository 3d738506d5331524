package cni

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/netns"
)

// CN-04: CHECK names the damage, with the runtime's memory of ADD's result and
// without.
func TestCheckNamesTheDamage(t *testing.T) {
	// in runs a change in one of the two namespaces.
	inPod := func(fn func() error) func(*lab, *netns.Set) {
		return func(l *lab, pod *netns.Set) { l.on(pod, fn) }
	}
	atNode := func(fn func() error) func(*lab, *netns.Set) {
		return func(l *lab, _ *netns.Set) { l.on(l.node, fn) }
	}
	file := func(fn func(l *lab) error) func(*lab, *netns.Set) {
		return func(l *lab, _ *netns.Set) {
			if err := fn(l); err != nil {
				l.Fatal(err)
			}
		}
	}
	for _, tc := range []struct {
		name   string
		damage func(l *lab, pod *netns.Set)
		says   string
		// prev is set where only ADD's result can tell.
		prev bool
	}{
		{"eth0 deleted", inPod(func() error { return delLink("eth0") }), "eth0 is missing in the pod", false},
		{"eth0 of another kind", inPod(func() error {
			if err := delLink("eth0"); err != nil {
				return err
			}
			return bridgeLink("eth0")
		}), "is of type bridge", false},
		{"eth0 down", inPod(onLink("eth0", netlink.LinkSetDown)), "eth0 in the pod is down", false},
		{"another address", inPod(onLink("eth0", func(l netlink.Link) error {
			a, _ := netlink.ParseAddr("10.244.1.96/24")
			if err := netlink.AddrDel(l, a); err != nil {
				return err
			}
			a, _ = netlink.ParseAddr("10.244.1.97/24")
			return netlink.AddrAdd(l, a)
		})), "eth0 in the pod lacks the address 10.244.1.96/24 (it has [10.244.1.97/24])", false},
		{"another prefix length", inPod(onLink("eth0", func(l netlink.Link) error {
			a, _ := netlink.ParseAddr("10.244.1.96/24")
			if err := netlink.AddrDel(l, a); err != nil {
				return err
			}
			a, _ = netlink.ParseAddr("10.244.1.96/16")
			return netlink.AddrAdd(l, a)
		})), "lacks the address 10.244.1.96/24", false},
		{"another MTU", inPod(onLink("eth0", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) })),
			"eth0 in the pod has MTU 1300, not 1400", false},
		{"another MAC", inPod(onLink("eth0", func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		})), "has the MAC address 02:00:00:00:00:01", true},
		{"no default route", inPod(func() error { return delRoute("0.0.0.0/0") }), "0.0.0.0/0 via 10.244.1.1 is missing", false},
		{"no cluster route", inPod(func() error { return delRoute("10.244.0.0/16") }), "10.244.0.0/16 via 10.244.1.1 is missing", false},
		{"off the bridge", atNode(onLink("veth1", netlink.LinkSetNoMaster)), "veth1 on the node is not a port of cni0", false},
		{"the port down", atNode(onLink("veth1", netlink.LinkSetDown)), "veth1 on the node is down", false},
		{"the port's MTU", atNode(onLink("veth1", func(l netlink.Link) error { return netlink.LinkSetMTU(l, 1300) })),
			"veth1 on the node has MTU 1300", false},
		{"no hairpin", atNode(onLink("veth1", func(l netlink.Link) error { return netlink.LinkSetHairpin(l, false) })), "hairpin mode false", false},
		{"no bridge", atNode(func() error { return delLink("cni0") }), "bridge cni0 is missing", false},
		{"the bridge down", atNode(onLink("cni0", netlink.LinkSetDown)), "cni0 on the node is down", false},
		{"the bridge's address", atNode(onLink("cni0", func(l netlink.Link) error {
			a, _ := netlink.ParseAddr("10.244.1.1/24")
			return netlink.AddrDel(l, a)
		})), "cni0 on the node lacks the address 10.244.1.1/24", false},
		{"the bridge's MAC", atNode(onLink("cni0", func(l netlink.Link) error {
			return netlink.LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, 1})
		})), "cni0 on the node has the MAC address", true},
		{"no reservation", file(func(l *lab) error { return os.Remove(filepath.Join(l.reservations(), "10.244.1.96")) }),
			"no address is reserved", false},
		{"another's reservation", file(func(l *lab) error {
			return os.WriteFile(filepath.Join(l.reservations(), "10.244.1.96"), []byte("someone\r\neth0"), 0o600)
		}), "no address is reserved", false},
		{"no record", file(func(l *lab) error { return os.Remove(filepath.Join(l.conf.DataDir, "pod-1")) }), "the record", false},
		{"a damaged record", file(func(l *lab) error {
			return os.WriteFile(filepath.Join(l.conf.DataDir, "pod-1"), []byte("{"), 0o600)
		}), "cannot be read", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, nil)
			pod, r := l.newPod("pod-1", "IP=10.244.1.96;HostInterface=veth1")
			res := l.mustAdd(r)
			tc.damage(l, pod)
			if !tc.prev {
				l.wantError(l.check(r), ErrDamaged, tc.says)
			}
			// A runtime hands back what the plugin printed, at its version.
			old, err := res.GetAsVersion("0.4.0")
			if err != nil {
				t.Fatal(err)
			}
			if l.conf.PrevResult, err = json.Marshal(old); err != nil {
				t.Fatal(err)
			}
			l.wantError(l.check(r), ErrDamaged, tc.says)
		})
	}
}

func TestCheckOfAHealthyPodWithItsResult(t *testing.T) {
	for _, version := range []string{"0.4.0", "1.0.0", "1.1.0"} {
		l := newLab(t, nil)
		_, r := l.newPod("pod-1", "")
		res, err := l.mustAdd(r).GetAsVersion(version)
		if err != nil {
			t.Fatal(err)
		}
		if l.conf.PrevResult, err = json.Marshal(res); err != nil {
			t.Fatal(err)
		}
		if err := l.check(r); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

func onLink(name string, fn func(netlink.Link) error) func() error {
	return func() error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return fn(l)
	}
}

func delRoute(dst string) error {
	_, n, err := net.ParseCIDR(dst)
	if err != nil {
		return err
	}
	return netlink.RouteDel(&netlink.Route{Dst: n})
}
