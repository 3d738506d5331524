package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// suite is a package whose tests need the other kernel, and which of them.
type suite struct{ pkg, run string }

// suites are what runs on the other kernel: what a kernel without IP-in-IP,
// WireGuard and ESP skips.
func suites() []suite {
	return []suite{
		{"agent", "^(TestIPIP|TestIPsec|TestWireGuard)"},
		{"agent/datapath", "."},
		{"labs", "^TestLabs$/^(ipip|ipsec|wireguard)$"},
		{"cmd/overlab", "^TestDiffOfLabs$/^(ipip|ipsec|wireguard)$"},
		{"cmd/overlab", "^TestMutation$/^ipsec$"},
		{"labs", "^TestExercises$/^(ipip|ipsec|wireguard)$"},
	}
}

const module = "github.com/overlab/overlab/"

// Where things lie in the guest.
const (
	guestBin   = "/project/bin"
	guestTests = "/project/tests"
	guestFiles = "/project/src"
)

// build compiles what the guest runs into folders of dir: the programs (bin),
// the test binaries (tests) and process 1 (init).
func build(ctx context.Context, dir, command string) ([]order.Job, error) {
	if err := goBuild(ctx, "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "bin")+"/", "./cmd/..."); err != nil {
		return nil, err
	}
	if err := goBuild(ctx, "build", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"), "./internal/kerneltest/guest"); err != nil {
		return nil, err
	}
	if command != "" {
		return []order.Job{{Dir: "/root", Command: []string{"/bin/sh", "-c", command}}}, nil
	}
	var jobs []order.Job
	built := map[string]bool{}
	for _, s := range suites() {
		name := strings.ReplaceAll(s.pkg, "/", "-") + ".test"
		if !built[name] {
			if err := goBuild(ctx, "test", "-c", "-ldflags=-s -w", "-o", filepath.Join(dir, "tests", name), "./"+s.pkg); err != nil {
				return nil, err
			}
			built[name] = true
		}
		jobs = append(jobs, order.Job{
			Name: module + s.pkg, Dir: path.Join(guestFiles, s.pkg),
			Command: []string{path.Join(guestTests, name), "-test.v=test2json", "-test.timeout=10m", "-test.run=" + s.run},
		})
	}
	return jobs, nil
}

// goBuild runs the go command in the module's folder.
func goBuild(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// need names the programs that are not there.
func need(programs ...string) error {
	packages := map[string]string{"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}
	var errs []error
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		mend := "this needs Debian"
		if pkg := packages[p]; pkg != "" {
			mend = "sudo apt-get install " + pkg
		}
		errs = append(errs, fmt.Errorf("there is no %s: %s", p, mend))
	}
	return errors.Join(errs...)
}
