package faults

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// TestTable: every fault says what a reader and the mutation run need of it.
func TestTable(t *testing.T) {
	id := regexp.MustCompile(`^(DS/)?[A-Z]+-[0-9]{2}$`)
	// Families of checks, which no family of faults may be called like.
	taken := []string{"NM", "TTL", "DP", "CP", "WF", "BE", "MTU", "PF", "SC", "RS", "IP", "CN", "NT", "FW", "SE", "DS"}
	seen := map[string]bool{}
	all := All()
	if len(all) < 40 {
		t.Errorf("%d faults, want at least 40", len(all))
	}
	known := diagnose.IDs()
	for _, f := range all {
		if !id.MatchString(f.ID) || seen[f.ID] || slices.Contains(taken, f.Family()) {
			t.Errorf("%s: no good name", f.ID)
		}
		seen[f.ID] = true
		if f.Title == "" || len(f.Title) > 66 || f.Breaks == "" || f.Break == nil || len(f.Checks) == 0 || len(f.Causes) == 0 {
			t.Errorf("%s: incomplete, or a title of %d bytes: %q", f.ID, len(f.Title), f.Title)
		}
		for _, c := range f.Causes {
			if !slices.Contains(known, c) {
				t.Errorf("%s: no diagnosis is called %q", f.ID, c)
			}
		}
		if len(f.Needs) > 0 && !slices.ContainsFunc(f.Needs, func(x suite.Feature) bool { return x == suite.IPv4 || x == suite.IPv6 && f.IPv6 }) {
			t.Errorf("%s: it needs an overlay of its family, and does not say so", f.ID)
		}
	}
	if _, err := Find("fdb-02"); err != nil {
		t.Error(err)
	}
	if _, err := Find("FDB-99"); err == nil || !strings.Contains(err.Error(), "overlab fault ls") {
		t.Errorf("an unknown fault: %v", err)
	}
}

// TestTwins: the twin of a fault is the same over IPv6, named by the checks of
// IPv6, and meant for labs that have it.
func TestTwins(t *testing.T) {
	n := 0
	for _, f := range All() {
		if !f.IPv6 {
			continue
		}
		n++
		of, err := Find(strings.TrimPrefix(f.ID, "DS/"))
		if err != nil || !of.Twin {
			t.Fatalf("%s is the twin of none: %v", f.ID, err)
		}
		for _, id := range f.Checks {
			if !strings.HasPrefix(id, "DS-01/") {
				t.Errorf("%s names %s, which judges IPv4", f.ID, id)
			}
		}
		if !slices.Contains(f.Needs, suite.IPv6) || slices.Contains(f.Needs, suite.IPv4) {
			t.Errorf("%s needs %v", f.ID, f.Needs)
		}
		if err := f.Applies(labtest.Plan(3, 2, 1500)); err == nil || !strings.Contains(err.Error(), "no IPv6 overlay") {
			t.Errorf("%s in a lab of IPv4: %v", f.ID, err)
		}
	}
	if n < 40 {
		t.Errorf("%d faults of IPv6, want at least 40", n)
	}
}

// TestApplies: a fault is refused by name where the lab cannot have it.
func TestApplies(t *testing.T) {
	plan := labtest.Plan(2, 1, 1500)
	for id, want := range map[string]string{
		"FDB-02": "", "ROUTE-01": "",
		"FDB-07":   "no third node",
		"IPAM-01":  "no node with two pods",
		"AGENT-03": "no node with a second interface",
		"RULE-03":  "no masquerading by iptables",
		"WG-01":    "no wireguard backend",
		"HARD-01":  "no agent with --harden",
	} {
		f, err := Find(id)
		if err != nil {
			t.Fatal(err)
		}
		err = f.Applies(plan)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", id, err, want)
		}
	}
	plan.Network.Backend = topology.Backend{Type: "host-gw"}
	f, _ := Find("FDB-02")
	if err := f.Applies(plan); err == nil {
		t.Error("a lab without VXLAN has an FDB to break")
	}
}

// The lab of these tests, two nodes of a pod, with no agent:
//
//	master-pod-1 .0.2     node-1-pod-1 .1.2
//	flannel.1 .0.0        flannel.1 .1.0
//	ens3 172.16.1.8 ----- ens3 172.16.1.9
//
// TestInjectAndClear: what one journal's user puts in another takes out, and
// the state is that of before; what cannot be put in leaves nothing.
func TestInjectAndClear(t *testing.T) {
	needTools(t, "ip", "bridge", "sysctl")
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	path := t.TempDir() + "/faults.json"
	fdb := func() string {
		s, err := newScene(t.Context(), lab, lab.Plan(), Where{})
		if err != nil {
			t.Fatal(err)
		}
		return s.peerFDB().String()
	}
	before := fdb()
	if !strings.Contains(before, "172.16.1.8") {
		t.Fatalf("node-1 leads to %s", before)
	}
	f, err := Find("FDB-02")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Inject(t.Context(), lab, NewJournal(path), f, Where{Node: "node-1"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Title != "node-1's FDB entry for master leads to no node" || r.Done != len(r.Steps) {
		t.Errorf("%+v", r)
	}
	if _, err := Inject(t.Context(), lab, NewJournal(path), f, Where{}); err == nil || !strings.Contains(err.Error(), "is in already") {
		t.Errorf("twice: %v", err)
	}
	if all, err := NewJournal(path).Records(); err != nil || len(all) != 1 || all[0].ID != "FDB-02" {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := Clear(t.Context(), lab, NewJournal(path), false, "ROUTE-01"); err == nil {
		t.Error("a fault that is not in was taken out")
	}
	if cleared, err := Clear(t.Context(), lab, NewJournal(path), false); err != nil || len(cleared) != 1 {
		t.Errorf("%+v, %v", cleared, err)
	}
	if after := fdb(); after != before {
		t.Errorf("%s, want %s", after, before)
	}
	if all, err := NewJournal(path).Records(); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}

	half := Fault{ID: "HALF-01", Break: func(s *Scene) {
		s.sysctl(s.node.Name, "net/ipv4/ip_forward", "0")
		s.on(s.node.Name, "ip link set no-such-link up", "")
	}}
	if _, err := Inject(t.Context(), lab, NewJournal(path), half, Where{}); err == nil || !strings.Contains(err.Error(), "no-such-link") {
		t.Errorf("half a fault: %v", err)
	}
	if v, err := output(t.Context(), lab, "node-1", []string{"cat", "/proc/sys/net/ipv4/ip_forward"}); err != nil || v != "1\n" {
		t.Errorf("half a fault is left: %q, %v", v, err)
	}
	for _, w := range []Where{{Node: "no-such"}, {Peer: "no-such"}, {Node: "master", Peer: "master"}} {
		if _, err := newScene(t.Context(), lab, lab.Plan(), w); err == nil {
			t.Errorf("%+v: no error", w)
		}
	}
}

// TestClearLeavesWhatOthersNeed: an agent that two faults have paused goes on
// with the last.
func TestClearLeavesWhatOthersNeed(t *testing.T) {
	pause := Step{Do: Op{Space: "n", Argv: []string{"true"}}, Undo: Op{Space: "n", Argv: []string{"no-such-program"}}}
	first, second := Record{ID: "A-01", Steps: []Step{pause}, Done: 1}, Record{ID: "B-01", Steps: []Step{pause}, Done: 1}
	if err := undo(t.Context(), nil, first, []Record{second}); err != nil {
		t.Errorf("it was undone: %v", err)
	}
}

// TestOpString: what --show prints can be typed.
func TestOpString(t *testing.T) {
	for want, op := range map[string]Op{
		"n# ip link set eth0 up":            {Space: "n", Argv: []string{"ip", "link", "set", "eth0", "up"}},
		"n# nft 'add table ip site'":        {Space: "n", Argv: []string{"nft", "add table ip site"}},
		"n# a && b":                         {Space: "n", Argv: []string{"sh", "-c", "a && b"}},
		"end the store":                     {Keep: "end"},
		"n# wg set wg0 peer KEY remove":     {Space: "n", WireGuard: &probe.WireGuardChange{Dev: "wg0", Peer: "KEY", Remove: true}},
		"start the agent of n":              {Space: "n", Keep: "start"},
		`n# echo 'it'\''s'`:                 {Space: "n", Argv: []string{"echo", "it's"}},
		"etcdctl del …/subnets/10.0.0.0-24": {Lease: &lease.Entry{Key: "10.0.0.0-24"}, Gone: true},
		"etcdctl put …/subnets/k '{}'":      {Lease: &lease.Entry{Key: "k", Value: "{}"}},
		"":                                  {},
	} {
		if got := op.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
