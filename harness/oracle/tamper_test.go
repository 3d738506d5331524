package oracle_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/topology"
)

// The lab of these tests, three nodes of one pod, programmed without an agent:
//
//	master-pod-1 .0.2   node-1-pod-1 .1.2   node-2-pod-1 .2.2
//	   cni0 .0.1           cni0 .1.1           cni0 .2.1
//	 flannel.1 .0.0      flannel.1 .1.0      flannel.1 .2.0
//	   ens3 .8             ens3 .9             ens3 .10
//	     +------------------ lan ----------------+        172.16.1.0/24

// sessions keeps the probe sessions of a lab.
type sessions struct {
	tb  testing.TB
	lab topology.Lab

	mu   sync.Mutex
	open map[string]*probe.Session
}

func (s *sessions) Session(ctx context.Context, name string) (*probe.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have := s.open[name]; have != nil {
		return have, nil
	}
	ns, err := s.lab.Namespace(name)
	if err != nil {
		return nil, err
	}
	session, err := probe.Open(ctx, ns)
	if err != nil {
		return nil, err
	}
	s.tb.Cleanup(func() { _ = session.Close() })
	s.open[name] = session
	return session, nil
}

// start builds a lab and returns what tells how it differs.
func start(t *testing.T, change ...func(*topology.Plan)) (*labtest.Lab, func() *oracle.Diff) {
	t.Helper()
	for _, tool := range []string{"ip", "bridge", "iptables-save", "nft"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED, NOT TESTED: this machine has no %s", tool)
		}
	}
	plan := labtest.Plan(3, 1, 1500)
	for i := range plan.Nodes {
		plan.Nodes[i].Agent.ByHand = true
	}
	for _, c := range change {
		c(plan)
	}
	l := labtest.Up(t, plan)
	if err := l.StartStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	open := &sessions{tb: t, lab: l, open: map[string]*probe.Session{}}
	return l, func() *oracle.Diff {
		t.Helper()
		d, err := oracle.Differ(t.Context(), l, open)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Unread) > 0 {
			t.Fatalf("not compared: %q", d.Unread)
		}
		return d
	}
}

func texts(d *oracle.Diff) []string {
	var out []string
	for _, e := range d.Entries {
		out = append(out, e.Space()+" "+e.String())
	}
	return out
}

var (
	vtep0 = topology.DeriveMAC("master", "vtep").String()
	vtep1 = topology.DeriveMAC("node-1", "vtep").String()
	vtep2 = topology.DeriveMAC("node-2", "vtep").String()
	nic2  = topology.DeriveMAC("node-2", "ens3").String()
	cni1  = topology.DeriveMAC("node-1", "cni0").String()
)

// Every tampering is reported as what it is and as nothing else, and the
// command that the entry names mends it.
func TestTampering(t *testing.T) {
	l, differ := start(t)
	if d := differ(); !d.Same() {
		t.Fatalf("before anything is altered:\n%s", strings.Join(texts(d), "\n"))
	}
	const port = "veth00000100" // of node-1-pod-1
	const wrong = "02:00:00:00:00:99"
	for _, c := range []struct {
		name string
		// do are commands, as "NAMESPACE: COMMAND"; mend are those that put
		// back what no single command does.
		do, mend, want []string
	}{
		{name: "route missing", do: []string{"node-1: ip route del 10.244.2.0/24"},
			want: []string{"node-1 - ip route: 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"}},
		{name: "route to another gateway", do: []string{"node-1: ip route replace 10.244.2.0/24 via 172.16.1.8 dev ens3"},
			want: []string{"node-1 ~ ip route: 10.244.2.0/24 via 172.16.1.8 dev ens3; via is 172.16.1.8, and ought to be 10.244.2.0; dev is ens3, and ought to be flannel.1; onlink is not there, and ought to be onlink"}},
		{name: "route of another MTU", do: []string{"node-1: ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink mtu 600"},
			want: []string{"node-1 ~ ip route: 10.244.2.0/24 via 10.244.2.0 dev flannel.1 mtu 600 onlink; mtu is 600, and ought not to be there"}},
		{name: "blackhole", do: []string{"node-1: ip route add blackhole 10.244.2.2/32"},
			want: []string{"node-1 + ip route: blackhole 10.244.2.2/32"}},
		{name: "stale peer", do: []string{
			"node-1: ip neigh add 10.244.9.0 lladdr " + wrong + " dev flannel.1 nud permanent",
			"node-1: bridge fdb add " + wrong + " dev flannel.1 dst 172.16.1.19 self permanent",
			"node-1: ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
		}, want: []string{
			"node-1 + ip neigh: 10.244.9.0 dev flannel.1 lladdr " + wrong + " PERMANENT",
			"node-1 + bridge fdb: " + wrong + " dev flannel.1 dst 172.16.1.19 self permanent",
			"node-1 + ip route: 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink",
		}},
		{name: "neighbour missing", do: []string{"node-1: ip neigh del 10.244.2.0 dev flannel.1"},
			want: []string{"node-1 - ip neigh: 10.244.2.0 dev flannel.1 lladdr " + vtep2 + " PERMANENT"}},
		{name: "neighbour of another MAC", do: []string{"node-1: ip neigh replace 10.244.2.0 lladdr " + wrong + " dev flannel.1 nud permanent"},
			want: []string{"node-1 ~ ip neigh: 10.244.2.0 dev flannel.1 lladdr " + wrong + " PERMANENT; lladdr is " + wrong + ", and ought to be " + vtep2}},
		{name: "neighbour not permanent", do: []string{"node-1: ip neigh replace 10.244.2.0 lladdr " + vtep2 + " dev flannel.1 nud stale"},
			want: []string{"node-1 ~ ip neigh: 10.244.2.0 dev flannel.1 lladdr " + vtep2 + " STALE; nud is STALE, and ought to be PERMANENT"}},
		{name: "underlay neighbour of another MAC", do: []string{"node-1: ip neigh replace 172.16.1.10 lladdr " + wrong + " dev ens3 nud permanent"},
			want: []string{"node-1 ~ ip neigh: 172.16.1.10 dev ens3 lladdr " + wrong + "; lladdr is " + wrong + ", and ought to be " + nic2}},
		{name: "FDB entry missing", do: []string{"node-1: bridge fdb del " + vtep2 + " dev flannel.1 dst 172.16.1.10 self"},
			want: []string{"node-1 - bridge fdb: " + vtep2 + " dev flannel.1 dst 172.16.1.10 self permanent"}},
		{name: "FDB entry to another node", do: []string{"node-1: bridge fdb replace " + vtep2 + " dev flannel.1 dst 172.16.1.8 self permanent"},
			want: []string{"node-1 ~ bridge fdb: " + vtep2 + " dev flannel.1 dst 172.16.1.8 self permanent; dst is 172.16.1.8, and ought to be 172.16.1.10"}},
		{name: "FDB entry of another MAC", do: []string{
			"node-1: bridge fdb del " + vtep2 + " dev flannel.1 dst 172.16.1.10 self",
			"node-1: bridge fdb add " + wrong + " dev flannel.1 dst 172.16.1.10 self permanent",
		}, want: []string{"node-1 ~ bridge fdb: " + wrong + " dev flannel.1 dst 172.16.1.10 self permanent; mac is " + wrong + ", and ought to be " + vtep2}},
		{name: "old FDB entry left", do: []string{"node-1: bridge fdb add " + wrong + " dev flannel.1 dst 172.16.1.10 self permanent"},
			want: []string{"node-1 + bridge fdb: " + wrong + " dev flannel.1 dst 172.16.1.10 self permanent"}},
		{name: "flooding entry", do: []string{"node-1: bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 172.16.1.10 self permanent"},
			want: []string{"node-1 + bridge fdb: 00:00:00:00:00:00 dev flannel.1 dst 172.16.1.10 self permanent"}},
		{name: "entry on a bridge port", do: []string{"node-1: bridge fdb add " + wrong + " dev " + port + " master static"},
			want: []string{"node-1 + bridge fdb: " + wrong + " dev " + port + " master static"}},
		{name: "VTEP's MTU", do: []string{"node-1: ip link set flannel.1 mtu 1400"},
			want: []string{"node-1 ~ ip link: flannel.1 up mtu 1400 address " + vtep1 + " type vxlan id 1 local 172.16.1.9 dev ens3 dstport 8472 nolearning; mtu is 1400, and ought to be 1450"}},
		{name: "VTEP's MAC", do: []string{"node-1: ip link set flannel.1 address " + wrong},
			want: []string{"node-1 ~ ip link: flannel.1 up mtu 1450 address " + wrong + " type vxlan id 1 local 172.16.1.9 dev ens3 dstport 8472 nolearning; address is " + wrong + ", and ought to be " + vtep1,
				// The kernel drops a link's neighbours with its MAC.
				"node-1 - ip neigh: 10.244.0.0 dev flannel.1 lladdr " + vtep0 + " PERMANENT",
				"node-1 - ip neigh: 10.244.2.0 dev flannel.1 lladdr " + vtep2 + " PERMANENT"}},
		{name: "VTEP's address", do: []string{"node-1: ip addr add 10.244.7.0/32 dev flannel.1", "node-1: ip addr del 10.244.1.0/32 dev flannel.1"},
			want: []string{"node-1 ~ ip addr: 10.244.7.0/32 dev flannel.1; address is 10.244.7.0/32, and ought to be 10.244.1.0/32"}},
		{name: "a second VTEP", do: []string{"node-1: ip link add flannel.9 address " + wrong + " type vxlan id 9 dstport 8472 nolearning"},
			want: []string{"node-1 + ip link: flannel.9 down no-carrier mtu 1500 address " + wrong + " type vxlan id 9 dstport 8472 nolearning"}},
		{name: "port in no bridge", do: []string{"node-1: ip link set " + port + " nomaster"},
			want: []string{
				"node-1 ~ ip link: cni0 up no-carrier mtu 1500 address " + cni1 + " type bridge; carrier is no-carrier, and ought to be lower_up; mtu is 1500, and ought to be 1450",
				"node-1 ~ ip link: " + port + " up lower_up mtu 1450 peer node-1-pod-1:eth0 type veth; master is not there, and ought to be cni0",
			}},
		{name: "port down", do: []string{"node-1: ip link set " + port + " down"},
			want: []string{
				"node-1 ~ ip link: cni0 up no-carrier mtu 1450 address " + cni1 + " type bridge; carrier is no-carrier, and ought to be lower_up",
				"node-1 ~ ip link: " + port + " down no-carrier mtu 1450 master cni0 peer node-1-pod-1:eth0 type veth; state is down, and ought to be up; carrier is no-carrier, and ought to be lower_up",
				"node-1-pod-1 ~ ip link: eth0 up no-carrier mtu 1450 address " + topology.DeriveMAC("node-1-pod-1", "eth0").String() + " peer node-1:" + port + " type veth; carrier is no-carrier, and ought to be lower_up",
			}},
		{name: "pod's route", do: []string{"node-1-pod-1: ip route del default"},
			want: []string{"node-1-pod-1 - ip route: default via 10.244.1.1 dev eth0"}},
		{name: "pod's second address", do: []string{"node-1-pod-1: ip addr add 10.244.1.77/32 dev eth0"},
			want: []string{"node-1-pod-1 + ip addr: 10.244.1.77/32 dev eth0"}},
		{name: "forwarding", do: []string{"node-1: sysctl -qw net.ipv4.ip_forward=0"},
			want: []string{"node-1 ~ sysctl: net.ipv4.ip_forward = 0; value is 0, and ought to be 1"}},
		{name: "routing policy", do: []string{"node-1: ip rule add to 10.244.2.0/24 blackhole priority 99"},
			want: []string{"node-1 + ip rule: from all to 10.244.2.0/24 discard priority 99"}},
		{name: "iptables rule", do: []string{"node-1: iptables -I INPUT -p udp --dport 8472 -j DROP"},
			want: []string{"node-1 + iptables-save: -t filter -A INPUT -p udp -m udp --dport 8472 -j DROP"}},
		{name: "iptables policy", do: []string{"node-1: iptables -P FORWARD DROP"},
			want: []string{"node-1 + iptables-save: -t filter -P FORWARD DROP"}},
		{name: "nftables rule", do: []string{"node-1: nft add table inet t", "node-1: nft 'add chain inet t c { type filter hook input priority 0; }'", "node-1: nft add rule inet t c udp dport 8472 counter drop"},
			mend: []string{"node-1: nft delete table inet t"},
			want: []string{"node-1 + nft list ruleset: inet t c udp dport 8472 drop"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			shell(t, l, c.do...)
			d := reported(differ, c.want)
			if got := texts(d); !slices.Equal(got, c.want) {
				t.Errorf("it is reported as\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			for _, e := range d.Entries {
				if e.Mend != "" {
					shell(t, l, e.Space()+": "+e.Mend)
				}
			}
			shell(t, l, c.mend...)
			if d := reported(differ, nil); !d.Same() {
				t.Fatalf("not mended:\n%s", strings.Join(texts(d), "\n"))
			}
		})
	}
}

// reported polls until the lab differs as it is said to, since links tell of
// their carrier later, and returns the last difference.
func reported(differ func() *oracle.Diff, want []string) *oracle.Diff {
	d := differ()
	for deadline := time.Now().Add(5 * time.Second); !slices.Equal(texts(d), want) && time.Now().Before(deadline); {
		d = differ()
	}
	return d
}

// shell runs commands, as "NAMESPACE: COMMAND".
func shell(t *testing.T, l *labtest.Lab, commands ...string) {
	t.Helper()
	for _, c := range commands {
		name, command, _ := strings.Cut(c, ": ")
		ns, err := l.Namespace(name)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code, err := ns.Run(t.Context(), topology.Process{Argv: []string{"sh", "-c", command}, Stdout: &out, Stderr: &out})
		if err != nil || code != 0 {
			t.Fatalf("%s: %v: exit %d\n%s", c, err, code, out.String())
		}
	}
}

// A lease that says what the plan does not is reported, and so is what is no
// lease; the nodes are judged by the plan all the same.
func TestLeases(t *testing.T) {
	l, differ := start(t)
	wrong := topology.MAC{2, 0, 0, 0, 0, 0x99}
	ctx := t.Context()
	for _, c := range []struct {
		name     string
		do, undo func() error
		want     []string
	}{
		{
			"another MAC",
			func() error { return l.PutLease(ctx, "node-2", wrong) },
			func() error { return l.PutLease(ctx, "node-2", topology.DeriveMAC("node-2", "vtep")) },
			[]string{"node-2 ~ etcdctl get: 10.244.2.0/24 PublicIP 172.16.1.10 BackendType vxlan VNI 1 VtepMAC " + wrong.String() + "; VtepMAC is " + wrong.String() + ", and ought to be " + vtep2},
		},
		{
			"another address",
			func() error { return putLease(ctx, l, "10.244.2.0-24", "10.0.2.15") },
			func() error { return l.PutLease(ctx, "node-2", topology.DeriveMAC("node-2", "vtep")) },
			[]string{"node-2 ~ etcdctl get: 10.244.2.0/24 PublicIP 10.0.2.15 BackendType vxlan VNI 1 VtepMAC " + vtep2 + "; PublicIP is 10.0.2.15, and ought to be 172.16.1.10"},
		},
		{
			"none",
			func() error { return l.DeleteLease(ctx, "node-2") },
			func() error { return l.PutLease(ctx, "node-2", topology.DeriveMAC("node-2", "vtep")) },
			[]string{"node-2 - etcdctl get: 10.244.2.0/24 PublicIP 172.16.1.10 BackendType vxlan VNI 1 VtepMAC " + vtep2},
		},
		{
			"one of nobody, and one that is none",
			func() error {
				return errors.Join(putLease(ctx, l, "10.244.9.0-24", "172.16.1.19"), putLease(ctx, l, "hello", "172.16.1.19"))
			},
			func() error {
				return errors.Join(lease.Delete(ctx, l, "10.244.9.0-24"), lease.Delete(ctx, l, "hello"))
			},
			[]string{
				"master + etcdctl get: 10.244.9.0/24 PublicIP 172.16.1.19 BackendType vxlan VNI 1 VtepMAC " + vtep2,
				`master + etcdctl get: /coreos.com/network/subnets/hello: no subnet: netip.ParsePrefix("hello"): no '/'`,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			if got := texts(differ()); !slices.Equal(got, c.want) {
				t.Errorf("it is reported as\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
			if err := c.undo(); err != nil {
				t.Fatal(err)
			}
			if d := differ(); !d.Same() {
				t.Fatalf("not as before:\n%s", strings.Join(texts(d), "\n"))
			}
		})
	}
}

func putLease(ctx context.Context, l *labtest.Lab, key, ip string) error {
	return lease.Put(ctx, l, lease.Lease{
		Key: key, PublicIP: netip.MustParseAddr(ip), BackendType: "vxlan", VNI: 1, VtepMAC: topology.DeriveMAC("node-2", "vtep"),
	})
}

// Without a store, a VTEP's MAC is that of the device, so that its peers are
// judged by what it has; that the leases were not compared is said.
func TestUnreadLeases(t *testing.T) {
	nstest.Require(t)
	plan := labtest.Plan(2, 0, 1500)
	for i := range plan.Nodes {
		plan.Nodes[i].Agent.ByHand = true
	}
	plan.Store.Type = "kubernetes"
	l := labtest.Up(t, plan)
	for i := range plan.Nodes { // which are not to be judged by
		plan.Nodes[i].VtepMAC = topology.MAC{}
	}
	open := &sessions{tb: t, lab: l, open: map[string]*probe.Session{}}
	shell(t, l, "node-1: ip neigh flush dev flannel.1 nud permanent")
	d, err := oracle.Differ(t.Context(), l, open, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Unread) != 1 || !strings.HasPrefix(d.Unread[0], "leases: ") {
		t.Errorf("not compared are %q, want the leases", d.Unread)
	}
	if !slices.Equal(d.Compared, []string{"node-1"}) {
		t.Errorf("compared are %q, want node-1 alone", d.Compared)
	}
	want := []string{"node-1 - ip neigh: 10.244.0.0 dev flannel.1 lladdr " + vtep0 + " PERMANENT"}
	if got := texts(d); !slices.Equal(got, want) {
		t.Errorf("it differs in %q, want %q", got, want)
	}
}
