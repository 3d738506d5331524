package bench

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/topology"
)

// tunnels are the backends whose throughput is measured: the Backend object of
// each.
var tunnels = []struct{ name, backend string }{
	{"host-gw", "{Type: host-gw}"},
	{"udp", "{Type: udp}"},
	{"ipip", "{Type: ipip}"},
	{"wireguard", "{Type: wireguard}"},
}

// streaming in the environment makes the test binary one end of a TCP stream:
// "sink ADDRESS", which prints what it has received, or "source ADDRESS".
const streaming = "OVERLAB_BENCH_STREAM"

const (
	streamPort = ":5201"
	// streamTime is how long one stream lasts.
	streamTime = time.Second
)

// BenchmarkThroughput measures one TCP stream between pods on two nodes, in
// Mbit/s, and its ratio to a stream through the kernel's VXLAN, measured in
// turn with it. Packets never leave the machine, so that all that a stream
// costs is the processor's.
func BenchmarkThroughput(b *testing.B) {
	nstest.Require(b)
	bin := programs(b)
	baseline := upFor(b, bin, "vxlan", "{Type: vxlan}")
	for _, tunnel := range tunnels {
		b.Run(tunnel.name, func(b *testing.B) {
			lab := upFor(b, bin, tunnel.name, tunnel.backend)
			var rate, base float64
			for b.Loop() {
				base += baseline.stream(b)
				rate += lab.stream(b)
			}
			n := float64(b.N)
			b.ReportMetric(rate/n, "Mbit/s")
			b.ReportMetric(base/n, "vxlan-Mbit/s")
			b.ReportMetric(rate/base, "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// streamLab is a lab of two nodes with a pod each.
type streamLab struct {
	bin, name, from, to string
	address             string
}

// upFor brings the lab up until the benchmark ends; what this machine cannot
// run is skipped.
func upFor(b *testing.B, bin, name, backend string) *streamLab {
	b.Helper()
	text := fmt.Sprintf(`apiVersion: %s
kind: Lab
metadata: {name: bench-%s}
spec:
  network: {Backend: %s}
  nodes: [{name: a}, {name: b}]
  podsPerNode: 1
`, topology.APIVersion, name, backend)
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
	if out, err := exec.Command(filepath.Join(bin, "overlab"), "up", file).CombinedOutput(); err != nil {
		b.Skipf("SKIPPED, NOT MEASURED: overlab up: %v\n%s", err, out)
	}
	b.Cleanup(func() { overlab(b, bin, "down", "bench-"+name) })
	pods := plan.Pods
	return &streamLab{bin: bin, name: "bench-" + name, from: pods[0].Name, to: pods[1].Name, address: pods[1].Address.Addr().String() + streamPort}
}

// stream sends for a while, and returns what has arrived, in Mbit/s.
func (l *streamLab) stream(b *testing.B) float64 {
	b.Helper()
	sink := l.command(b, l.to, "sink")
	out, err := sink.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := sink.Start(); err != nil {
		b.Fatal(err)
	}
	defer sink.Process.Kill() // it has ended, or the benchmark failed
	if _, err := fmt.Fscanln(out); err != nil && !strings.Contains(err.Error(), "newline") {
		b.Fatal("the sink does not listen: ", err)
	}
	if out, err := l.command(b, l.from, "source").CombinedOutput(); err != nil {
		b.Fatalf("the source: %v\n%s", err, out)
	}
	var rate float64
	if _, err := fmt.Fscan(out, &rate); err != nil {
		b.Fatal(err)
	}
	if err := sink.Wait(); err != nil {
		b.Fatal(err)
	}
	return rate
}

// command runs the test binary in a pod.
func (l *streamLab) command(b *testing.B, pod, end string) *exec.Cmd {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(l.bin, "overlab"), "exec", "--name", l.name, pod, "--", self)
	cmd.Env = append(os.Environ(), streaming+"="+end+" "+l.address)
	return cmd
}

// streamEnd is the test binary as one end of a stream.
func streamEnd(spec string) error {
	end, address, _ := strings.Cut(spec, " ")
	if end == "source" {
		return source(address)
	}
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	fmt.Println() // it listens
	conn, err := listener.Accept()
	if err != nil {
		return err
	}
	began := time.Now()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 1<<18))
	fmt.Printf("%.0f\n", float64(n)*8/1e6/time.Since(began).Seconds())
	return errors.Join(err, conn.Close(), listener.Close())
}

func source(address string) error {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return err
	}
	data := make([]byte, 1<<18)
	for began := time.Now(); time.Since(began) < streamTime; {
		if _, err := conn.Write(data); err != nil {
			return err
		}
	}
	return conn.Close()
}
