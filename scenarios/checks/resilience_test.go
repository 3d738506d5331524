package checks_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// idle is a lab whose agents do nothing at all, as the mesh stays when agents
// are gone.
type idle struct {
	*labtest.Lab
	// restart is what the restart of an agent does, if it does something.
	restart func(node string)
	// stop and start do so with the store.
	stop, start func()
}

func (l idle) RestartAgent(_ context.Context, node string) error {
	if l.restart != nil {
		l.restart(node)
	}
	return nil
}

func (l idle) HoldStore(context.Context) (func(context.Context) error, error) {
	if l.stop == nil {
		return nil, errors.New("no")
	}
	l.stop()
	return func(context.Context) error { l.start(); return nil }, nil
}

// TestResilienceIsJudged: an overlay that loses packets, and one that nobody
// looks after, fail the checks that ask for better, and are left whole. The
// lab is that of the other faults.
func TestResilienceIsJudged(t *testing.T) {
	impatient := suite.Options{Timeouts: suite.DefaultTimeouts()}
	impatient.Timeouts.Converge = 200 * time.Millisecond
	impatient.Timeouts.Outage = 100 * time.Millisecond
	impatient.Timeouts.Store = 30 * time.Second // it is not on trial
	for _, backend := range []topology.Backend{{Type: "vxlan", VNI: 1, Port: 8472}, hostGW} {
		t.Run(backend.Type, func(t *testing.T) {
			plan := labtest.Plan(3, 2, 1500)
			plan.Network.Backend = backend
			lab := labtest.Up(t, plan)
			startStore(t, lab)
			expect := func(l topology.Lab, id string, v suite.Verdict, want ...string) {
				t.Helper()
				res := run(t, l, impatient, id).Results[0]
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
			route := "ip route del 10.244.1.0/24"
			drop := func(node string) {
				if node == "master" {
					lab.Exec(t, node, "sh", "-c", "ip route save to root 10.244.0.0/16 table main > /dev/shm/overlab-routes-"+plan.Name+backend.Type+"; "+route+"; sleep 0.1; ip route restore < /dev/shm/overlab-routes-"+plan.Name+backend.Type+" 2>/dev/null; true")
				}
			}
			t.Cleanup(func() { _ = os.Remove("/dev/shm/overlab-routes-" + plan.Name + backend.Type) })

			expect(idle{Lab: lab}, "RS-01", suite.Pass, "3 of 3 agents killed and restarted, 0 of")
			expect(idle{Lab: lab, restart: drop}, "RS-01", suite.Fail, "expected no datagram lost, seen", "lost (number")
			expect(lab, "RS-01", suite.NotApplicable, "cannot restart agents")
			expect(lab, "RS-04", suite.NotApplicable, "cannot keep agents ended")
			for _, id := range []string{"RS-02", "RS-03", "RS-08"} {
				expect(lab, id, suite.Fail, "expected the entries of the new peer 10.244.255.0-24, seen after 200ms: it lacks")
			}
			expect(lab, "RS-05", suite.Fail, "expected repaired: the route is deleted (ip route del 10.244.1.0/24", "expected repaired: the route leads elsewhere")
			if backend.Type == "vxlan" {
				expect(lab, "RS-05", suite.Fail, "the FDB entry is deleted", "the neighbour leads elsewhere")
			} else {
				expect(lab, "RS-06", suite.NotApplicable, "has no device")
				expect(lab, "RS-07", suite.Fail, "expected repaired: the link is down for a moment")
			}
			if backend.Type == "vxlan" {
				expect(lab, "RS-06", suite.Fail, "repaired: the device is deleted (ip link del flannel.1)", "the state of master is not as before the check")
				lab.Rewire(t, "master")
			}
			stop := func() { lab.Exec(t, "master", "sh", "-c", route) }
			expect(idle{Lab: lab, stop: stop, start: func() {}}, "RS-09", suite.Fail, "expected the entries of before the outage, seen after 200ms: lacks route 10.244.1.0/24")
			if backend.Type == "vxlan" {
				lab.Exec(t, "master", "ip", "route", "add", "10.244.1.0/24", "via", "10.244.1.0", "dev", "flannel.1", "onlink")
			} else {
				lab.Exec(t, "master", "ip", "route", "add", "10.244.1.0/24", "via", "172.16.1.9")
			}
			for _, res := range run(t, lab, suite.Options{}).Results {
				if res.Verdict == suite.Fail {
					t.Errorf("the lab is not whole: %s", text(res))
				}
			}
		})
	}
}

// careless is an agent for all nodes of a vxlan lab that does what upstream
// flannel does: it adds what it sees in the store, and takes nothing away of
// what it did not see go.
type careless struct {
	idle
	t    *testing.T
	mu   sync.Mutex
	seen map[netip.Prefix]lease.Lease
	away bool
	// serve is the command that serves a peer; serving if nil.
	serve func(lease.Lease) string
}

// serving is the command that programs the entries of a peer, in their order.
func serving(l lease.Lease) string {
	return toNeighbour(l) + toFDB(l) + toRoute(l)
}

func toNeighbour(l lease.Lease) string {
	return fmt.Sprintf("ip neigh replace %s lladdr %s dev flannel.1 nud permanent; ", l.Subnet.Addr(), l.VtepMAC)
}

func toFDB(l lease.Lease) string {
	return fmt.Sprintf("bridge fdb append %s dev flannel.1 dst %s; ", l.VtepMAC, l.PublicIP)
}

func toRoute(l lease.Lease) string {
	return fmt.Sprintf("ip route replace %s via %s dev flannel.1 onlink; ", l.Subnet, l.Subnet.Addr())
}

func (c *careless) HoldAgent(context.Context, string) (func(context.Context) error, error) {
	c.setAway(true)
	return func(context.Context) error { c.setAway(false); return nil }, nil
}

func (c *careless) setAway(away bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.away = away
	if !away { // it remembers nothing of before
		clear(c.seen)
		for _, n := range c.Plan().Nodes {
			c.seen[n.PodCIDR] = lease.Lease{}
		}
	}
}

// start lets it run until the test ends.
func (c *careless) start() {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { c.run(ctx) })
	c.t.Cleanup(func() { cancel(); running.Wait() })
}

// run looks at the store until ctx ends.
func (c *careless) run(ctx context.Context) {
	c.setAway(false)
	for ctx.Err() == nil {
		leases, err := lease.List(ctx, c.Lab)
		if err == nil {
			c.follow(leases)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (c *careless) follow(leases []lease.Lease) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away {
		return
	}
	there := map[netip.Prefix]bool{}
	serve, commands := c.serve, ""
	if serve == nil {
		serve = serving
	}
	for _, l := range leases {
		there[l.Subnet] = true
		if known, ok := c.seen[l.Subnet]; ok && (known == l || known == lease.Lease{}) {
			continue
		}
		c.seen[l.Subnet] = l
		commands += serve(l)
	}
	for subnet, l := range c.seen {
		if !there[subnet] {
			delete(c.seen, subnet)
			commands += fmt.Sprintf("ip neigh del %[1]s dev flannel.1; bridge fdb del %[2]s dev flannel.1 dst %[3]s; ip route del %[4]s; ", l.Subnet.Addr(), l.VtepMAC, l.PublicIP, l.Subnet)
		}
	}
	if commands != "" {
		c.sh(commands)
	}
}

// sh runs a command on every node.
func (c *careless) sh(command string) {
	for _, n := range c.Plan().Nodes {
		c.Exec(c.t, n.Name, "sh", "-c", strings.TrimSuffix(command, "; ")+"; true")
	}
}

// TestUpstreamsHabitsAreSeen: an agent that follows the store passes what it
// must, and one that forgets what it did before it was killed (K3), or leaves a
// peer's old FDB entry in place (K4), does not.
func TestUpstreamsHabitsAreSeen(t *testing.T) {
	o := suite.Options{Timeouts: suite.DefaultTimeouts()}
	o.Timeouts.Converge = 500 * time.Millisecond
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	startStore(t, lab)
	agent := &careless{idle: idle{Lab: lab}, t: t, seen: map[netip.Prefix]lease.Lease{}}
	agent.start()
	for _, c := range []struct {
		id      string
		verdict suite.Verdict
		want    string
		mend    string
	}{
		{id: "RS-02", verdict: suite.Pass, want: "2 nodes served a new lease of 10.244.255.0/24"},
		{id: "RS-03", verdict: suite.Pass, want: "2 nodes forgot the lease of 10.244.255.0/24"},
		{id: "RS-04", verdict: suite.Fail, want: "expected nothing of the peer 10.244.255.0-24, which has left, seen after 500ms",
			mend: "ip route del 10.244.255.0/24; ip neigh del 10.244.255.0 dev flannel.1; bridge fdb show dev flannel.1 | grep 172.16.1.25 | while read m x; do bridge fdb del $m dev flannel.1; done"},
		{id: "RS-08", verdict: suite.Fail, want: "expected nothing of the peer's old VTEP MAC, seen after 500ms"},
	} {
		res := run(t, agent, o, c.id).Results[0]
		if got := strings.Join(strings.Fields(text(res)), " "); res.Verdict != c.verdict || !strings.Contains(got, c.want) {
			t.Errorf("%s: want %s, %q:\n%s", c.id, c.verdict, c.want, text(res))
		}
		if c.mend != "" {
			agent.sh(c.mend)
		}
	}
}
