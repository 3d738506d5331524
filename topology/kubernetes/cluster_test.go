package kubernetes

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"sigs.k8s.io/kind/pkg/apis/config/defaults"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	kind "sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
	"sigs.k8s.io/kind/pkg/log"

	"github.com/overlab/overlab/internal/agentimage"
	"github.com/overlab/overlab/internal/nodeimage"
)

// TestExistingCluster: a cluster that others have made, with the agent's manifest
// applied by hand, is judged by a user who can do nothing but ask its API, and
// has nothing of ours afterwards, however a command ended.
//
//	control-plane      worker            worker2
//	pod-1  pod-2      pod-3  pod-4      pod-5  pod-6
//	   cni0              cni0              cni0
//	 flannel.1         flannel.1         flannel.1
//	   eth0              eth0              eth0
//	    └──────── Docker network ───────────┘
func TestExistingCluster(t *testing.T) {
	c := makeCluster(t, "overlab-others", 2)
	c.apply(t, filepath.Join("..", "..", "deploy", "overlab.yaml"))
	c.kubectl(t, nil, "-n", "overlab-system", "rollout", "status", "daemonset/overlabd", "--timeout=3m")
	c.settle(t)
	before := c.objects(t)

	t.Run("Test", func(t *testing.T) {
		evidence := filepath.Join(c.dir, "evidence")
		r := c.overlab(t, "test", "--evidence", evidence, "-o", "json")
		if r.code != 0 {
			t.Fatalf("%+v", r)
		}
		var report struct {
			Results []struct{ ID, Verdict, Reason string }
		}
		if err := json.Unmarshal([]byte(r.out), &report); err != nil {
			t.Fatal(err)
		}
		verdicts := map[string]string{}
		for _, x := range report.Results {
			verdicts[x.ID] = x.Verdict
			if x.Verdict == "not-applicable" && x.Reason == "" || x.Verdict != "pass" && x.Verdict != "not-applicable" {
				t.Errorf("%s: %s, %s", x.ID, x.Verdict, x.Reason)
			}
		}
		for _, id := range []string{"NM-01", "NM-02", "NM-03", "NM-04", "NM-05", "NM-06", "TTL-01", "TTL-02", "TTL-03", "DP-01", "DP-02", "DP-03", "DP-04",
			"CP-01", "CP-02", "CP-03", "CP-06", "WF-01", "WF-02", "WF-03", "WF-04", "WF-05", "WF-06", "WF-07", "WF-08", "WF-09",
			"MTU-01", "MTU-02", "MTU-04", "MTU-06", "NT-01", "NT-02", "NT-03"} {
			if verdicts[id] != "pass" {
				t.Errorf("%s: %s", id, verdicts[id])
			}
		}
		if _, err := os.Stat(filepath.Join(evidence, "frames.pcapng")); err != nil {
			t.Errorf("the evidence: %v", err)
		}
	})
	t.Run("Disruptive", func(t *testing.T) {
		r := c.overlab(t, "test", "MTU", "DP", "CP", "RS", "--disruptive")
		for _, want := range []string{"pass         MTU-03", "pass         MTU-05", "pass         DP-05", "pass         CP-05", "pass         RS-01", "3 of 3 agents killed and restarted, 0 of ", "the agent of overlab-others-worker2"} {
			if !strings.Contains(strings.Join(strings.Fields(r.out), " "), strings.Join(strings.Fields(want), " ")) {
				t.Errorf("no %q among\n%s", want, r.out)
			}
		}
		if r.code != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("Session", func(t *testing.T) { c.session(t) })
	t.Run("Interrupted", func(t *testing.T) {
		if code := c.ended(t, unix.SIGINT); code < 0 {
			t.Error("the signal itself ended it")
		}
		c.free(t, 30*time.Second)
	})
	t.Run("Killed", func(t *testing.T) {
		c.ended(t, unix.SIGKILL)
		if left := c.kubectl(t, nil, "get", "namespaces", "-l", sessionLabel, "-o", "name"); left == "" {
			t.Fatal("nothing was left: what is there to see?")
		}
		c.free(t, commandLease+4*watchEvery)
	})
	c.settle(t)
	after := c.objects(t)
	for _, o := range after {
		if !slices.Contains(before, o) {
			t.Errorf("left in the cluster: %s", o)
		}
	}
	for _, o := range before {
		if !slices.Contains(after, o) {
			t.Errorf("gone from the cluster: %s", o)
		}
	}
}

// session: probes that stay serve every command, and one takes them away.
func (c *existing) session(t *testing.T) {
	if r := c.overlab(t, "up"); r.code != 0 {
		t.Fatalf("up: %+v", r)
	}
	worker := c.name + "-worker"
	for _, x := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"up"}, 2, "is already running"},
		{[]string{"ls"}, 0, "kubernetes   running   3       6"},
		{[]string{"inspect"}, 0, "on the wire: VXLAN, VNI 1, port 8472 at " + c.name + "-control-plane:eth0"},
		{[]string{"inspect"}, 0, "CNI: /etc/cni/net.d/10-overlab.conflist, network cbr0 by overlab-cni, on 3 nodes"},
		{[]string{"walk", "pod-3", "pod-5"}, 0, "20 steps, all as predicted"},
		{[]string{"diff"}, 0, "no difference: "},
		{[]string{"diagnose"}, 0, "nothing wrong was found"},
		{[]string{"capture", worker + ":flannel.1", "--for", "1s"}, 0, "frames passed the filter, 0 dropped"},
		{[]string{"exec", "pod-3", "--", "ping", "-c1", "127.0.0.1"}, 0, "1 packets received"},
		{[]string{"exec", worker, "--", "ip", "addr", "show"}, 0, "flannel.1"},
		{[]string{"exec", worker, "--", "nosuch"}, 127, "the probe's image has no program nosuch"},
		{[]string{"exec", "nowhere", "--", "ip", "link"}, 2, "it has " + c.name + "-control-plane"},
		{[]string{"test", "TTL-03"}, 0, "1 check in"},
		{[]string{"__complete", "walk", "--provider=kubernetes", "--kubeconfig=" + c.kubeconfig, ""}, 0, "pod-6\tpod on "},
		{[]string{"down"}, 0, "has nothing of overlab's any more"},
		{[]string{"down"}, 2, "no such lab is running"},
	} {
		if r := c.overlab(t, x.args...); r.code != x.code || !strings.Contains(r.out+r.err, x.want) {
			t.Errorf("%s: %+v; want exit code %d and %q", x.args, r, x.code, x.want)
		}
	}
	if left := c.kubectl(t, nil, "get", "namespaces", "-l", sessionLabel, "-o", "name"); left != "" {
		t.Errorf("left: %s", left)
	}
}

// TestForeignCluster: a network that is none of flannel's is told so, and judged
// by what holds of every one. It is what kindnet makes: veths without a bridge,
// and routes to the nodes' addresses.
//
//	control-plane      worker
//	pod-1  pod-2      pod-3  pod-4
//	 veth   veth       veth   veth
//	   eth0              eth0
//	    └─ Docker network ┘
func TestForeignCluster(t *testing.T) {
	c := makeCluster(t, "overlab-foreign", 1)
	nodes := strings.Fields(c.kubectl(t, nil, "get", "nodes", "-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}`))
	for i := 0; i < len(nodes); i += 3 {
		list := fmt.Sprintf(`{"cniVersion":"0.3.1","name":"ptp","plugins":[{"type":"ptp","ipam":{"type":"host-local","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":%q}]]}}]}`, nodes[i+1])
		c.docker(t, strings.NewReader(list), "exec", "-i", nodes[i], "sh", "-c", "mkdir -p /etc/cni/net.d; cat > /etc/cni/net.d/10-ptp.conflist")
		for j := 0; j < len(nodes); j += 3 {
			if i != j {
				c.docker(t, nil, "exec", nodes[i], "ip", "route", "add", nodes[j+1], "via", nodes[j+2])
			}
		}
	}
	c.kubectl(t, nil, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=2m")
	r := c.overlab(t, "test", "--frames", "0")
	if r.code != 0 {
		t.Errorf("%+v", r)
	}
	for _, want := range []string{"pass         NM-01", "pass         NM-02", "pass         NM-05", "pass         TTL-03", "pass         MTU-01", "pass         NT-01",
		"n/a          WF-01", "n/a          BE-01", "n/a          CP-01", "pod network whose pods are on a bridge cni0"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in\n%s", want, r.out)
		}
	}
	if r := c.overlab(t, "inspect"); r.code != 0 || !strings.Contains(r.out, "backend: none of flannel's (pods are not on a bridge cni0)") {
		t.Errorf("%+v", r)
	}
	if r := c.overlab(t, "walk", "pod-1", "pod-3"); r.code != 0 || !strings.Contains(r.out, "all as predicted") {
		t.Errorf("%+v", r)
	}
	if r := c.overlab(t, "diff"); r.code != 2 || !strings.Contains(r.err, "none of flannel's") {
		t.Errorf("%+v", r)
	}
	c.free(t, 30*time.Second)
}

// existing is a cluster that kind has made, and the means to look at it.
type existing struct {
	name, kubeconfig string
	// dir is a folder of the user that overlab runs as, program its copy.
	dir, program string
}

// stranger is a user who owns nothing and may do nothing.
const stranger = 65534

func makeCluster(t *testing.T, name string, workers int) *existing {
	t.Helper()
	bin := requireKind(t)
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &existing{name: name, dir: dir, kubeconfig: filepath.Join(dir, "kubeconfig"), program: filepath.Join(dir, "overlab")}
	config := &v1alpha4.Cluster{
		Networking: v1alpha4.Networking{DisableDefaultCNI: true, PodSubnet: "10.244.0.0/16"},
		Nodes:      []v1alpha4.Node{{Role: v1alpha4.ControlPlaneRole}},
	}
	for range workers {
		config.Nodes = append(config.Nodes, v1alpha4.Node{Role: v1alpha4.WorkerRole})
	}
	engine := kind.NewProvider(kind.ProviderWithDocker(), kind.ProviderWithLogger(log.NoopLogger{}))
	t.Cleanup(func() {
		if err := engine.Delete(name, c.kubeconfig); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	if err := engine.Create(name, kind.CreateWithV1Alpha4Config(config), kind.CreateWithNodeImage(nodeImage(t, c)),
		kind.CreateWithKubeconfigPath(c.kubeconfig), kind.CreateWithDisplayUsage(false)); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(dir, "overlabd.tar")
	if err := agentimage.WriteFile(image, agentimage.Options{
		Agent: filepath.Join(bin, "overlabd"), Plugin: filepath.Join(bin, "overlab-cni"), Probe: filepath.Join(bin, "overlab"),
	}); err != nil {
		t.Fatal(err)
	}
	nodes, err := engine.ListInternalNodes(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		f, err := os.Open(image)
		if err == nil {
			err = errors.Join(nodeutils.LoadImageArchive(n, f), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("a cluster of %d nodes in %.1f s", len(nodes), time.Since(began).Seconds())
	c.forStranger(t, filepath.Join(bin, "overlab"))
	return c
}

// forStranger lets the user run the program and read the kubeconfig.
func (c *existing) forStranger(t *testing.T, program string) {
	t.Helper()
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(c.program, text, 0o755)
	}
	for _, path := range []string{c.dir, c.kubeconfig} {
		err = errors.Join(err, os.Chown(path, stranger, stranger))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func requireKind(t *testing.T) (bin string) {
	t.Helper()
	skip := func(why any) { t.Skipf("SKIPPED, NOT TESTED: no cluster can be made here: %v (make test-kind)", why) }
	bin = os.Getenv("OVERLAB_BIN")
	switch _, err := os.Stat(filepath.Join(bin, "overlab")); {
	case os.Getenv("OVERLAB_KIND") == "":
		skip("OVERLAB_KIND is not set, and a cluster takes a minute")
	case os.Geteuid() != 0:
		skip("only root may become the user that the test is of")
	case bin == "" || err != nil:
		skip("OVERLAB_BIN does not say where the programs are")
	}
	if err := exec.Command("docker", "version").Run(); err != nil {
		skip(err)
	}
	return bin
}

// nodeImage is kind's, where Docker has it, or the one that overlab builds.
func nodeImage(t *testing.T, c *existing) string {
	t.Helper()
	if name := os.Getenv("OVERLAB_NODE_IMAGE"); name != "" {
		return name
	}
	for _, name := range []string{defaults.Image, nodeimage.Name} {
		if c.docker(t, nil, "image", "ls", "-q", name) != "" {
			return name
		}
	}
	archive, err := nodeimage.Cached()
	if err != nil {
		return defaults.Image // kind pulls it
	}
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c.docker(t, f, "load")
	return nodeimage.Name
}

func (c *existing) docker(t *testing.T, stdin io.Reader, args ...string) string {
	t.Helper()
	cmd := exec.Command("docker", args...)
	cmd.Stdin = stdin
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("docker %s: %v: %s", strings.Join(args, " "), err, said.String())
	}
	return strings.TrimSpace(string(out))
}

// kubectl is that of the control plane.
func (c *existing) kubectl(t *testing.T, stdin io.Reader, args ...string) string {
	t.Helper()
	return c.docker(t, stdin, append([]string{"exec", "-i", c.name + "-control-plane", "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"}, args...)...)
}

func (c *existing) apply(t *testing.T, file string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c.kubectl(t, f, "apply", "-f", "-")
}

// settle waits until the cluster's own pods run: then its objects stay.
func (c *existing) settle(t *testing.T) {
	t.Helper()
	c.kubectl(t, nil, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=2m")
	c.kubectl(t, nil, "wait", "--for=condition=Ready", "pods", "--all", "-A", "--timeout=3m")
}

// objects are the names of everything in the cluster but what it tells of itself
// as it goes.
func (c *existing) objects(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, kind := range strings.Fields(c.kubectl(t, nil, "api-resources", "--verbs=list", "-o", "name")) {
		if strings.HasPrefix(kind, "events") {
			continue
		}
		for _, o := range strings.Split(c.kubectl(t, nil, "get", kind, "-A", "--ignore-not-found", "-o", `jsonpath={range .items[*]}{.kind} {.metadata.namespace} {.metadata.name}{"\n"}{end}`), "\n") {
			// A pod of the agent's comes in the place of one that a check restarted.
			if agent := "Pod overlab-system overlabd-"; strings.HasPrefix(o, agent) {
				o = agent
			}
			if o != "" {
				all = append(all, o)
			}
		}
	}
	if len(all) < 50 {
		t.Fatalf("only %d objects: %v", len(all), all)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

type outcome struct {
	code     int
	out, err string
}

// command is overlab as the user runs it.
func (c *existing) command(args ...string) *exec.Cmd {
	if args[0] != "__complete" {
		args = slices.Concat(args[:1], []string{"--provider=kubernetes", "--kubeconfig=" + c.kubeconfig}, args[1:])
	}
	cmd := exec.Command(c.program, args...)
	cmd.Dir, cmd.Env = c.dir, []string{"HOME=" + c.dir, "TMPDIR=" + c.dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
	return cmd
}

func (c *existing) overlab(t *testing.T, args ...string) outcome {
	t.Helper()
	cmd := c.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return outcome{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ended starts a run without end, and ends it by a signal while it measures.
func (c *existing) ended(t *testing.T, s unix.Signal) (code int) {
	t.Helper()
	cmd := c.command("test", "NM", "--repeat=0", "--until-fail")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() })
	defer late.Stop()
	seen := make([]byte, 1)
	if _, err := io.ReadFull(out, seen); err != nil { // the first run's line
		t.Fatalf("%v: %s", err, errs.String())
	}
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, out)
	if err := cmd.Wait(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// free waits until the cluster has no session of ours.
func (c *existing) free(t *testing.T, patience time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	for {
		left := c.kubectl(t, nil, "get", "namespaces", "-l", sessionLabel, "-o", "name")
		if left == "" {
			t.Logf("nothing is left after %.1f s", time.Since(began).Seconds())
			break
		}
		if pause(ctx, time.Second) != nil {
			t.Fatalf("left after %v: %s", patience, left)
		}
	}
	if found, err := filepath.Glob(filepath.Join(c.dir, "overlab-kubernetes-*")); err != nil || len(found) > 0 && !strings.HasSuffix(t.Name(), "Killed") {
		t.Errorf("left on this machine: %v (%v)", found, err)
	}
}
