package checks_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// portRules are what a plugin would make of the ports of node-1-pod-1.
const portRules = `table ip ports {
	chain maps {
		tcp dport 8080 dnat to 10.244.1.2:80
		udp dport 5353 dnat to 10.244.1.2:53
	}
	chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump maps; }
	chain output { type nat hook output priority -100; fib daddr type local jump maps; }
	chain back { type nat hook postrouting priority srcnat; ip saddr 10.244.1.0/24 ip daddr 10.244.1.2 ct status dnat masquerade; }
}`

// portLab is a lab whose node-1 has two ports that lead to a pod.
//
//	node-1                                          master
//	172.16.1.9:8080/tcp -> node-1-pod-1:80          172.16.1.8
//	172.16.1.9:5353/udp -> node-1-pod-1:53
//	  |      node-1-pod-1 .1.2   node-1-pod-2 .1.3    |
//	  +-------------------- lan ----------------------+
func portLab(t *testing.T) *labtest.Lab {
	t.Helper()
	plan := labtest.Plan(3, 2, 1500)
	for i := range plan.Pods {
		if plan.Pods[i].Name == "node-1-pod-1" {
			plan.Pods[i].Ports = []topology.Port{
				{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"},
				{HostPort: 5353, ContainerPort: 53, Protocol: "udp", HostIP: netip.MustParseAddr("172.16.1.9")},
				{HostPort: 99, ContainerPort: 99, Protocol: "sctp"}, // nothing asks it
			}
		}
	}
	lab := labtest.Up(t, plan)
	lab.Exec(t, "node-1", "nft", portRules)
	return lab
}

// TestNodePorts: NM-07 passes where the ports lead to their pod, and finds what
// breaks that.
func TestNodePorts(t *testing.T) {
	for name, c := range map[string]struct {
		brk  []string // commands on node-1
		want []string
	}{
		"as it ought to be": {nil, []string{"2 ports, asked 8 times and answered 8; by the pod itself: 2"}},
		"no rule": {[]string{"nft flush chain ip ports maps"}, []string{
			"node-1-pod-1 > 172.16.1.9:8080/tcp of node-1, port 80 of node-1-pod-1: expected answered by 172.16.1.9, seen connecting failed",
			"master > 172.16.1.9:5353/udp of node-1", "asked 8 times and answered 0"}},
		"a pod does not reach itself": {[]string{"nft flush chain ip ports back"}, []string{
			"node-1-pod-1 > 172.16.1.9:5353/udp of node-1, port 53 of node-1-pod-1: expected answered by 172.16.1.9, seen no answer to 2 datagrams",
			"node-1-pod-2 > 172.16.1.9:5353/udp of node-1, port 53 of node-1-pod-1: expected answered by 172.16.1.9, seen seen as 10.244.1.3, answered by 10.244.1.2",
			"by the pod itself: 0"}},
		"not from the node": {[]string{"nft flush chain ip ports output"}, []string{
			"node-1 > 172.16.1.9:8080/tcp of node-1, port 80 of node-1-pod-1: expected answered by 172.16.1.9, seen connecting failed",
			"asked 8 times and answered 6; by the pod itself: 2"}},
		"another pod": {[]string{"nft flush chain ip ports maps", "nft add rule ip ports maps tcp dport 8080 dnat to 10.244.1.3:80"}, []string{
			"expected answered by 172.16.1.9, seen connecting failed", "answered 0"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each has a lab of its own, and mostly waits
			lab := portLab(t)
			for _, command := range c.brk {
				lab.Exec(t, "node-1", strings.Fields(command)...)
			}
			res := run(t, lab, quick(), "NM-07").Results[0]
			want := suite.Pass
			if c.brk != nil {
				want = suite.Fail
			}
			got := text(res)
			if res.Verdict != want {
				t.Errorf("%s: %s", res.Verdict, got)
			}
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in:\n%s", w, got)
				}
			}
		})
	}
}

// TestNodePortThatIsTaken: where a pod's own server answers, nothing can be
// told of the port.
func TestNodePortThatIsTaken(t *testing.T) {
	lab := portLab(t)
	ns, err := lab.Namespace("node-1-pod-1")
	if err != nil {
		t.Fatal(err)
	}
	session, err := probe.Open(context.Background(), ns)
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close() // nothing is left in it
	server, err := session.ServeEcho(probe.TCP, 80)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close() // as above
	res := run(t, lab, quick(), "NM-07").Results[0]
	if got := text(res); res.Verdict != suite.Inconclusive || !strings.Contains(got, "something in node-1-pod-1 has the port 80/tcp already") {
		t.Errorf("%s: %s", res.Verdict, got)
	}
}
