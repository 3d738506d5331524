package agent_test

import (
	"fmt"
	"testing"

	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

const udpConf = `{"Network":"10.244.0.0/16","Backend":{"Type":"udp"}}`

// TestUDP: three agents ping each other through their forwarders, and leases
// are as flannel's.
//
//	.1   .2   .3       172.16.1, eth0
//	 +----+----+ br0   172.16.0.0/16
func TestUDP(t *testing.T) {
	tuntest.Require(t)
	c := newCluster(t, udpConf)
	nodes := []*node{c.node(1).start(), c.node(2).start(), c.node(3).start()}
	for _, n := range nodes {
		n.waitReady()
		value, _ := c.get(n.key())
		if want := fmt.Sprintf(`{"PublicIP":"%s","PublicIPv6":null}`, n.ip); value != want {
			t.Errorf("the lease is %s, not %s", value, want)
		}
	}
	for _, n := range nodes {
		for _, peer := range nodes {
			if peer != n {
				n.sh(fmt.Sprintf("ping -c1 -W5 %s", peer.subnet().Addr()))
			}
		}
	}
}
