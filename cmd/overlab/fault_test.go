package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/scenarios/faults"
	"github.com/overlab/overlab/topology"
)

func TestFaultList(t *testing.T) {
	o := newOverlab(t)
	var list struct {
		APIVersion string
		Faults     []struct{ ID, Title string }
	}
	o.json(t, &list, "fault", "ls", "-o", "json")
	if list.APIVersion != topology.APIVersion || len(list.Faults) != len(faults.All()) {
		t.Errorf("%+v", list)
	}
	for line := range strings.Lines(o.must(t, "fault", "ls")) {
		if len(line) > 81 || strings.Contains(line, "{") {
			t.Errorf("%d columns: %q", len(line), line)
		}
	}
	for _, args := range [][]string{{"fault", "inject"}, {"fault", "inject", "FDB-99"}, {"fault", "clear", "FDB-99"}, {"fault", "inject", "FDB-02"}, {"diagnose"}} {
		if r := o.run(t, args...); r.code != 2 || r.err == "" {
			t.Errorf("%v without a lab: %s", args, r)
		}
	}
	contains(t, o.must(t, "__complete", "fault", "inject", "FDB"), "FDB-01\ta node has no FDB entry for another")
}

// TestFault breaks node-1 and mends it again, each by a command of its own:
//
//	pod-3            pod-5
//	node-1  --X-->  node-2          and the master
func TestFault(t *testing.T) {
	for _, tool := range []string{"ip", "bridge"} {
		need(t, tool)
	}
	o := labUp(t)
	fdb := func() string {
		return o.must(t, "exec", "node-1", "--", "sh", "-c", "bridge fdb show dev flannel.1 | sort")
	}
	before := fdb()
	contains(t, o.must(t, "diagnose"), "nothing wrong was found")

	said := o.must(t, "fault", "inject", "fdb-02")
	contains(t, said, "a fault is in lab default")
	if strings.Contains(said, "FDB") || strings.Contains(said, "node-1") {
		t.Errorf("it tells what there is to find out: %s", said)
	}
	if fdb() == before {
		t.Error("nothing has changed")
	}
	contains(t, o.must(t, "inspect"), "a fault is in this lab")
	if strings.Contains(o.must(t, "inspect", "--quiet"), "fault ls") {
		t.Error("inspect --quiet tells of faults")
	}
	contains(t, o.must(t, "fault", "ls", "--in"), "FDB-02", "node-1's FDB entry for node-2 leads to no node")
	if r := o.run(t, "fault", "inject", "FDB-02"); r.code != 2 || !strings.Contains(r.err, "is in already") {
		t.Error("twice:", r)
	}

	r := o.run(t, "diagnose")
	if r.code != 1 {
		t.Error("diagnose of a broken lab:", r)
	}
	contains(t, r.out, "1. the FDB entry of node-1 for node-2 is wrong", "to mend it on node-1:", "$ bridge fdb")
	// What it says to type mends it.
	_, command, _ := strings.Cut(r.out, "$ ")
	command, _, _ = strings.Cut(command, "\n")
	o.must(t, "exec", "node-1", "--", "sh", "-c", command)
	if now := fdb(); now != before {
		t.Errorf("%q did not mend it:\n%s", command, now)
	}

	// A second fault of the same node, while its agent is paused for the first.
	contains(t, o.must(t, "fault", "inject", "ROUTE-01", "--node", "node-1", "--peer", "master", "--show"), "node-1# kill -STOP", "node-1# ip route del 10.244.0.0/24")
	contains(t, o.must(t, "fault", "clear", "FDB-02"), "FDB-02 is out")
	if strings.Contains(o.must(t, "exec", "node-1", "--", "ip", "route"), "10.244.0.0/24") {
		t.Error("the agent that the second fault needs paused is not")
	}
	contains(t, o.must(t, "fault", "clear"), "ROUTE-01 is out")
	if r := o.run(t, "fault", "clear"); r.code != 0 || !strings.Contains(r.err, "no fault was taken out") {
		t.Error("nothing to take out:", r)
	}
	if r := o.run(t, "fault", "clear", "FDB-02"); r.code != 2 {
		t.Error("a fault that is not in:", r)
	}
	eventually(t, "the lab is as before", func() bool { return o.run(t, "diff").code == 0 && fdb() == before })
	o.allPass(t, "CP", "TTL")
}

// TestFaultOutlivesItsCommand: an agent and the store that are kept ended stay
// so when the command that ended them has gone.
func TestFaultOutlivesItsCommand(t *testing.T) {
	o := labUp(t)
	agent := func() topology.AgentStatus { return o.inspect(t).Status.Agents[1] }
	causes := func() (ids []string) {
		var d diagnose.Report
		r := o.run(t, "diagnose", "-o", "json")
		decode(t, r.out, &d)
		for _, c := range d.Causes {
			ids = append(ids, c.ID)
		}
		return ids
	}
	o.must(t, "fault", "inject", "AGENT-01")
	o.must(t, "fault", "inject", "STORE-01")
	if a := agent(); a.Node != "node-1" || a.PID != 0 {
		t.Errorf("the agent runs: %+v", a)
	}
	if got := strings.Join(causes(), " "); got != "store-gone agent-dead" {
		t.Errorf("diagnose says %s", got)
	}
	contains(t, o.must(t, "inspect"), "2 faults are in this lab")
	o.must(t, "fault", "clear")
	if a := agent(); a.PID == 0 {
		t.Errorf("the agent does not run: %+v", a)
	}
	o.allPass(t, "RS-02")
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
}

// TestDiagnoseFindsNothing: what is well in other labs is called well.
func TestDiagnoseFindsNothing(t *testing.T) {
	for _, lab := range []string{"000", "001", "host-gw", "direct-routing"} {
		t.Run(lab, func(t *testing.T) {
			o := labUp(t, lab)
			if r := o.run(t, "diagnose"); r.code != 0 {
				t.Error(r)
			}
		})
	}
}
