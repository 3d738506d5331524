package nodeimage

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// kubernetesPrograms are those of a cluster.
var kubernetesPrograms = []string{
	"kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubeadm", "kubectl", "kubelet",
}

// kubernetes builds Kubernetes' programs.
func (b *builder) kubernetes(ctx context.Context, s step) error {
	m := b.module("kubernetes")
	if err := m.begin(ctx, ""); err != nil {
		return err
	}
	if err := m.replaceStaging(ctx); err != nil {
		return err
	}
	var packages []string
	for _, p := range kubernetesPrograms {
		packages = append(packages, "k8s.io/kubernetes/cmd/"+p)
	}
	if err := m.run(ctx, append([]string{"get"}, at(packages, Kubernetes)...)...); err != nil {
		return err
	}
	flags := "-s -w"
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, v := range []string{"gitVersion=" + Kubernetes, "gitMajor=1", "gitMinor=" + kubernetesMinor, "gitTreeState=clean"} {
			flags += " -X " + p + "." + v
		}
	}
	if err := m.build(ctx, s.name, flags, b.path("bin")+"/", packages...); err != nil {
		return err
	}
	return os.WriteFile(b.path(s.result), nil, 0o644)
}

func at(packages []string, version string) []string {
	out := make([]string, len(packages))
	for i, p := range packages {
		out[i] = p + "@" + version
	}
	return out
}

// staging finds the modules that Kubernetes replaces by folders of its own
// repository.
var staging = regexp.MustCompile(`(?m)^\t(k8s\.io/[a-z-]+) => `)

// replaceStaging gives each of Kubernetes' staging modules the release that
// belongs to it: Kubernetes requires them as v0.0.0 and replaces them by
// folders, which does not reach who depends on it.
func (m *module) replaceStaging(ctx context.Context) error {
	download, err := m.download(ctx, "k8s.io/kubernetes", Kubernetes)
	if err != nil {
		return err
	}
	mod, err := os.ReadFile(download.GoMod)
	if err != nil {
		return fmt.Errorf("read Kubernetes' go.mod: %w", err)
	}
	edit := []string{"mod", "edit"}
	for _, found := range staging.FindAllSubmatch(mod, -1) {
		edit = append(edit, fmt.Sprintf("-replace=%s=%[1]s@%s", found[1], kubernetesStaging))
	}
	return m.run(ctx, edit...)
}

func (b *builder) etcd(ctx context.Context, s step) error {
	const program = "go.etcd.io/etcd/server/v3"
	m := b.module("etcd")
	if err := m.begin(ctx, ""); err != nil {
		return err
	}
	if err := m.run(ctx, "get", program+"@"+etcdVersion); err != nil {
		return err
	}
	return m.program(ctx, s, program)
}

// corednsMain is CoreDNS with the plugins that kubeadm's Corefile names; the
// project's own program has three times as many.
const corednsMain = `package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	dnsserver.Directives = []string{
		"reload", "ready", "health", "prometheus", "errors", "log",
		"cache", "loadbalance", "loop", "hosts", "kubernetes", "forward",
	}
	coremain.Run()
}
`

func (b *builder) coredns(ctx context.Context, s step) error {
	m := b.module("coredns")
	if err := m.begin(ctx, corednsMain); err != nil {
		return err
	}
	if err := m.run(ctx, "get", "github.com/coredns/coredns@"+corednsVersion); err != nil {
		return err
	}
	return m.program(ctx, s, ".")
}

// pauseMain holds a pod's namespaces, and reaps orphans where the pod shares
// its processes.
const pauseMain = `package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for s := range signals {
		if s != syscall.SIGCHLD {
			os.Exit(0)
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}
`

func (b *builder) pause(ctx context.Context, s step) error {
	m := b.module("pause")
	if err := m.begin(ctx, pauseMain); err != nil {
		return err
	}
	return m.program(ctx, s, ".")
}

// module is a Go module made only to build programs of others.
type module struct {
	dir      string
	progress func(Progress)
}

func (b *builder) module(name string) *module {
	return &module{dir: b.path(name), progress: b.Progress}
}

// begin makes the module anew, with a program unless main is empty.
func (m *module) begin(ctx context.Context, main string) error {
	if err := os.RemoveAll(m.dir); err != nil {
		return err
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return err
	}
	if main != "" {
		if err := os.WriteFile(filepath.Join(m.dir, "main.go"), []byte(main), 0o644); err != nil {
			return err
		}
	}
	return m.run(ctx, "mod", "init", "overlab.invalid/"+filepath.Base(m.dir))
}

// program builds one program as the result of a step.
func (m *module) program(ctx context.Context, s step, pkg string) error {
	partial := filepath.Join(m.dir, "program")
	if err := m.build(ctx, s.name, "-s -w", partial, pkg); err != nil {
		return err
	}
	return os.Rename(partial, filepath.Join(filepath.Dir(m.dir), s.result))
}

// build builds packages, and tells how many it has compiled. What go's own
// cache has counts as compiled already.
func (m *module) build(ctx context.Context, step, ldflags, output string, packages ...string) error {
	cmd := m.command(ctx, append([]string{"build", "-v", "-trimpath", "-ldflags", ldflags, "-o", output}, packages...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("run go build: %w", err)
	}
	var said bytes.Buffer
	compiled, told := 0, time.Now()
	lines := bufio.NewScanner(io.TeeReader(stderr, &said))
	for lines.Scan() {
		compiled++
		if time.Since(told) > 15*time.Second {
			told = time.Now()
			m.progress(Progress{Step: step, Detail: fmt.Sprintf("%d packages compiled", compiled)})
		}
	}
	// A line that is longer than the scanner takes must not keep go waiting.
	_, _ = io.Copy(&said, stderr) // cmd.Wait tells of a failure
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, tail(said.Bytes()))
	}
	return nil
}

// downloaded is what `go mod download -json` says of a module.
type downloaded struct{ Dir, GoMod, Error string }

func (m *module) download(ctx context.Context, path, version string) (*downloaded, error) {
	cmd := m.command(ctx, "mod", "download", "-json", path+"@"+version)
	out, err := cmd.Output()
	d := new(downloaded)
	if jsonErr := json.Unmarshal(out, d); jsonErr != nil && err == nil {
		err = jsonErr
	}
	if err != nil {
		return nil, fmt.Errorf("download the Go module %s %s: %w: %s", path, version, err, d.Error)
	}
	return d, nil
}

func (m *module) run(ctx context.Context, args ...string) error {
	if out, err := m.command(ctx, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args[:min(2, len(args))], " "), err, tail(out))
	}
	return nil
}

func (m *module) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux")
	return cmd
}

// tail is the end of what a program said.
func tail(b []byte) string {
	const most = 2000
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}
