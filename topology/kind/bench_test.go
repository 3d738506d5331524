package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kind/pkg/cluster"

	"github.com/overlab/overlab/internal/nodeimage"
	"github.com/overlab/overlab/topology"
)

// BenchmarkUp brings the default lab up to a verified mesh, beside what
// `kind create cluster` takes for the same nodes and the same image, and says how
// much memory an agent has then.
//
//	OVERLAB_KIND=1 OVERLAB_BIN=$PWD/bin hack/with-docker go test -run '^$' -bench Up -benchtime 1x ./topology/kind
func BenchmarkUp(b *testing.B) {
	p := requireCluster(b)
	b.Setenv("OVERLAB_STATE_DIR", filepath.Join(b.TempDir(), "labs"))
	ctx := context.Background() // that of the benchmark ends before its clean-up
	image, err := present(ctx)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = removeImage(ctx, image) }) // unless a lab has it
	var alone, lab time.Duration
	memory := 0
	for range b.N {
		took, err := kindAlone(b, image)
		if err != nil {
			b.Fatal(err)
		}
		alone += took
		plan := planOf(b, "metadata: {name: kindbench}\nspec: {provider: kind}\n")
		began := time.Now()
		l, err := p.Up(ctx, plan, topology.UpOptions{NodeImage: image})
		if err != nil {
			b.Fatal(err)
		}
		lab += time.Since(began)
		most, err := agentMemory(l)
		if err = errors.Join(err, p.Down(ctx, plan.Name)); err != nil {
			b.Fatal(err)
		}
		memory = max(memory, most)
	}
	b.ReportMetric(alone.Seconds()/float64(b.N), "s/kind-create")
	b.ReportMetric(lab.Seconds()/float64(b.N), "s/up")
	b.ReportMetric((lab-alone).Seconds()/float64(b.N), "s/more")
	b.ReportMetric(float64(memory)/(1<<20), "MiB/agent")
}

// present puts the node image into Docker, if it is not there, and returns its
// name.
func present(ctx context.Context) (string, error) {
	image, err := chooseImage(ctx, os.Getenv("OVERLAB_NODE_IMAGE"))
	if err != nil || image.archive == "" {
		return image.name, err
	}
	f, err := os.Open(image.archive)
	if err != nil {
		return "", err
	}
	defer f.Close()
	_, err = docker(ctx, f, "load")
	return nodeimage.Name, err
}

// kindAlone is `kind create cluster`, on a network that goes with it. It returns
// how long that took.
func kindAlone(b *testing.B, image string) (took time.Duration, err error) {
	const name = "overlab-alone"
	kubeconfig := filepath.Join(b.TempDir(), "kubeconfig")
	config := clusterConfig(planOf(b, "spec: {provider: kind}\n"))
	began := time.Now()
	err = onNetwork(name, func() error {
		return engine().Create(name, cluster.CreateWithV1Alpha4Config(config), cluster.CreateWithNodeImage(image),
			cluster.CreateWithKubeconfigPath(kubeconfig), cluster.CreateWithDisplayUsage(false))
	})
	took = time.Since(began)
	gone := engine().Delete(name, kubeconfig)
	_, rm := docker(context.Background(), nil, "network", "rm", name)
	return took, errors.Join(err, gone, rm)
}

// agentMemory is what the agent with the most memory has.
func agentMemory(l topology.Lab) (int, error) {
	s, err := l.Status(context.Background())
	if err != nil {
		return 0, err
	}
	most := 0
	for _, a := range s.Agents {
		pod, err := resident(a.PID)
		if err != nil {
			return 0, err
		}
		most = max(most, pod)
	}
	return most, nil
}

// resident is the memory of a process, in bytes. The pod's other, pause, has some
// hundred kB.
func resident(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(kib)[0])
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}
