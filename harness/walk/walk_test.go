package walk_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

func run(t testing.TB, lab topology.Lab, from, to string, o walk.Options) *walk.Report {
	t.Helper()
	r, err := walk.Run(t.Context(), lab, from, to, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.Verdict == walk.Inconclusive {
		t.Fatalf("the capture lacks frames: %v", r.Doubts)
	}
	return r
}

// way is the names of the taps of a leg.
func way(l *walk.Leg) string {
	var taps []string
	for _, s := range l.Steps {
		tap := s.Tap()
		if s.Seen == nil {
			tap += " (not seen)"
		}
		taps = append(taps, tap)
	}
	return strings.Join(taps, " ")
}

// TestWalk: on each backend the way is the predicted one, from pod to pod and
// from and to nodes.
//
//	master-pod-1       node-1-pod-1 -2      node-2-pod-1
//	cni0 10.244.0.1    cni0 10.244.1.1      cni0 10.244.2.1
//	ens3 172.16.1.8    ens3 172.16.1.9      ens3 172.16.1.10
//	  +------------------+--------------------+
func TestWalk(t *testing.T) {
	const (
		vxlan = "master-pod-1:eth0 master:veth00000000 master:cni0 master:flannel.1 master:ens3 underlay:master underlay:node-1 " +
			"node-1:ens3 node-1:flannel.1 node-1:cni0 node-1:veth00000100 node-1-pod-1:eth0"
		bare = "master-pod-1:eth0 master:veth00000000 master:cni0 master:ens3 underlay:master underlay:node-1 " +
			"node-1:ens3 node-1:cni0 node-1:veth00000100 node-1-pod-1:eth0"
	)
	for _, test := range []struct {
		name, from, to string
		backend        topology.Backend
		way            string
		ttl            int
	}{
		{"vxlan", "master-pod-1", "node-1-pod-1", topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}, vxlan, 62},
		{"another VNI and port", "master-pod-1", "node-1-pod-1", topology.Backend{Type: "vxlan", VNI: 77, Port: 4789}, strings.ReplaceAll(vxlan, "flannel.1", "flannel.77"), 62},
		{"host-gw", "master-pod-1", "node-1-pod-1", topology.Backend{Type: "host-gw"}, bare, 62},
		{"direct routing", "master-pod-1", "node-1-pod-1", topology.Backend{Type: "vxlan", VNI: 1, Port: 8472, DirectRouting: true}, bare, 62},
		{"one node", "node-1-pod-1", "node-1-pod-2", topology.Backend{Type: "vxlan", VNI: 1, Port: 8472},
			"node-1-pod-1:eth0 node-1:veth00000100 node-1:veth00000101 node-1-pod-2:eth0", 64},
		{"from a node", "master", "node-1-pod-1", topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}, vxlan[strings.Index(vxlan, "master:flannel.1"):], 63},
		{"to its node", "master-pod-1", "master", topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}, "master-pod-1:eth0 master:veth00000000 master:cni0", 64},
		{"to itself", "master-pod-1", "master-pod-1", topology.Backend{Type: "vxlan", VNI: 1, Port: 8472}, "master-pod-1:lo master-pod-1:lo", 64},
	} {
		t.Run(test.name, func(t *testing.T) {
			plan := labtest.Plan(3, 2, 1500)
			plan.Network.Backend = test.backend
			lab := labtest.Up(t, plan)
			r := run(t, lab, test.from, test.to, walk.Options{})
			if r.Verdict != walk.Arrived {
				t.Errorf("%s: %+v", r.Verdict, r.Divergence)
			}
			if got := way(&r.Request); got != test.way {
				t.Errorf("way\n%s, not\n%s", got, test.way)
			}
			if r.Reply == nil || len(r.Reply.Steps) != len(r.Request.Steps) {
				t.Fatalf("the way back is not as long: %+v", r.Reply)
			}
			if got := r.Pong.Replies[0].TTL; got != test.ttl {
				t.Errorf("ttl %d, not %d", got, test.ttl)
			}
			if len(r.Doubts) > 0 {
				t.Error(r.Doubts)
			}
		})
	}
}

// TestFaults: with each fault the first divergence is where it takes effect,
// and its cause is named; and what is said to mend it does.
func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *labtest.Lab)
		leg   string
		where string
		// cause and mend are parts of what is said.
		cause, mend string
		options     walk.Options
		// advice says that the mend is no command, or not all that it takes.
		advice bool
	}{
		{
			name: "no FDB entry", spoil: change("master", func(p *topology.Plan) probe.Change {
				return probe.Change{Delete: true, FDB: &probe.FDBEntry{MAC: p.Nodes[1].VtepMAC, Dev: "flannel.1", Dst: p.Nodes[1].PublicIP()}}
			}),
			leg: "request", where: "master:flannel.1", cause: "master has no FDB entry for", mend: "dst 172.16.1.9 self permanent",
		},
		{
			name: "an FDB entry to the wrong node", spoil: change("master", func(p *topology.Plan) probe.Change {
				return probe.Change{FDB: &probe.FDBEntry{MAC: p.Nodes[1].VtepMAC, Dev: "flannel.1", Dst: p.Nodes[2].PublicIP()}}
			}),
			leg: "request", where: "node-2:flannel.1", cause: "leads to 172.16.1.10, node-2, and the MAC is that of node-1's flannel.1", mend: "dst 172.16.1.9",
		},
		{
			name: "no FDB entry for the answer", spoil: change("node-1", func(p *topology.Plan) probe.Change {
				return probe.Change{Delete: true, FDB: &probe.FDBEntry{MAC: p.Nodes[0].VtepMAC, Dev: "flannel.1", Dst: p.Nodes[0].PublicIP()}}
			}),
			leg: "reply", where: "node-1:flannel.1", cause: "node-1 has no FDB entry for", mend: "dst 172.16.1.8",
		},
		{
			name: "no neighbour", spoil: change("master", func(p *topology.Plan) probe.Change {
				return probe.Change{Delete: true, Neighbour: &probe.Neighbour{IP: p.Nodes[1].PodCIDR.Addr(), Dev: "flannel.1"}}
			}),
			leg: "request", where: "master:flannel.1", cause: "master has no neighbour entry for 10.244.1.0", mend: "ip neigh replace 10.244.1.0 dev flannel.1 lladdr",
		},
		{
			name: "a neighbour's wrong MAC", spoil: change("master", func(p *topology.Plan) probe.Change {
				return probe.Change{Neighbour: &probe.Neighbour{IP: p.Nodes[1].PodCIDR.Addr(), Dev: "flannel.1", MAC: topology.DeriveMAC("wrong")}}
			}),
			leg: "request", where: "master:flannel.1", cause: "master's neighbour entry for 10.244.1.0 on flannel.1 has", mend: "ip neigh replace 10.244.1.0",
		},
		{
			name: "no route", spoil: change("master", func(p *topology.Plan) probe.Change {
				return probe.Change{Delete: true, Route: &probe.Route{Dst: p.Nodes[1].PodCIDR, Via: p.Nodes[1].PodCIDR.Addr(), Dev: "flannel.1", Onlink: true}}
			}),
			leg: "request", where: "master", cause: "master has no route to 10.244.1.0/24, the pods of node-1", mend: "ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink",
		},
		{
			name: "a device down", spoil: change("node-1", func(*topology.Plan) probe.Change {
				return probe.Change{Link: "flannel.1", Down: true}
			}),
			leg: "request", where: "node-1:flannel.1", cause: "flannel.1 is down on node-1", mend: "ip link set flannel.1 up", advice: true,
		},
		{
			name: "the pod's veth down", spoil: change("node-1", func(*topology.Plan) probe.Change {
				return probe.Change{Link: "veth00000100", Down: true}
			}),
			leg: "request", where: "node-1:cni0", cause: "veth00000100 is down on node-1", mend: "ip link set veth00000100 up",
		},
		{
			name: "another VNI", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1", "ip", "link", "del", "flannel.1")
				l.Exec(t, "node-1", "ip", "link", "add", "flannel.1", "address", l.Plan().Nodes[1].VtepMAC.String(), "type", "vxlan", "id", "2", "dev", "ens3", "local", "172.16.1.9", "dstport", "8472", "nolearning")
				l.Exec(t, "node-1", "ip", "link", "set", "flannel.1", "up")
			},
			leg: "request", where: "node-1:ens3", cause: "the packet has VNI 1 and node-1's flannel.1 has VNI 2", mend: "type vxlan id 1", advice: true,
		},
		{
			name: "another port", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1", "ip", "link", "del", "flannel.1")
				l.Exec(t, "node-1", "ip", "link", "add", "flannel.1", "address", l.Plan().Nodes[1].VtepMAC.String(), "type", "vxlan", "id", "1", "dev", "ens3", "local", "172.16.1.9", "dstport", "4789", "nolearning")
				l.Exec(t, "node-1", "ip", "link", "set", "flannel.1", "up")
			},
			leg: "request", where: "node-1:ens3", cause: "UDP port 8472 and node-1's flannel.1 listens on 4789", mend: "dstport 8472", advice: true,
		},
		{
			name: "no forwarding", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
			},
			leg: "request", where: "node-1:flannel.1", cause: "node-1 does not forward", mend: "sysctl -w net/ipv4/ip_forward=1",
		},
		{
			name: "rp_filter", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; ip route replace 10.244.0.0/24 via 172.16.1.8 dev ens3")
			},
			leg: "request", where: "node-1:flannel.1", cause: "rp_filter=1 on node-1's flannel.1, and the way back to 10.244.0.2 is by ens3", mend: "rp_filter=0",
		},
		{
			name: "a pod's MTU", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1-pod-1", "ip", "link", "set", "eth0", "mtu", "1000")
			},
			options: walk.Options{Size: 1400},
			leg:     "request", where: "node-1-pod-1:eth0", cause: "node-1-pod-1's eth0 has mtu 1000", mend: "ip link set eth0 mtu 1450",
		},
		{
			name: "too large with DF", spoil: func(*testing.T, *labtest.Lab) {}, options: walk.Options{Size: 1451, DF: true},
			leg: "request", where: "master-pod-1:eth0", cause: "eth0 has mtu 1450", mend: "send at most 1450 bytes", advice: true,
		},
		{
			name: "a TTL that is used up", spoil: func(*testing.T, *labtest.Lab) {}, options: walk.Options{TTL: 2},
			leg: "request", where: "node-1:flannel.1", cause: "the TTL is used up on node-1", advice: true,
		},
		{
			name: "policy DROP", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1", "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
			},
			leg: "request", where: "node-1:cni0", cause: "chain ip filter FORWARD has policy drop", mend: "policy accept",
		},
		{
			name: "a rule that drops", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1", "nft", "add table ip filter; add chain ip filter in { type filter hook input priority 0; }; add rule ip filter in udp dport 8472 counter drop")
			},
			leg: "request", where: "node-1:flannel.1", cause: "of chain ip filter in drops, whose counter rises", mend: "nft delete rule ip filter in handle",
		},
		{
			name: "no echo", spoil: func(t *testing.T, l *labtest.Lab) {
				l.Exec(t, "node-1-pod-1", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all")
			},
			leg: "reply", where: "node-1-pod-1", cause: "node-1-pod-1 answers no echo requests", mend: "icmp_echo_ignore_all=0",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab := labtest.Up(t, labtest.Plan(3, 1, 1500))
			test.spoil(t, lab)
			r := run(t, lab, "master-pod-1", "node-1-pod-1", test.options)
			d := r.Divergence
			if d == nil {
				t.Fatalf("%s, %s: %s", r.Verdict, r.Answer, way(&r.Request))
			}
			t.Logf("%s at %s: %s\n%s\nmend on %s: %s", d.Leg, d.Where, d.What, d.Cause, d.On, d.Mend)
			if d.Leg != test.leg || !strings.HasPrefix(d.Where, test.where) {
				t.Errorf("it ends on the %s at %s, not on the %s at %s", d.Leg, d.Where, test.leg, test.where)
			}
			if !strings.Contains(d.Cause, test.cause) {
				t.Errorf("the cause is %q, without %q", d.Cause, test.cause)
			}
			if !strings.Contains(d.Mend, test.mend) {
				t.Errorf("the mend is %q, without %q", d.Mend, test.mend)
			}
			if test.advice {
				return
			}
			lab.Exec(t, d.On, "sh", "-c", d.Mend)
			// The kernel tells a bridge of a port's carrier within a second.
			deadline := time.Now().Add(10 * time.Second)
			for r = nil; r == nil || r.Verdict != walk.Arrived; {
				if r = run(t, lab, "master-pod-1", "node-1-pod-1", test.options); time.Now().After(deadline) {
					t.Fatalf("after the mend: %+v", r.Divergence)
				}
			}
		})
	}
}

// change makes a change on a node.
func change(node string, of func(*topology.Plan) probe.Change) func(*testing.T, *labtest.Lab) {
	return func(t *testing.T, l *labtest.Lab) {
		t.Helper()
		ns, err := l.Namespace(node)
		if err != nil {
			t.Fatal(err)
		}
		s, err := probe.Open(t.Context(), ns)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Change(t.Context(), of(l.Plan())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDetour: a route to the wrong node is told of, also where that node sends
// the packet on.
func TestDetour(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(3, 1, 1500))
	change("master", func(p *topology.Plan) probe.Change {
		return probe.Change{Route: &probe.Route{Dst: p.Nodes[1].PodCIDR, Via: p.Nodes[2].PodCIDR.Addr(), Dev: "flannel.1", Onlink: true}}
	})(t, lab)
	r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{})
	if r.Verdict != walk.Arrived || r.Pong.Replies[0].TTL != 62 {
		t.Errorf("%s: %s, %+v", r.Verdict, r.Answer, r.Divergence)
	}
	if got := way(&r.Request); !strings.Contains(got, "node-2:flannel.1 node-2:flannel.1") {
		t.Errorf("the way is %s", got)
	}
	const note = "it arrives by a detour: master routes 10.244.1.0/24 to node-2, and its pods are on node-1 (on master: ip route replace 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink)"
	if !slices.Contains(r.Notes, note) {
		t.Errorf("the notes are %q", r.Notes)
	}
}

// TestUnknownEnd: a name that the lab has not is refused, with those it has.
func TestUnknownEnd(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	_, err := walk.Run(t.Context(), lab, "master-pod-1", "pod-99", walk.Options{})
	if err == nil || !strings.Contains(err.Error(), `no node or pod "pod-99"`) || !strings.Contains(err.Error(), "node-1-pod-1") {
		t.Error(err)
	}
}

// BenchmarkWalk is one walk through a lab of the default shape.
func BenchmarkWalk(b *testing.B) {
	lab := labtest.Up(b, labtest.Plan(3, 2, 1500))
	b.ResetTimer()
	for range b.N {
		if r := run(b, lab, "master-pod-1", "node-1-pod-1", walk.Options{}); r.Verdict != walk.Arrived {
			b.Fatal(r.Verdict)
		}
	}
}
