package checks_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// machines is a lab whose nodes' machines can be restarted and cordoned, looked
// after by the careless agent.
type machines struct {
	*careless
	plan *topology.Plan
	// restart and cordon are what these do; uncordoned counts.
	restart, cordon func()
	uncordoned      int
}

func (m *machines) Plan() *topology.Plan { return m.plan }

func (m *machines) RestartNode(context.Context, string) error { m.restart(); return nil }

func (m *machines) CordonNode(context.Context, string) (func(context.Context) error, error) {
	m.cordon()
	return func(context.Context) error { m.uncordoned++; return nil }, nil
}

// readdress gives the pod of the last node another address, as the CNI plugin
// does after the machine's restart, and the plan too.
func (m *machines) readdress(t *testing.T) {
	plan := *m.plan
	plan.Pods = slices.Clone(plan.Pods)
	pod := &plan.Pods[len(plan.Pods)-1]
	old := pod.Address
	pod.Address = netip.PrefixFrom(old.Addr().Next(), old.Bits())
	m.Exec(t, pod.Name, "sh", "-c", "ip addr del "+old.String()+" dev eth0; ip addr add "+pod.Address.String()+" dev eth0; ip route replace default via "+plan.Nodes[2].Gateway().Addr().String())
	m.plan = &plan
}

// TestMachines: a node whose machine restarts comes back, perhaps with other
// addresses, and costs the others nothing; a cordoned one has not left. What
// does otherwise is seen.
//
//	master          node-1          node-2
//	master-pod-1    node-1-pod-1    node-2-pod-1
//	  └─ 172.16.1.0/24 ┴───────────────┘
func TestMachines(t *testing.T) {
	o := suite.Options{Timeouts: suite.DefaultTimeouts()}
	o.Timeouts.Converge = time.Second
	lab := labtest.Up(t, labtest.Plan(3, 1, 1500))
	startStore(t, lab)
	agent := &careless{idle: idle{Lab: lab}, t: t, seen: map[netip.Prefix]lease.Lease{}}
	agent.start()
	m := &machines{careless: agent, plan: lab.Plan()}
	const route = " 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink"
	judge := func(id string, v suite.Verdict, want ...string) {
		t.Helper()
		res := run(t, m, o, id).Results[0]
		got := strings.Join(strings.Fields(text(res)), " ")
		for _, w := range want {
			if !strings.Contains(got, w) || res.Verdict != v {
				t.Errorf("%s: want %s, %q:\n%s", id, v, w, text(res))
			}
		}
	}

	m.restart = func() { m.readdress(t) }
	judge("RS-02", suite.Pass, "3 nodes served a new lease of 10.244.255.0/24", "; node-2 restarted, and with its pods back after", ", 0 of", "datagrams lost between the others")
	m.restart = func() {
		m.Exec(t, "master", "sh", "-c", "ip route del"+route+"; sleep 0.1; ip route add"+route)
	}
	judge("RS-02", suite.Fail, "expected no datagram lost")
	m.restart = func() { m.Exec(t, "node-2-pod-1", "ip", "link", "set", "eth0", "down") }
	judge("RS-02", suite.Fail, "expected traffic with master again after its machine's restart, seen no answer", "expected traffic with node-1 again")
	m.Exec(t, "node-2-pod-1", "sh", "-c", "ip link set eth0 up; ip route replace default via "+m.plan.Nodes[2].Gateway().Addr().String())

	m.cordon = func() {}
	judge("RS-03", suite.Pass, "; node-2 cordoned and uncordoned, 0 of")
	m.cordon = func() { m.Exec(t, "master", "ip", "route", "del", "10.244.2.0/24") }
	judge("RS-03", suite.Fail, "expected the entries of before node-2 was cordoned, seen after 1s: lacks route 10.244.2.0/24")
	if m.uncordoned != 2 {
		t.Errorf("uncordoned %d times, want 2", m.uncordoned)
	}
}
