package diagnose

import (
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/internal/labtest"
)

// TestWalks: a walk is evidence for the cause that it met, lets that go before
// others of its rank, and is a cause where it met none.
//
//	master --- node-1 --- node-2, a pod on each that is probed from the one before
func TestWalks(t *testing.T) {
	probe := func(from, to string) Probed {
		return Probed{From: from + "-pod-1", FromNode: from, To: to + "-pod-1", ToNode: to, What: "ping"}
	}
	ended := func(p Probed, d walk.Divergence) Walked {
		if d.Leg == "" {
			d.Leg = "request"
		}
		return Walked{Probe: p, Verdict: walk.Diverged, Divergence: &d}
	}
	missing := func(node, peer string) oracle.Entry {
		return oracle.Entry{Kind: oracle.KindFDB, Verb: oracle.Missing, Node: node, Peer: peer, Dev: "flannel.1", Want: "entry for " + peer}
	}
	stopped := func(s *Seen) { s.Agents["node-1"] = Agent{PID: 7, State: "T"} }
	shot := &walk.Dropped{Leg: "request", Space: "node-1", Interface: "ens3", Reason: "TC_INGRESS", Function: "sch_handle_ingress"}
	for _, c := range []struct {
		name string
		see  func(*Seen)
		want []string
		// told is what the first cause's evidence must say.
		told string
	}{
		{"an entry, seen from the plan and by the walk", func(s *Seen) {
			differ(s, missing("node-1", "node-2"))
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-1:flannel.1", On: "node-1", Cause: "no entry", Confirmed: true})}
		}, []string{"fdb-missing"}, "walk from node-1-pod-1 to node-2-pod-1: the request ended at node-1:flannel.1: no entry"},
		{"of two alike, the one that the walk met", func(s *Seen) {
			differ(s, missing("master", "node-2"), missing("node-1", "node-2"))
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-1:flannel.1", On: "node-1", Cause: "no entry", Confirmed: true})}
		}, []string{"fdb-missing", "fdb-missing"}, "on node-1: no entry for node-2"},
		{"what others follow from comes first all the same", func(s *Seen) {
			down := oracle.Entry{Kind: oracle.KindLink, Verb: oracle.Wrong, Node: "node-2", Dev: "flannel.1", Have: "flannel.1 down", Changes: []oracle.Change{{Name: "state", Want: "up", Have: "down"}}}
			differ(s, missing("node-1", "node-2"), down)
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-1:flannel.1", On: "node-1", Cause: "no entry", Confirmed: true})}
		}, []string{"link-down", "fdb-missing"}, "flannel.1 down"},
		{"the kernel drops it, and no table shows why", func(s *Seen) {
			stopped(s)
			s.Walks = []Walked{ended(probe("master", "node-1"), walk.Divergence{Where: "node-1:flannel.1", Cause: "the kernel dropped it at node-1's ens3", Dropped: shot, Confirmed: true})}
		}, []string{"drop", "agent-stopped"}, "the kernel says TC_INGRESS in sch_handle_ingress"},
		{"two walks of one end", func(s *Seen) {
			end := walk.Divergence{Where: "node-1:flannel.1", Cause: "the kernel dropped it at node-1's ens3", Dropped: shot, Confirmed: true}
			s.Walks = []Walked{ended(probe("master", "node-1"), end), ended(probe("node-2", "node-1"), end)}
		}, []string{"drop"}, "walk from node-2-pod-1"},
		{"it was not seen again, and nobody says why", func(s *Seen) {
			stopped(s)
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "underlay:node-2", Cause: "the link between them lost it"})}
		}, []string{"walk", "agent-stopped"}, "the link between them lost it"},
		{"an end that another's cause explains comes after it", func(s *Seen) {
			differ(s, missing("node-1", "node-2"))
			s.Walks = []Walked{
				ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-1:flannel.1", On: "node-1", Cause: "no entry", Confirmed: true}),
				ended(probe("node-2", "master"), walk.Divergence{Leg: "reply", Where: "node-2:ens3", Cause: "something", Confirmed: true}),
			}
		}, []string{"fdb-missing", "walk"}, "no entry"},
		{"altered where it left, dropped where it arrived", func(s *Seen) {
			s.Rulesets["node-1"] = "table ip site {\n\tchain c {\n\t\ttype filter hook output priority filter; policy accept;\n\t\tudp dport 8472 udp checksum set 1\n\t}\n}\n"
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-2:flannel.1", Cause: "a wrong checksum", Confirmed: true,
				Dropped: &walk.Dropped{Space: "node-2", Reason: "UDP_CSUM", Function: "__udp4_lib_rcv"}})}
		}, []string{"rewrite"}, "a wrong checksum"},
		{"sent in the clear, and refused for it", func(s *Seen) {
			differ(s, oracle.Entry{Kind: oracle.KindXFRMPolicy, Verb: oracle.Missing, Node: "node-1", Peer: "node-2", Want: "a policy"})
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-2:cni0", Cause: "the kernel dropped it at node-2's ens3", Confirmed: true,
				Dropped: &walk.Dropped{Space: "node-2", Reason: "XFRM_POLICY", Function: "ip_forward"}})}
		}, []string{"ipsec-policy"}, "walk from node-1-pod-1"},
		{"a pod's cause, met on its node", func(s *Seen) {
			e := oracle.Entry{Kind: oracle.KindRoute, Verb: oracle.Missing, Node: "node-1", Pod: "node-1-pod-1", Want: "default"}
			differ(s, e)
			s.Walks = []Walked{ended(probe("node-1", "node-2"), walk.Divergence{Where: "node-1-pod-1", Cause: "the kernel finds no route", Confirmed: true})}
		}, []string{"route-missing"}, "finds no route"},
		{"a walk that arrived, or of which frames are missing", func(s *Seen) {
			s.Walks = []Walked{{Probe: probe("node-1", "node-2"), Verdict: walk.Arrived}, {Probe: probe("node-1", "node-2"), Verdict: walk.Inconclusive, Divergence: &walk.Divergence{Where: "node-1:ens3"}}}
		}, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen := healthy()
			c.see(seen)
			var got []string
			causes := Judge(seen).Causes
			for _, x := range causes {
				got = append(got, x.ID)
				if !slices.Contains(IDs(), x.ID) {
					t.Errorf("%s is in no list", x.ID)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("%v, want %v", got, c.want)
			}
			if len(causes) > 0 && !strings.Contains(strings.Join(causes[0].Evidence, "\n"), c.told) {
				t.Errorf("the evidence does not say %q: %q", c.told, causes[0].Evidence)
			}
		})
	}
}

// TestToWalk: of the probes that failed, the first of each sort and family come
// before the second, and a pair whose pings fail is walked once.
func TestToWalk(t *testing.T) {
	var probes []Probed
	for _, six := range []bool{false, true} {
		for _, pair := range [][2]string{{"a", "b"}, {"b", "c"}} {
			for _, p := range []Probed{{What: "ping"}, {What: "ping of 1450 bytes", Size: 1450}, {What: "TCP", Port: 7}} {
				p.From, p.To, p.IPv6 = pair[0], pair[1], six
				probes = append(probes, p)
			}
		}
	}
	fail := func(which ...int) []string {
		var some []Probed
		for i, p := range probes {
			p.OK = !slices.Contains(which, i)
			some = append(some, p)
		}
		var out []string
		for _, p := range toWalk(some) {
			family := "4"
			if p.IPv6 {
				family = "6"
			}
			out = append(out, p.From+p.To+family+" "+p.What)
		}
		return out
	}
	for _, c := range []struct {
		failed []int
		want   []string
	}{
		{nil, nil},
		{[]int{0, 1, 2}, []string{"ab4 ping"}},
		{[]int{1, 2}, []string{"ab4 ping of 1450 bytes", "ab4 TCP"}},
		{[]int{0, 3, 6}, []string{"ab4 ping", "ab6 ping", "bc4 ping"}},
		{[]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, []string{"ab4 ping", "ab6 ping", "bc4 ping", "bc6 ping"}},
		{[]int{0, 4, 5, 8}, []string{"ab4 ping", "bc4 ping of 1450 bytes", "bc4 TCP", "ab6 TCP"}},
	} {
		if got := fail(c.failed...); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.failed, got, c.want)
		}
	}
}

// TestCountersAreEvidence: a counter that grew speaks for the cause that it can
// speak for, on its namespace and interface, where packets were lost.
func TestCountersAreEvidence(t *testing.T) {
	seen := healthy()
	differ(seen,
		oracle.Entry{Kind: oracle.KindFDB, Verb: oracle.Missing, Node: "node-1", Peer: "node-2", Dev: "flannel.1", Want: "an entry"},
		oracle.Entry{Kind: oracle.KindRoute, Verb: oracle.Missing, Node: "node-2", Peer: "node-1", Dev: "flannel.1", Want: "a route"})
	seen.Grown["node-1"] = map[string]int{"flannel.1 tx_dropped": 4, "cni0 tx_dropped": 9, "Ip OutNoRoutes": 3}
	seen.Grown["node-2"] = map[string]int{"Ip OutNoRoutes": 2}
	for _, lost := range []bool{false, true} {
		if lost {
			seen.Symptoms = []string{"ping: no answer"}
		}
		told := ""
		for _, c := range Judge(seen).Causes {
			told += c.ID + ": " + strings.Join(c.Evidence[1:], "; ") + "\n"
		}
		want := "fdb-missing: \nroute-missing: \n"
		if lost {
			want = "fdb-missing: ip -s link on node-1: tx_dropped of flannel.1 grew by 4 while the probes ran\n" +
				"route-missing: nstat on node-2: IpOutNoRoutes grew by 2 while the probes ran\n"
		}
		if told != want {
			t.Errorf("packets lost: %t:\n%swant\n%s", lost, told, want)
		}
	}
}

// TestFamilies: a dual-stack lab is probed in both.
func TestFamilies(t *testing.T) {
	if views := families(labtest.Plan(2, 1, 1500)); len(views) != 1 || views[0].Is6() {
		t.Errorf("a lab of IPv4: %v", views)
	}
	if views := families(labtest.DualPlan(2, 1, 1500)); len(views) != 2 || views[0].Is6() || !views[1].Is6() {
		t.Errorf("a lab of both: %v", views)
	}
}
