package checks_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// TestVtepMACOverIPv6: the MAC of flannel-v6.1 is that of the lease's IPv6 part,
// whatever flannel.1's is.
func TestVtepMACOverIPv6(t *testing.T) {
	lab := labtest.Up(t, labtest.DualPlan(2, 1, 1500))
	startStore(t, lab)
	expect := func(v suite.Verdict, want string) {
		t.Helper()
		res := run(t, lab, suite.Options{}, "DS-01/DP-05").Results[0]
		if got := text(res); res.Verdict != v || !strings.Contains(got, want) {
			t.Errorf("want %s, %q:\n%s", v, want, got)
		}
	}
	expect(suite.Pass, "on master: "+topology.DeriveMAC("master", "vtep6").String())
	lab.Exec(t, "node-1", "ip", "link", "set", "flannel.1", "address", "02:00:00:00:00:99")
	expect(suite.Pass, "")
	lab.Exec(t, "node-1", "ip", "link", "set", "flannel-v6.1", "address", "02:00:00:00:00:99")
	expect(suite.Fail, "node-1 flannel-v6.1: expected the lease's MAC "+vtep61+", seen MAC 02:00:00:00:00:99")
}

// released is a lab whose agents can be kept ended, which changes nothing.
type released struct{ *careless }

// TestResilienceOverIPv6IsJudged: an overlay whose IPv6 loses packets, and one
// whose IPv6 nobody looks after, fail the checks of that, and are left whole.
//
//	master --- node-1 --- node-2     fd00:172:16:1::/64 and 172.16.1.0/24
func TestResilienceOverIPv6IsJudged(t *testing.T) {
	impatient := suite.Options{Timeouts: suite.DefaultTimeouts()}
	impatient.Timeouts.Converge = 200 * time.Millisecond
	impatient.Timeouts.Outage = 100 * time.Millisecond
	impatient.Timeouts.Store = 30 * time.Second // it is not on trial
	lab := labtest.Up(t, labtest.DualPlan(3, 2, 1500))
	startStore(t, lab)
	expect := func(l topology.Lab, o suite.Options, id string, v suite.Verdict, want ...string) {
		t.Helper()
		res := run(t, l, o, id).Results[0]
		got := strings.Join(strings.Fields(text(res)), " ")
		for _, w := range want {
			if !strings.Contains(got, w) {
				v = "something that says " + suite.Verdict(w)
			}
		}
		if res.Verdict != v {
			t.Errorf("%s: want %s:\n%s", id, v, text(res))
		}
	}
	const gone = "ip -6 route del fd00:10:244:1::/64"
	const back = "ip -6 route replace fd00:10:244:1::/64 via fd00:10:244:1:: dev flannel-v6.1 onlink"
	drop := func(node string) {
		if node == "master" {
			lab.Exec(t, node, "sh", "-c", gone+"; sleep 0.1; "+back)
		}
	}
	expect(idle{Lab: lab}, impatient, "DS-01/RS-01", suite.Pass, "3 of 3 agents killed and restarted, 0 of")
	expect(idle{Lab: lab, restart: drop}, impatient, "DS-01/RS-01", suite.Fail, "expected no datagram lost, seen", "lost (number")
	for _, id := range []string{"DS-01/RS-02", "DS-01/RS-03", "DS-01/RS-08"} {
		expect(lab, impatient, id, suite.Fail, "expected the entries of the new peer 10.244.255.0-24&fd00:10:244:ffff::-64, seen after 200ms: it lacks neighbour fd00:10:244:ffff:: dev flannel-v6.1")
	}
	expect(lab, impatient, "DS-01/RS-05", suite.Fail, "expected repaired: the route is deleted (ip route del fd00:10:244:1::/64", "expected repaired: the route leads elsewhere", "the FDB entry is deleted", "the neighbour leads elsewhere")
	expect(lab, impatient, "DS-01/RS-06", suite.Fail, "repaired: the device is deleted (ip link del flannel-v6.1)", "the state of master is not as before the check")
	lab.Rewire6(t, "master")
	stop := func() { lab.Exec(t, "master", "sh", "-c", gone) }
	expect(idle{Lab: lab, stop: stop, start: func() {}}, impatient, "DS-01/RS-09", suite.Fail, "expected the entries of before the outage, seen after 200ms: lacks route fd00:10:244:1::/64")
	lab.Exec(t, "master", "sh", "-c", back)

	// One that follows the store in both families, and takes nothing of IPv6 away
	// again, as upstream flannel that was killed meanwhile (K3).
	patient := impatient
	patient.Timeouts.Converge = time.Second
	agent := &careless{idle: idle{Lab: lab}, t: t, seen: map[netip.Prefix]lease.Lease{}, serve: servingBoth}
	agent.start()
	expect(released{agent}, patient, "DS-01/RS-02", suite.Inconclusive, "3 nodes served a new lease of fd00:10:244:ffff::/64")
	agent.sh(strings.Join(forgetting6(), "; "))
	expect(released{agent}, patient, "DS-01/RS-04", suite.Fail, "expected nothing of the peer 10.244.255.0-24&fd00:10:244:ffff::-64, which has left, seen after 1s")
	agent.sh(strings.Join(forgetting6(), "; "))

	for _, res := range run(t, lab, suite.Options{}, "DS-01/(NM|TTL|DP|CP|WF|MTU)").Results {
		if res.Verdict == suite.Fail {
			t.Errorf("the lab is not whole: %s", text(res))
		}
	}
}

// HoldAgent implements suite.AgentHolder.
func (r released) HoldAgent(ctx context.Context, node string) (func(context.Context) error, error) {
	return r.careless.HoldAgent(ctx, node)
}

// servingBoth is the command that programs the entries of a peer of both
// families.
func servingBoth(l lease.Lease) string {
	if !l.Subnet6.IsValid() {
		return serving(l)
	}
	at := l.Subnet6.Addr()
	return serving(l) + fmt.Sprintf("ip neigh replace %s lladdr %s dev flannel-v6.1 nud permanent; bridge fdb append %s dev flannel-v6.1 dst %s; ip -6 route replace %s via %s dev flannel-v6.1 onlink; ",
		at, l.VtepMAC6, l.VtepMAC6, l.PublicIPv6, l.Subnet6, at)
}

// forgetting6 are the commands that take away what was programmed of the node
// that is in the store only.
func forgetting6() []string {
	return []string{
		"ip -6 route del fd00:10:244:ffff::/64", "ip neigh del fd00:10:244:ffff:: dev flannel-v6.1",
		"ip route del 10.244.255.0/24", "ip neigh del 10.244.255.0 dev flannel.1",
		"for d in flannel.1 flannel-v6.1; do bridge fdb show dev $d | grep -e 'dst fd00:172:16:1:ffff' -e 'dst 172.16.1.25' | while read m x; do bridge fdb del $m dev $d; done; done",
	}
}
