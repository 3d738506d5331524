package agent_test

import (
	"errors"
	"strings"
	"testing"
)

// TestDirectRouting: a peer of the segment has a plain route and nothing in
// the tunnel; when it comes to the segment or leaves it, the kernel follows.
//
//	.1 (agent)   .2 (lease only)      172.17.1.3 (lease only)
//	  +------------+ br0 172.16.0.0/16 ......... elsewhere
func TestDirectRouting(t *testing.T) {
	c := newCluster(t, `{"Network":"10.244.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}`)
	n := c.node(1).start()
	n.sh("ip route add default via 172.16.0.254")
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.17.1.3", "02:00:00:00:00:03")
	const (
		bare2, bare3     = "10.244.2.0/24 via 172.16.1.2 dev eth0", "10.244.3.0/24 via 172.17.1.3 dev eth0"
		tunnel2, tunnel3 = "10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink", "10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink"
	)
	// expect also counts the tunnel's entries: two for each route through it.
	expect := func(what string, routes ...string) {
		t.Helper()
		n.expectRoutes(what, routes...)
		tunnels := countLines(strings.Join(routes, "\n"), "onlink")
		n.eventually(what, func() error {
			if mesh := n.mesh(); countLines(mesh, "self permanent") != tunnels || countLines(mesh, "PERMANENT") != tunnels {
				return errors.New(mesh)
			}
			return nil
		})
		n.waitReady()
	}
	expect("one peer on the segment", bare2, tunnel3)
	n.sh("ip addr add 172.17.1.1/16 dev eth0")
	expect("the other one comes", bare2, bare3)
	n.sh("ip addr del 172.17.1.1/16 dev eth0")
	expect("and goes", bare2, tunnel3)
	n.sh("ip route add 172.16.1.2 via 172.16.0.254")
	expect("a host route puts a gateway between", tunnel2, tunnel3)
	n.sh("ip route del 172.16.1.2")
	expect("and is removed", bare2, tunnel3)
	for _, tamper := range []string{
		"ip route del 10.244.2.0/24", "ip route replace 10.244.2.0/24 via 172.16.1.9",
		"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
		"ip route add 10.244.50.0/24 via 172.16.1.50", "ip link del flannel.1", "ip link set eth0 down; ip link set eth0 up; ip route add default via 172.16.0.254",
	} {
		n.sh(tamper)
		expect("repair of: "+tamper, bare2, tunnel3)
	}
	// Without DirectRouting again, nothing bare is left.
	n.stop()
	n.sh("ip route add 10.244.50.0/24 via 172.16.1.50") // as of a peer that left meanwhile
	c.put("/coreos.com/network/config", netConf)
	n.start()
	expect("after the configuration has changed", tunnel2, tunnel3)
}
