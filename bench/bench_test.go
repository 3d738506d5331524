// Package bench measures overlab against what the bare kernel takes for the
// same namespaces, links and entries, in the same run: machines are noisy, and
// a ratio says more than a time. `make bench` runs it.
package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/topology"
)

func TestMain(m *testing.M) {
	if end := os.Getenv(streaming); end != "" {
		if err := streamEnd(end); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	nstest.Main(m)
}

// sizes are the labs that are measured, in nodes; each node has two pods.
var sizes = []int{3, 16, 64}

// BenchmarkUp measures `overlab up`, from exec to exit, with every agent's
// mesh complete. The metrics are milliseconds: the whole, that of the bare
// kernel, and their ratio; of the whole, from the agents' start to the
// complete mesh.
func BenchmarkUp(b *testing.B) {
	nstest.Require(b)
	bin := programs(b)
	for _, nodes := range sizes {
		b.Run(fmt.Sprintf("%dx2", nodes), func(b *testing.B) {
			file, plan := labOf(b, nodes)
			var up, mesh, bare, down time.Duration
			for b.Loop() {
				k, err := buildBare(plan)
				if err != nil {
					b.Fatal(err)
				}
				bare += k.took
				k.close()
				settle(b)

				began := time.Now()
				status := overlab(b, bin, "up", file, "-o", "json")
				up += time.Since(began)
				mesh += meshTime(b, status)
				began = time.Now()
				overlab(b, bin, "down")
				down += time.Since(began)
				settle(b)
			}
			n := float64(b.N)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / n }
			b.ReportMetric(ms(up), "up-ms")
			b.ReportMetric(ms(bare), "bare-kernel-ms")
			b.ReportMetric(ms(up)/ms(bare), "ratio")
			b.ReportMetric(ms(mesh), "agents-to-mesh-ms")
			b.ReportMetric(ms(down), "down-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkTest measures `overlab test`, from exec to exit.
func BenchmarkTest(b *testing.B) {
	nstest.Require(b)
	bin := programs(b)
	for _, nodes := range sizes {
		b.Run(fmt.Sprintf("%dx2", nodes), func(b *testing.B) {
			file, _ := labOf(b, nodes)
			overlab(b, bin, "up", file)
			defer settle(b)
			defer overlab(b, bin, "down")
			var took time.Duration
			for b.Loop() {
				began := time.Now()
				overlab(b, bin, "test", "-o", "json")
				took += time.Since(began)
			}
			b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "test-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkTestLevels measures the core checks and those of every level on the
// default lab, whose agents are asked to harden it, so that all pass. It is the
// time that the report gives: the lab is up.
func BenchmarkTestLevels(b *testing.B) {
	nstest.Require(b)
	bin := programs(b)
	file := filepath.Join(b.TempDir(), "lab.yaml")
	text := "apiVersion: " + topology.APIVersion + "\nkind: Lab\nmetadata: {name: bench}\nspec: {agent: {args: [--harden]}}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, levels := range []string{"C", "C,E,H,R,I"} {
		b.Run(levels, func(b *testing.B) {
			overlab(b, bin, "up", file)
			defer settle(b)
			defer overlab(b, bin, "down")
			var took time.Duration
			checks := 0
			for b.Loop() {
				var report struct {
					TookNanoseconds time.Duration
					Results         []struct{ ID string }
				}
				if err := json.Unmarshal(overlab(b, bin, "test", "--level", levels, "-o", "json"), &report); err != nil {
					b.Fatal(err)
				}
				took, checks = took+report.TookNanoseconds, len(report.Results)
			}
			b.ReportMetric(took.Seconds()/float64(b.N), "s")
			b.ReportMetric(float64(checks), "checks")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// labOf writes the topology file of a lab of that many nodes.
func labOf(b *testing.B, nodes int) (string, *topology.Plan) {
	b.Helper()
	text := fmt.Sprintf(`apiVersion: %s
kind: Lab
metadata: {name: bench}
spec:
  nodes:
  - {name: master, role: control-plane}
  - {name: node, count: %d}
  podsPerNode: 2
`, topology.APIVersion, nodes-1)
	file := filepath.Join(b.TempDir(), "lab.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	spec, err := topology.Load(file)
	if err != nil {
		b.Fatal(err)
	}
	plan, err := spec.Plan()
	if err != nil {
		b.Fatal(err)
	}
	return file, plan
}

// programs is the folder of the built programs.
func programs(b *testing.B) string {
	b.Helper()
	dir := os.Getenv("OVERLAB_BIN")
	if dir == "" {
		b.Skip("SKIPPED, NOT MEASURED: OVERLAB_BIN names no folder with the built programs; run `make bench`")
	}
	b.Setenv("OVERLAB_STATE_DIR", b.TempDir())
	return dir
}

// overlab runs a command and returns what it printed.
func overlab(b *testing.B, bin string, args ...string) []byte {
	b.Helper()
	cmd := exec.Command(filepath.Join(bin, "overlab"), args...)
	var out, progress bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &progress
	if err := cmd.Run(); err != nil {
		const most = 2000 // a report is long
		said := append(progress.Bytes(), out.Bytes()...)
		b.Fatalf("overlab %v: %v\n%s", args, err, said[:min(len(said), most)])
	}
	return out.Bytes()
}

// meshTime is the time from the start of the agents to the complete mesh.
func meshTime(b *testing.B, status []byte) time.Duration {
	b.Helper()
	var s topology.Status
	if err := json.Unmarshal(status, &s); err != nil {
		b.Fatal(err)
	}
	var sum time.Duration
	for _, p := range s.Phases {
		switch p.Name {
		case "agents", "pods", "mesh": // pods are wired while the mesh forms
			sum += p.Took
		}
	}
	return sum
}
