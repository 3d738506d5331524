package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// inspection is what `overlab inspect -o json` prints.
type inspection struct {
	APIVersion string
	Status     topology.Status
	Plan       *topology.Plan
}

func (o *overlab) inspect(t testing.TB) inspection {
	t.Helper()
	var i inspection
	o.json(t, &i, "inspect", "-o", "json")
	return i
}

func TestLifecycle(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)

	if r := o.run(t, "ls"); r.code != 0 || r.out != "" || !strings.Contains(r.err, "no lab is running") {
		t.Error("ls without labs:", r)
	}
	var list struct {
		APIVersion string
		Labs       []topology.Status
	}
	if o.json(t, &list, "ls", "-o", "json"); list.Labs == nil || len(list.Labs) != 0 || list.APIVersion != topology.APIVersion {
		t.Errorf("ls -o json without labs: %+v", list)
	}
	for _, args := range [][]string{{"down"}, {"inspect"}, {"exec", "node-1", "--", "true"}, {"test"}} {
		if r := o.run(t, args...); r.code != 2 || !strings.Contains(r.err, "overlab up") {
			t.Errorf("%s without labs: %s", args[0], r)
		}
	}

	var up topology.Status
	o.json(t, &up, "up", "-o", "json")
	if up.Name != "default" || up.State != "running" || up.Nodes != 3 || up.Pods != 6 || up.PID != o.supervisor() || len(up.Agents) != 3 {
		t.Errorf("up -o json: %+v", up)
	}
	if st, err := os.Stat(o.state); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("the state folder is %v, %v", st.Mode(), err)
	}
	contains(t, o.must(t, "ls"), "default", "netns", "running")
	if o.json(t, &list, "ls", "-o", "json"); len(list.Labs) != 1 || list.Labs[0].PID != up.PID {
		t.Errorf("ls -o json: %+v", list)
	}
	contains(t, o.must(t, "inspect"), "lab default, running", "172.16.1.2", "pod-6", "agent-node-2.log")
	i := o.inspect(t)
	if i.Plan == nil || i.Plan.Node("node-1") == nil || i.Status.Dir != filepath.Join(o.state, "default") {
		t.Errorf("inspect -o json: %+v", i)
	}
	for _, a := range i.Status.Agents {
		if a.PID == 0 || a.Restarts != 0 || a.LastExit != "" {
			t.Errorf("agent: %+v", a)
		}
		if _, err := os.Stat(a.Log); err != nil {
			t.Error("agent's log:", err)
		}
	}
	contains(t, o.must(t, "inspect", "-o", "yaml"), "apiVersion: overlab/v1alpha1\n")
	if out := o.must(t, "exec", "node-1", "--", "uname", "-n"); out != "node-1\n" {
		t.Errorf("uname -n on node-1: %q", out)
	}
	contains(t, o.must(t, "exec", "node-1", "--", "cat", "/run/flannel/subnet.env"), "FLANNEL_SUBNET=10.244.1.1/24\n")

	r := o.run(t, "up")
	if r.code != 2 || !strings.Contains(r.err, "lab default is already running") || !strings.Contains(r.err, "overlab down default") || !strings.Contains(r.err, "--name") {
		t.Error("second up:", r)
	}
	if now := o.inspect(t).Status; now.PID != up.PID || now.State != "running" {
		t.Errorf("the second up harmed the first lab: %+v", now)
	}
	if r := o.run(t, "down", "other"); r.code != 2 || !strings.Contains(r.err, "lab other: no such lab is running") {
		t.Error("down of an unknown lab:", r)
	}
	if r := o.run(t, "down", "../labs/default"); r.code != 2 || o.supervisor() != up.PID {
		t.Error("down of a path:", r)
	}

	if r := o.run(t, "down"); r.code != 0 || !strings.Contains(r.err, "lab default is gone") {
		t.Error("down:", r)
	}
	machine.unchanged(t, "after down")
	if r := o.run(t, "down", "default"); r.code != 2 {
		t.Error("down twice:", r)
	}
}

// Two labs with the same names and addresses:
//
//	lab a                          lab b
//	node-1 172.16.1.2 -+           node-1 172.16.1.2 -+
//	pod-3  10.244.1.2  |           pod-3  10.244.1.2  |
//	                  lan                            lan
func TestLabsSideBySide(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	o.must(t, "up", "--name", "a")
	o.must(t, "up", "--name", "b")
	contains(t, o.must(t, "ls"), "a ", "b ")

	r := o.run(t, "exec", "node-1", "--", "true")
	if r.code != 2 || !strings.Contains(r.err, "--name (a, b)") {
		t.Error("exec with two labs:", r)
	}
	need(t, "ip")
	const route = "198.51.100.0/24"
	o.must(t, "exec", "--name", "a", "node-1", "--", "ip", "route", "add", "blackhole", route)
	o.must(t, "exec", "--name", "a", "node-1", "--", "sh", "-c", "echo a >/run/flannel/mark; hostname elsewhere")
	contains(t, o.must(t, "exec", "--name", "a", "node-1", "--", "ip", "route"), route)
	for _, b := range []string{
		o.must(t, "exec", "--name", "b", "node-1", "--", "ip", "route"),
		o.must(t, "exec", "--name", "b", "node-1", "--", "ls", "/run/flannel"),
		o.must(t, "exec", "--name", "b", "node-1", "--", "uname", "-n"),
	} {
		if strings.Contains(b, route) || strings.Contains(b, "mark") || strings.Contains(b, "elsewhere") {
			t.Error("lab b sees what was done in lab a:", b)
		}
	}
	macs := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		macs[o.must(t, "exec", "--name", name, "node-1", "--", "ip", "-o", "link", "show", "eth0")] = true
		o.must(t, "test", "--name", name, "NM-02")
	}
	if len(macs) != 2 {
		t.Error("both labs have one node-1:", macs)
	}
	o.must(t, "down", "a")
	contains(t, o.must(t, "exec", "node-1", "--", "uname", "-n"), "node-1")
	o.must(t, "test", "NM")
}

func TestDownAll(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	o.must(t, "up", "--name", "a")
	o.must(t, "up", "--name", "b")
	if r := o.run(t, "down", "a", "--all"); r.code != 2 {
		t.Error("down NAME --all:", r)
	}
	if r := o.run(t, "down", "--all"); r.code != 0 || !strings.Contains(r.err, "lab a is gone") || !strings.Contains(r.err, "lab b is gone") {
		t.Error("down --all:", r)
	}
	machine.unchanged(t, "after down --all")
}
