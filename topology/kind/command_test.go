package kind

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/topology"
)

// spec is a lab that netns and kind both build, with all that the two can have
// alike.
const spec = `apiVersion: overlab/v1alpha1
kind: Lab
metadata: {name: kindcmd}
spec:
  network: {Network: 10.244.0.0/16, EnableNFTables: true}
  serviceCIDR: 10.100.0.0/16
  underlay: [{name: lan, cidr: 172.20.0.0/24, gateway: 172.20.0.1}]
  pods: [{name: web, node: node-1, ports: [{hostPort: 8080, containerPort: 80}]}]
  podsPerNode: 2
`

// TestCommands: what a person types works on a cluster as it does on the netns
// provider: of one spec both pass the same core checks, and have the same state.
func TestCommands(t *testing.T) {
	requireCluster(t)
	before := footprint(t)
	o := newCommandLine(t)
	file := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := o.run(t, "up", file, "--provider=kind"); r.code != 0 {
		t.Fatalf("up: %+v", r)
	}
	if r := o.run(t, "up", file, "--provider=kind"); r.code != 2 || !strings.Contains(r.err, "is already running") {
		t.Errorf("up again: %+v", r)
	}
	if r := o.run(t, "up", file); r.code != 2 || !strings.Contains(r.err, "is already running, by provider kind") {
		t.Errorf("up by another provider: %+v", r)
	}
	var labs struct{ Labs []topology.Status }
	if r := o.run(t, "ls", "-o", "json"); json.Unmarshal([]byte(r.out), &labs) != nil || len(labs.Labs) != 1 || labs.Labs[0].Provider != "kind" || labs.Labs[0].State != "running" {
		t.Errorf("ls: %+v", r)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"inspect"}, 0, "store kubernetes on master"},
		{[]string{"inspect"}, 0, "services 10.100.0.0/16"},
		{[]string{"exec", "master", "--", "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "get", "service", "kubernetes"}, 0, "10.100.0.1"},
		{[]string{"exec", "node-1", "--", "ip", "-d", "link", "show", "flannel.1"}, 0, "vxlan id 1"},
		{[]string{"exec", "web", "--", "ip", "-br", "addr"}, 0, "10.244."},
		{[]string{"exec", "node-1", "--", "sh", "-c", "exit 3"}, 3, ""},
		{[]string{"logs", "node-2", "--tail=-1"}, 0, "\ntime="},
		{[]string{"logs", "node-2", "--tail=-1"}, 0, "lease acquired"},
		{[]string{"diff"}, 0, "no difference"},
	} {
		if r := o.run(t, c.args...); r.code != c.code || !strings.Contains(r.out, c.want) {
			t.Errorf("%s: %+v; want exit code %d and %q", c.args, r, c.code, c.want)
		}
	}
	if r := o.run(t, "up", file, "--name=twin"); r.code != 0 {
		t.Fatalf("up on netns: %+v", r)
	}
	sameChecks(t, o)
	sameState(t, o)
	for _, lab := range []string{"kindcmd", "twin"} {
		if r := o.run(t, "down", lab); r.code != 0 {
			t.Errorf("down: %+v", r)
		}
	}
	o.nothingSince(t, before)
}

// onlyNetns are the checks that a cluster cannot be judged by, and why.
var onlyNetns = map[string]string{
	"NT-04": "kube-proxy masquerades what bears 0x4000",
	"SE-01": "kube-proxy's rules drop what connection tracking takes for invalid",
	"SE-02": "the same",
	"SE-03": "the same",
}

// sameChecks: every core check has the same verdict on both, but for those.
func sameChecks(t *testing.T, o commandLine) {
	netns, _ := judge(t, o, "twin")
	kind, took := judge(t, o, "kindcmd")
	for id, n := range netns {
		switch k := kind[id]; {
		case k.Verdict == n.Verdict && (n.Verdict == "pass" || n.Verdict == "not-applicable" && n.Reason == k.Reason):
		case onlyNetns[id] != "" && n.Verdict == "pass" && k.Verdict == "not-applicable" && k.Reason == "the lab has no node without kube-proxy":
		default:
			t.Errorf("%s: %s (%s%s) on netns, %s (%s%s) on kind", id, n.Verdict, n.Evidence, n.Reason, k.Verdict, k.Evidence, k.Reason)
		}
	}
	for id, want := range map[string]string{
		"RS-01": "3 of 3 agents killed and restarted, 0 of", "RS-02": "node-2 restarted, and with its pods back after",
		"RS-03": "node-2 cordoned and uncordoned, 0 of",
	} {
		if !strings.Contains(kind[id].Evidence, want) {
			t.Errorf("%s: %s; want %q", id, kind[id].Evidence, want)
		}
	}
	t.Logf("%d core checks in %.1f s", len(kind), took.Seconds())
}

// judged is one result of `overlab test -o json`.
type judged struct{ ID, Verdict, Reason, Evidence string }

func judge(t *testing.T, o commandLine, lab string) (map[string]judged, time.Duration) {
	t.Helper()
	evidence := filepath.Join(t.TempDir(), "evidence")
	r := o.run(t, "test", "--name="+lab, "-o", "json", "--evidence", evidence)
	var report struct {
		Took    time.Duration `json:"tookNanoseconds"`
		Results []judged
	}
	if err := json.Unmarshal([]byte(r.out), &report); err != nil || len(report.Results) == 0 {
		t.Fatalf("test of %s: %v, %+v", lab, err, r)
	}
	if _, err := os.Stat(filepath.Join(evidence, "frames.pcapng")); err != nil {
		t.Errorf("the evidence: %v", err)
	}
	out := map[string]judged{}
	for _, c := range report.Results {
		out[c.ID] = c
	}
	return out, report.Took
}

// sameState: the state that `overlab diff` tells is the same, line by line, and
// differs from the plan nowhere.
func sameState(t *testing.T, o commandLine) {
	var told []string
	for _, lab := range []string{"twin", "kindcmd"} {
		if r := o.run(t, "diff", "--name="+lab); r.code != 0 || !strings.Contains(r.out, "no difference") {
			t.Errorf("diff of %s: %+v", lab, r)
		}
		r := o.run(t, "diff", "--state", "--name="+lab)
		if r.code != 0 || strings.Count(r.out, "\n") < 100 {
			t.Errorf("state of %s: %+v", lab, r)
		}
		told = append(told, r.out)
	}
	if d := cmp.Diff(strings.Split(told[0], "\n"), strings.Split(told[1], "\n")); d != "" {
		t.Errorf("(-netns +kind)\n%s", d)
	}
}

// footprint is what Docker has, for a comparison.
func footprint(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, args := range [][]string{
		{"ps", "-a", "--format", "container {{.Names}}"},
		{"network", "ls", "--format", "network {{.Name}}"},
		{"volume", "ls", "--format", "volume {{.Name}}"},
		{"image", "ls", "-a", "--format", "image {{.Repository}}:{{.Tag}} {{.ID}}"},
	} {
		text, err := docker(t.Context(), nil, args...)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		slices.Sort(lines)
		fmt.Fprintln(&out, strings.Join(lines, "\n"))
	}
	return out.String()
}

// commandLine is overlab with folders of its own, for its state, for what it
// writes for a while, and for a home.
type commandLine struct{ home string }

func newCommandLine(t *testing.T) commandLine {
	o := commandLine{home: t.TempDir()}
	if err := os.Mkdir(o.temp(), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.run(t, "down", "--all") })
	return o
}

func (o commandLine) temp() string { return filepath.Join(o.home, "tmp") }

// command is overlab, called with arguments.
func (o commandLine) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(os.Getenv("OVERLAB_BIN"), "overlab"), args...)
	cache, err := os.UserCacheDir() // the node image's
	if err != nil {
		cache = ""
	}
	cmd.Env = append(os.Environ(), "OVERLAB_STATE_DIR="+filepath.Join(o.home, "labs"), "TMPDIR="+o.temp(), "HOME="+o.home, "XDG_CACHE_HOME="+cache)
	return cmd
}

// nothingSince judges that what Docker had before is what there is, and that there
// are no files.
func (o commandLine) nothingSince(t *testing.T, before string) {
	t.Helper()
	if after := footprint(t); after != before {
		t.Errorf("there is\n%s\nand before there was\n%s", after, before)
	}
	err := filepath.WalkDir(o.home, func(path string, _ os.DirEntry, err error) error {
		if err == nil && path != o.home && path != o.temp() {
			t.Errorf("left: %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

type result struct {
	code     int
	out, err string
}

func (o commandLine) run(t *testing.T, args ...string) result {
	t.Helper()
	cmd := o.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}
