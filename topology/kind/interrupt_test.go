package kind

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/overlab/overlab/deploy"
)

// TestInterrupted: an `up` that is interrupted leaves nothing, and of one that is
// killed `down` leaves nothing.
func TestInterrupted(t *testing.T) {
	requireCluster(t)
	before := footprint(t)
	o := newCommandLine(t)

	cmd := o.begin(t)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Wait(); err == nil {
		t.Error("an interrupted up is content")
	}
	t.Logf("after the interrupt it took %.1f s", time.Since(began).Seconds())
	o.nothingSince(t, before)

	cmd = o.begin(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if r := o.run(t, "ls"); !strings.Contains(r.out, "starting") {
		t.Errorf("ls: %+v", r)
	}
	if r := o.run(t, "down", "kindcut"); r.code != 0 {
		t.Errorf("down: %+v", r)
	}
	o.nothingSince(t, before)
}

// begin starts to bring a lab up, and returns when the first node runs.
func (o commandLine) begin(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := o.command("up", "default", "--provider=kind", "--name=kindcut")
	// A group of its own: the signal is to reach overlab alone.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(rolloutTimeout); ; {
		nodes, err := containers(t.Context(), clusterName("kindcut"))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("no node has come up (%v)", err)
		}
		if len(nodes) > 0 {
			return cmd
		}
		time.Sleep(agentPoll)
	}
}

func TestHolder(t *testing.T) {
	me, err := holder()
	if err != nil {
		t.Fatal(err)
	}
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]bool{
		me: false, "true": false, "": false, "overlab-x-1": false,
		me + "0": true, // another process of this number
		"overlab-" + strconv.Itoa(ended.Process.Pid) + "-1": true,
	} {
		if got := abandoned(value); got != want {
			t.Errorf("%q is abandoned: %t", value, got)
		}
	}
}

// healed: what a command holds that was killed, the next command releases.
func healed(t *testing.T, lab *Lab) {
	const node = "node-1"
	host, killed := lab.on[node], "overlab-1-1" // process 1 began earlier than that, or later
	if _, err := lab.HoldAgent(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{noAgent: killed, cordonedBy: killed} {
		if err := label(t.Context(), lab.master(), host, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := kubectl(t.Context(), lab.master(), nil, "cordon", host); err != nil {
		t.Fatal(err)
	}
	if _, err := new(Provider).Open(t.Context(), lab.Plan().Name); err != nil {
		t.Fatal(err)
	}
	if a := agent(t, lab, node); a.State != "running" {
		t.Errorf("the agent is %+v", a)
	}
	nodes, err := lab.view.nodes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		if n.Labels[noAgent]+n.Labels[cordonedBy] != "" || n.Spec.Unschedulable {
			t.Errorf("%s has the labels %v, unschedulable %t", n.Name, n.Labels, n.Spec.Unschedulable)
		}
	}
	if _, err := kubectl(t.Context(), lab.master(), nil, "-n", deploy.Namespace, "rollout", "status", "daemonset/"+deploy.DaemonSet, "--timeout=1m"); err != nil {
		t.Error(err)
	}
}
