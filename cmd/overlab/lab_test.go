package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// verdicts is what `overlab test -o json` prints.
type verdicts struct {
	Summary map[string]int
	Results []struct{ ID, Verdict, Evidence string }
	Frames  []struct {
		Tap   string
		Lines []string
	}
}

// everyVXLANLab has what these checks ask for.
var everyVXLANLab = regexp.MustCompile(`^(NM-0[12]|TTL-0[1-3]|DP-0[1-5]|CP-0[1-3]|WF-0[1-4]|MTU-0[12])$`)

// allPass ends the test unless every check that the arguments choose passes, or
// is of something that a lab need not have.
func (o *overlab) allPass(t testing.TB, args ...string) verdicts {
	t.Helper()
	var v verdicts
	o.json(t, &v, append([]string{"test", "-o", "json"}, args...)...)
	if v.Summary["pass"] == 0 {
		t.Fatalf("overlab test %v: nothing passed: %v", args, v.Summary)
	}
	for _, r := range v.Results {
		if r.Verdict != "pass" && (r.Verdict != "not-applicable" || everyVXLANLab.MatchString(r.ID)) {
			t.Fatalf("overlab test %v: %s is %s: %s", args, r.ID, r.Verdict, r.Evidence)
		}
	}
	return v
}

// The walk of the first article:
//
//	ubuntu-1 10.244.1.96                      ubuntu-2 10.244.2.66
//	   | TTL 64                                   ^ TTL 62
//	cni0 (k8s-node1)                          cni0 (k8s-node2)
//	   | forwarded: TTL 63                        | forwarded: TTL 62
//	flannel.1, VNI 1                          flannel.1
//	   | outer: UDP to port 8472, TTL 64          |
//	ens3 172.16.1.14 ------------------------ ens3 172.16.1.13
func TestArticlesPing(t *testing.T) {
	o := labUp(t, "000")
	for _, f := range o.allPass(t, "WF").Frames {
		text := strings.Join(f.Lines, "\n")
		contains(t, text, ".8472: ", "VXLAN, flags [I] (0x08), vni 1")
		if strings.Contains(text, "10.244.1.96 > 10.244.2.66: ICMP echo request") {
			contains(t, f.Lines[0], "ttl 64", "proto UDP (17)")
			contains(t, f.Lines[2], "ttl 63", "proto ICMP (1)")
		}
	}
	need(t, "ping")
	ping := func() {
		t.Helper()
		out := o.must(t, "exec", "ubuntu-1", "--", "ping", "-n", "-c3", "-i0.1", "10.244.2.66")
		contains(t, out, "3 packets transmitted, 3 received, 0% packet loss")
		if n := strings.Count(out, "ttl=62"); n != 3 {
			t.Errorf("%d of 3 answers with ttl=62:\n%s", n, out)
		}
	}
	need(t, "tcpdump")
	cmd := o.command("exec", "k8s-node1", "--", "tcpdump", "-l", "-n", "-v", "-c6", "-T", "vxlan", "-i", "ens3", "udp", "port", "8472")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(said); ; {
		if !lines.Scan() {
			t.Skip("SKIPPED, NOT TESTED: tcpdump does not run in this lab")
		}
		if strings.Contains(lines.Text(), "listening on ens3") {
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, said) }()
	ping()
	capture, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	if code := wait(t, cmd); code != 0 {
		t.Errorf("tcpdump: exit code %d", code)
	}
	if n := strings.Count(string(capture), "proto UDP (17)"); n != 6 {
		t.Errorf("%d of 6 packets in UDP:\n%s", n, capture)
	}
	if n := strings.Count(string(capture), ".8472: VXLAN"); n != 6 {
		t.Errorf("%d of 6 packets to port 8472:\n%s", n, capture)
	}
	if n := strings.Count(string(capture), "vni 1\n"); n != 6 {
		t.Errorf("%d of 6 packets with VNI 1:\n%s", n, capture)
	}
	// Outer 64 and inner 63, six times each.
	for _, ttl := range []string{"ttl 64,", "ttl 63,"} {
		if n := strings.Count(string(capture), ttl); n != 6 {
			t.Errorf("%d of 6 packets have %s\n%s", n, ttl, capture)
		}
	}
}

func TestAgentKilled(t *testing.T) {
	o := labUp(t)
	agent := func() topology.AgentStatus { return o.inspect(t).Status.Agents[1] }
	before := agent()
	if before.Node != "node-1" {
		t.Fatalf("%+v", before)
	}
	for n := 1; n <= 2; n++ {
		pid := agent().PID
		o.must(t, "exec", "node-1", "--", "sh", "-c", fmt.Sprintf("kill -9 %d", pid))
		eventually(t, "the agent is started again", func() bool {
			a := agent()
			return a.Restarts == n && a.PID != 0 && a.PID != pid
		})
		if now := agent(); now.LastExit != "killed by signal 9 (SIGKILL)" || !now.Started.After(before.Started) {
			t.Errorf("after kill %d: %+v", n, now)
		}
	}
	contains(t, o.must(t, "inspect"), "killed by signal 9 (SIGKILL)")
	for _, a := range o.inspect(t).Status.Agents {
		if a.Node != "node-1" && (a.Restarts != 0 || a.LastExit != "") {
			t.Errorf("another node's agent: %+v", a)
		}
	}
	o.allPass(t)
	if a := o.inspect(t).Status.Agents[1]; !strings.Contains(strings.Join(a.Command, " "), "overlabd --etcd-endpoints=") {
		t.Errorf("command: %q", a.Command)
	}
}

func TestTestEvidence(t *testing.T) {
	o := labUp(t)
	dir := filepath.Join(t.TempDir(), "evidence")
	contains(t, o.must(t, "test", "WF-01", "--evidence", dir), "pass", "WF-01", "1 passed")
	for _, name := range []string{"report.json", "frames.pcapng"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Size() == 0 {
			t.Errorf("evidence %s: %v, %v", name, st, err)
		}
	}
	// A broken lab is a failed check, which is not a broken command.
	need(t, "ip")
	o.must(t, "exec", "node-1", "--", "ip", "link", "set", "eth0", "down")
	if r := o.run(t, "test", "TTL-03"); r.code != 1 || !strings.Contains(r.out, "fail") {
		t.Error("test of a lab with a node off the underlay:", r)
	}
	if r := o.run(t, "test", "NO-SUCH"); r.code != 2 || r.err == "" {
		t.Error("test of a check that is not there:", r)
	}
}

func TestUpAndTest(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	contains(t, o.must(t, "up", "--test"), "pass", "TTL-03", "WF-04")
	contains(t, o.must(t, "ls"), "running")
}

// 64 nodes with two pods each, 4032 routes between them.
func TestManyNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("64 nodes take a while")
	}
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	text := "spec:\n  nodes:\n  - {name: master, role: control-plane}\n  - {name: node, count: 63}\n"
	path := labFile(t, text)
	r := o.run(t, "up", path)
	if r.code != 0 {
		if strings.Contains(r.err, "the kernel allows no more namespaces") {
			t.Skip("SKIPPED, NOT TESTED: ", r.err)
		}
		t.Fatal(r)
	}
	t.Log(r.err)
	s := o.inspect(t).Status
	if s.Nodes != 64 || s.Pods != 128 || len(s.Agents) != 64 {
		t.Errorf("%+v", s)
	}
	v := o.allPass(t)
	t.Logf("%d checks passed", len(v.Results))
	o.must(t, "down")
	machine.settles(t, "down")
}
