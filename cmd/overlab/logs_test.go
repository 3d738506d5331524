package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/overlab/overlab/topology"
)

// Any command can be a node's agent, with flanneld's arguments, and is started
// again as its policy says:
//
//	master            node-1                     node-2
//	overlabd, always  a script, on-failure       overlabd, never
func TestRestartPolicies(t *testing.T) {
	o := labUp(t, labFile(t, `spec:
  nodes:
  - {name: master, role: control-plane}
  - name: node-1
    agent:
      command: [sh, -c, 'echo "foreign: $1"; exec overlabd "$@"', script]
      restart: on-failure
  - {name: node-2, agent: {restart: never}}
`))
	o.allPass(t, "WF") // others restart agents themselves
	agent := func(i int) topology.AgentStatus { return o.inspect(t).Status.Agents[i] }
	for i, want := range []topology.RestartPolicy{topology.RestartAlways, topology.RestartOnFailure, topology.RestartNever} {
		if a := agent(i); a.Restart != want || a.State != "running" || len(a.Exits) != 0 || len(a.Output) == 0 {
			t.Errorf("%+v", a)
		}
	}
	end := func(i int, signal syscall.Signal, state string, restarts int) topology.AgentStatus {
		t.Helper()
		before := agent(i)
		o.must(t, "exec", before.Node, "--", "sh", "-c", fmt.Sprintf("kill -%d %d", signal, before.PID))
		var now topology.AgentStatus
		eventually(t, fmt.Sprintf("%s's agent is %s", before.Node, state), func() bool {
			now = agent(i)
			return now.State == state && now.PID != before.PID && now.Restarts == restarts && len(now.Exits) > 0
		})
		return now
	}
	end(1, syscall.SIGKILL, "running", 1)
	eventually(t, "the new agent catches the signal", func() bool { return strings.Count(o.must(t, "logs", "node-1"), "msg=ready") == 2 })
	a := end(1, syscall.SIGTERM, "ended", 1)
	if len(a.Exits) != 2 || a.Exits[0].How != "killed by signal 9 (SIGKILL)" || a.Exits[1].How != "exit code 0" ||
		a.Exits[0].Ran <= 0 || !a.Exits[1].Time.After(a.Exits[0].Time) {
		t.Errorf("%+v", a.Exits)
	}
	if a := end(2, syscall.SIGKILL, "ended", 0); a.LastExit != "killed by signal 9 (SIGKILL)" || a.PID != 0 {
		t.Errorf("%+v", a)
	}
	end(0, syscall.SIGTERM, "running", 1)
	contains(t, o.must(t, "inspect"), "ended", "on-failure", "never", "exit code 0", "node-2's agent printed last:")

	contains(t, o.must(t, "logs", "node-1"), "foreign: --etcd-endpoints=http://172.16.1.1:2379")
	if n := strings.Count(o.must(t, "logs", "node-1", "--tail", "3"), "\n"); n != 3 {
		t.Errorf("--tail 3 shows %d lines", n)
	}
	contains(t, o.must(t, "logs"), "master | time=", "node-1 | foreign: ", "node-2 | time=")
	o.must(t, "logs", "supervisor")
	if r := o.run(t, "logs", "node-9"); r.code != 2 || !strings.Contains(r.err, "has no log of node-9") {
		t.Error("logs of no node:", r)
	}
}

// Logs are followed until the lab ends.
func TestLogsFollow(t *testing.T) {
	o := labUp(t)
	cmd := o.command("logs", "-f", "--tail", "0", "node-1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	need(t, "ip")
	o.must(t, "exec", "node-1", "--", "ip", "route", "del", "10.244.2.0/24")
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.Contains(lines.Text(), "ip route replace 10.244.2.0/24") {
		if strings.Contains(lines.Text(), "msg=ready") {
			t.Error("--tail 0 shows an old line:", lines.Text())
		}
	}
	o.must(t, "down")
	for lines.Scan() {
		t.Log(lines.Text())
	}
	if code := wait(t, cmd); code != 0 {
		t.Errorf("after the lab's end: exit code %d", code)
	}
}

// What kubelet writes before each line is not shown, and parts of a line are one.
func TestKubeletsLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	write := func(text string) {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("2026-11-21T18:21:21.68Z stderr F level=INFO msg=\"a b\"\n2026-11-21T18:21:21.69Z stdout P one \n2026-11-21T18:21:21.69Z")
	logs, err := openLogs(topology.Status{Agents: []topology.AgentStatus{{Node: "node-1", Log: path, LogFormat: topology.LogCRI}}}, []string{"node-1"})
	if err != nil {
		t.Fatal(err)
	}
	defer closeLogs(logs)
	first, err := logs[0].read(false)
	write(" stdout F line\n2026-11-21T18:21:21.70Z stderr F \nbroken\n")
	second, err2 := logs[0].read(true)
	if got := strings.Join(append(first, second...), "|"); err != nil || err2 != nil || got != "level=INFO msg=\"a b\"|one line||broken" {
		t.Errorf("%q, %v, %v", got, err, err2)
	}
}
