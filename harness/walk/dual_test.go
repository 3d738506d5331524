package walk_test

import (
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// TestWalk6: over IPv6 the way is the predicted one too, through the VTEP of
// IPv6.
//
//	master-pod-1 fd00:10:244::2   node-1-pod-1 fd00:10:244:1::2
//	cni0, flannel-v6.1            cni0, flannel-v6.1
//	ens3 fd00:172:16:1::8         ens3 fd00:172:16:1::9
//	  +-----------------------------+
func TestWalk6(t *testing.T) {
	const vxlan = "master-pod-1:eth0 master:veth00000000 master:cni0 master:flannel-v6.1 master:ens3 underlay:master underlay:node-1 " +
		"node-1:ens3 node-1:flannel-v6.1 node-1:cni0 node-1:veth00000100 node-1-pod-1:eth0"
	vx := topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}
	for _, test := range []struct {
		name, from, to string
		backend        topology.Backend
		options        walk.Options
		way            string
	}{
		{"pods", "master-pod-1", "node-1-pod-1", vx, walk.Options{IPv6: true}, vxlan},
		{"an address", "master-pod-1", "fd00:10:244:1::2", vx, walk.Options{Size: 1400, DF: true}, vxlan},
		{"a SYN", "master-pod-1", "node-1-pod-1", vx, walk.Options{IPv6: true, Protocol: "tcp", Port: 9}, vxlan},
		{"a datagram", "master-pod-1", "node-1-pod-1", vx, walk.Options{IPv6: true, Protocol: "udp", Port: 9}, vxlan},
		{"from a node", "master", "node-1-pod-1", vx, walk.Options{IPv6: true}, vxlan[strings.Index(vxlan, "master:flannel"):]},
		{"node to node", "master", "node-1", vx, walk.Options{IPv6: true}, "master:ens3 underlay:master underlay:node-1 node-1:ens3"},
		{"host-gw", "master-pod-1", "node-1-pod-1", topology.Backend{Type: "host-gw"}, walk.Options{IPv6: true},
			strings.NewReplacer("master:flannel-v6.1 ", "", "node-1:flannel-v6.1 ", "").Replace(vxlan)},
		{"IPv4 beside it", "master-pod-1", "node-1-pod-1", vx, walk.Options{}, strings.ReplaceAll(vxlan, "flannel-v6.1", "flannel.1")},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := labtest.DualPlan(2, 1, 1500)
			plan.Network.Backend = test.backend
			r := run(t, labtest.Up(t, plan), test.from, test.to, test.options)
			if r.Verdict != walk.Arrived || len(r.Doubts)+len(r.Notes) > 0 {
				t.Errorf("%s: %+v, %s, %q, %q", r.Verdict, r.Divergence, r.Answer, r.Doubts, r.Notes)
			}
			if got := way(&r.Request); got != test.way {
				t.Errorf("way\n%s, not\n%s", got, test.way)
			}
			if r.Reply == nil || len(r.Reply.Steps) != len(r.Request.Steps) {
				t.Errorf("the way back is not as long: %+v", r.Reply)
			}
		})
	}
	t.Run("a pod's own hop limit", func(t *testing.T) {
		lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
		lab.Exec(t, "master-pod-1", "sysctl", "-qw", "net.ipv6.conf.eth0.hop_limit=32")
		r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{IPv6: true})
		if r.Verdict != walk.Arrived || r.Packet.TTL != 32 {
			t.Errorf("%s with a TTL of %d: %+v", r.Verdict, r.Packet.TTL, r.Divergence)
		}
	})
	t.Run("no IPv6", func(t *testing.T) {
		_, err := walk.Run(t.Context(), labtest.Up(t, labtest.Plan(2, 1, 1500)), "master-pod-1", "node-1-pod-1", walk.Options{IPv6: true})
		if err == nil || !strings.Contains(err.Error(), "has no IPv6") {
			t.Error(err)
		}
	})
}

// TestFaults6: what is wrong with IPv6 alone is named, and mended by what is
// said.
func TestFaults6(t *testing.T) {
	for _, test := range []struct {
		name, on, spoil, where, cause string
		options                       walk.Options
		advice                        bool
	}{
		{"no FDB entry", "master", "bridge fdb show dev flannel-v6.1 | grep 'dst fd00:172:16:1::9' | while read mac rest; do bridge fdb del $mac dev flannel-v6.1; done",
			"master:flannel-v6.1", "master has no FDB entry for", walk.Options{}, false},
		{"no neighbour", "master", "ip -6 neigh flush dev flannel-v6.1 nud permanent",
			"master:flannel-v6.1", "NDP has no way through the tunnel", walk.Options{}, false},
		{"no forwarding", "node-1", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
			"node-1:flannel-v6.1", "node-1 does not forward: net/ipv6/conf/all/forwarding is 0", walk.Options{}, false},
		{"too large for the way", "master", "ip link set flannel-v6.1 mtu 1300",
			"master:flannel-v6.1", "it answers with ICMPv6 packet too big", walk.Options{Size: 1400, DF: true}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
			lab.Exec(t, test.on, "sh", "-ec", test.spoil)
			test.options.IPv6 = true
			r := run(t, lab, "master-pod-1", "node-1-pod-1", test.options)
			d := r.Divergence
			if d == nil {
				t.Fatalf("%s, %s: %s", r.Verdict, r.Answer, way(&r.Request))
			}
			t.Logf("%s at %s: %s\n%s\n%v\nmend on %s: %s", d.Leg, d.Where, d.What, d.Cause, d.Dropped, d.On, d.Mend)
			if d.Leg != "request" || d.Where != test.where || !strings.Contains(d.Cause, test.cause) {
				t.Errorf("on the %s at %s: %s", d.Leg, d.Where, d.Cause)
			}
			if test.advice {
				return
			}
			lab.Exec(t, d.On, "sh", "-c", d.Mend)
			if r = run(t, lab, "master-pod-1", "node-1-pod-1", test.options); r.Verdict != walk.Arrived {
				t.Errorf("after the mend: %+v", r.Divergence)
			}
		})
	}
}
