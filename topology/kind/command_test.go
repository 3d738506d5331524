package kind

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/topology"
)

// TestCommands: what a person types works on a cluster as it does on the netns
// provider, whose default lab this is: the core checks pass on it.
func TestCommands(t *testing.T) {
	requireCluster(t)
	o := commandLine{state: filepath.Join(t.TempDir(), "labs")}
	t.Cleanup(func() { o.run(t, "down", "--all") })

	if r := o.run(t, "up", "default", "--provider=kind", "--name=kindcmd"); r.code != 0 {
		t.Fatalf("up: %+v", r)
	}
	if r := o.run(t, "up", "default", "--provider=kind", "--name=kindcmd"); r.code != 2 || !strings.Contains(r.err, "is already running") {
		t.Errorf("up again: %+v", r)
	}
	if r := o.run(t, "up", "default", "--name=kindcmd"); r.code != 2 || !strings.Contains(r.err, "is already running, by provider kind") {
		t.Errorf("up by another provider: %+v", r)
	}
	var labs struct{ Labs []topology.Status }
	if r := o.run(t, "ls", "-o", "json"); json.Unmarshal([]byte(r.out), &labs) != nil || len(labs.Labs) != 1 || labs.Labs[0].Provider != "kind" || labs.Labs[0].State != "running" {
		t.Errorf("ls: %+v", r)
	}
	evidence := filepath.Join(t.TempDir(), "evidence")
	if r := o.run(t, "test", "--evidence", evidence); r.code != 0 || !strings.Contains(r.out, "pass         NM-02") {
		t.Errorf("test: %+v", r)
	} else {
		t.Log(r.out[strings.LastIndex(strings.TrimSpace(r.out), "\n")+1:])
	}
	if _, err := os.Stat(filepath.Join(evidence, "frames.pcapng")); err != nil {
		t.Errorf("the evidence: %v", err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"inspect"}, 0, "store kubernetes on master"},
		{[]string{"exec", "node-1", "--", "ip", "-d", "link", "show", "flannel.1"}, 0, "vxlan id 1"},
		{[]string{"exec", "pod-1", "--", "ip", "-br", "addr"}, 0, "10.244."},
		{[]string{"exec", "node-1", "--", "sh", "-c", "exit 3"}, 3, ""},
		{[]string{"logs", "node-2", "--tail=-1"}, 0, "lease acquired"},
		{[]string{"down"}, 0, ""},
		{[]string{"ls"}, 0, ""},
	} {
		if r := o.run(t, c.args...); r.code != c.code || !strings.Contains(r.out, c.want) {
			t.Errorf("%s: %+v; want exit code %d and %q", c.args, r, c.code, c.want)
		}
	}
}

// commandLine is overlab with a state folder of its own.
type commandLine struct{ state string }

type result struct {
	code     int
	out, err string
}

func (o commandLine) run(t *testing.T, args ...string) result {
	t.Helper()
	cmd := exec.Command(filepath.Join(os.Getenv("OVERLAB_BIN"), "overlab"), args...)
	cmd.Env = append(os.Environ(), "OVERLAB_STATE_DIR="+o.state)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}
