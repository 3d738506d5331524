package cni

import (
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/netns"
)

// CN-05: STATUS is 50 where no ADD could succeed, 51 where the pods that are
// there are cut off too, and names why.
func TestStatus(t *testing.T) {
	onNode := func(fn func() error) func(*lab, *netns.Set) {
		return func(l *lab, node *netns.Set) { l.on(node, fn) }
	}
	flannel := func(up bool) func(*lab, *netns.Set) {
		return onNode(func() error {
			if err := bridgeLink("flannel.1"); err != nil || up {
				return err
			}
			return onLink("flannel.1", netlink.LinkSetDown)()
		})
	}
	for _, tc := range []struct {
		name string
		// pods is whether the node has one.
		pods  bool
		spoil func(*lab, *netns.Set)
		code  uint
		says  string
	}{
		{name: "a node without pods"},
		{name: "a node with a pod", pods: true},
		{name: "the overlay's device is up", pods: true, spoil: flannel(true)},
		{name: "no subnet file", pods: true, spoil: func(l *lab, _ *netns.Set) { l.conf.SubnetFile = "/run/none/subnet.env" },
			code: 50, says: "/run/none/subnet.env"},
		{name: "a configuration that is refused", spoil: func(l *lab, _ *netns.Set) { l.conf.Delegate["vlan"] = 7 },
			code: 50, says: "vlan is not supported"},
		{name: "the overlay's device is down", spoil: flannel(false), code: 51, says: "flannel.1 is down"},
		{name: "the bridge is gone", pods: true, spoil: onNode(func() error { return delLink("cni0") }),
			code: 51, says: "cni0 is missing, and 1 addresses are in use"},
		{name: "the bridge is down", pods: true, spoil: onNode(onLink("cni0", netlink.LinkSetDown)), code: 51, says: "cni0 is down"},
		{name: "the node's subnet has changed", pods: true, spoil: func(l *lab, _ *netns.Set) {
			l.conf.SubnetFile = write(l, "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.9.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n")
		}, code: 51, says: "lacks the address 10.244.9.1/24 of the node's subnet (it has [10.244.1.1/24])"},
		{name: "another link has the bridge's name", spoil: onNode(func() error {
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}, PeerName: "cni1"})
		}), code: 51, says: "cni0 is no bridge but of type veth"},
		{name: "forwarding is off", pods: true, spoil: onNode(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("0"), 0)
		}), code: 51, says: "sysctl net.ipv4.ip_forward=1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLab(t, nil)
			if tc.pods {
				_, r := l.newPod("pod-1", "")
				l.mustAdd(r)
			}
			if tc.spoil != nil {
				tc.spoil(l, l.node)
			}
			err := l.node.Do(func() error { return Status(l.conf) })
			if tc.code == 0 && err == nil {
				return
			}
			l.wantError(err, tc.code, tc.says)
		})
	}
}
