package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// lockedBuffer may be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// captureDuring runs a capture, sends a ping from pod-3 on node-1 to pod-5 on
// node-2 once it captures, and ends it with a signal unless that is 0.
func captureDuring(t *testing.T, o *overlab, end syscall.Signal, args ...string) (out, errs string) {
	t.Helper()
	cmd := o.command(append([]string{"capture"}, args...)...)
	var stdout, stderr lockedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it captures", func() bool { return strings.Contains(stderr.String(), "capturing on") })
	o.must(t, "test", "TTL-03")
	if end != 0 {
		if err := cmd.Process.Signal(end); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("capture %v: %v\n%s", args, err, stderr.String())
	}
	return stdout.String(), stderr.String()
}

func TestCapture(t *testing.T) {
	o := labUp(t)
	t.Run("lines, until the count", func(t *testing.T) {
		out, errs := captureDuring(t, o, 0, "node-1:eth0", "node-2:eth0", "vxlan and inner icmp", "-c", "4")
		if strings.Count(out, "\n") != 4 || !strings.Contains(out, " vxlan 1: 10.244.") || !strings.Contains(out, "node-1:eth0 ") {
			t.Errorf("%s", out)
		}
		if strings.Count(errs, ", 0 dropped") != 2 {
			t.Errorf("%s", errs)
		}
	})
	t.Run("a file, until Ctrl-C", func(t *testing.T) {
		need(t, "tshark")
		file := filepath.Join(t.TempDir(), "x.pcapng")
		_, errs := captureDuring(t, o, syscall.SIGINT, "node-1:eth0", "node-2:cni0", "icmp or inner icmp", "-w", file, "--decode")
		if !strings.Contains(errs, " ICMP echo request") {
			t.Errorf("%s", errs)
		}
		b, err := exec.Command("tshark", "-r", file, "-d", "udp.port==8472,vxlan", "-T", "fields", "-e", "frame.interface_name", "-e", "vxlan.vni", "-e", "icmp.type").Output()
		if err != nil || !strings.Contains(string(b), "node-1:eth0\t1\t8") || !strings.Contains(string(b), "node-2:cni0\t\t0") {
			t.Errorf("tshark reads %s; %v", b, err)
		}
	})
	t.Run("a pipe whose reader goes", func(t *testing.T) {
		need(t, "sh")
		cmd := exec.Command("sh", "-c", `"$0" capture node-1:eth0 -w - | head -c 1 >/dev/null`, program())
		cmd.Env = o.env
		var errs lockedBuffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it captures", func() bool { return strings.Contains(errs.String(), "capturing on") })
		o.must(t, "test", "TTL-03")
		if err := cmd.Wait(); err != nil || strings.Contains(errs.String(), "broken pipe") {
			t.Errorf("%v\n%s", err, errs.String())
		}
	})
	t.Run("what is wrong", func(t *testing.T) {
		for _, c := range []struct{ args, says string }{
			{"node-1:eth0 icmp hots", "column 6"},
			{"node-9:eth0", "node-9"},
			{"node-1:eth9", "node-1:eth9"},
		} {
			if r := o.run(t, append([]string{"capture"}, strings.Fields(c.args)...)...); r.code != exitBroken || !strings.Contains(r.err, c.says) {
				t.Errorf("%s: %s", c.args, r)
			}
		}
	})
}
