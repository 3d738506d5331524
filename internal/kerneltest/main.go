// Command kerneltest runs tests on another kernel than the machine's: on
// Debian's, which has what many a container's or VM's kernel lacks (IP-in-IP,
// WireGuard, ESP). It fetches the kernel, builds the programs and the test
// binaries, packs them with the machine's own tools into a file system in
// memory, boots that in QEMU, and prints what the tests say as `go test -json`
// would, so that each counts as passed, failed or skipped here:
//
//	go run ./internal/kerneltest | go run ./internal/testsum
//
// With arguments it runs those as a shell command there instead, prints its
// output, and ends as it ends:
//
//	go run ./internal/kerneltest 'overlab up ipip && overlab test'
//
// Nothing of the machine is changed: the kernel lies in the user's cache
// folder, everything else in a temporary one. It needs Debian's apt-get and
// dpkg, qemu-system-x86_64 and busybox-static, and no root.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// errFailed says that a test or a command failed; what was said before tells
// more.
var errFailed = errors.New("not everything passed on the other kernel")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	o := options{progress: os.Stderr, out: os.Stdout}
	flag.StringVar(&o.pkg, "package", "linux-image-cloud-amd64", "Debian's package of the kernel")
	flag.StringVar(&o.cache, "cache", "", "folder that keeps the kernel (default overlab/kernel in the user's cache folder)")
	flag.StringVar(&o.accel, "accel", "auto", "kvm, tcg (emulation), or auto: kvm where it works")
	flag.IntVar(&o.memory, "memory", 3072, "the machine's memory in MiB")
	timeout := flag.Duration("timeout", 20*time.Minute, "what the machine may take")
	flag.Parse()
	ctx, cancel := context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("no end after %v", *timeout))
	defer cancel()
	o.command = strings.Join(flag.Args(), " ")
	err := o.run(ctx)
	var failed *exitError
	var lack *lackError
	switch {
	case errors.As(err, &failed):
		os.Exit(failed.code)
	case errors.Is(err, errFailed):
		os.Exit(1)
	case o.command == "" && errors.As(err, &lack) && ctx.Err() == nil:
		err = skipAll(o.out, lack)
	case o.command == "" && err != nil:
		err = errors.Join(err, fail(o.out, err))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "kerneltest:", err)
		os.Exit(2)
	}
}

// options are the command line.
type options struct {
	pkg, cache, accel string
	memory            int // MiB
	// command runs in place of the suites, unless it is empty.
	command string
	// progress is for a person, out for what the tests print.
	progress, out io.Writer
}

// exitError is the exit code of a command that failed.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func (o *options) say(format string, a ...any) { fmt.Fprintf(o.progress, format+"\n", a...) }

// run does everything.
func (o *options) run(ctx context.Context) error {
	if o.cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("find the cache folder: %w; name one with -cache", err)
		}
		o.cache = filepath.Join(dir, "overlab", "kernel")
	}
	if err := need("apt-get", "dpkg", "qemu-system-x86_64", "busybox", "go"); err != nil {
		return &lackError{err}
	}
	k, err := fetchKernel(ctx, o.cache, o.pkg, o.say)
	if err != nil {
		return &lackError{fmt.Errorf("there is no other kernel to test on: %w", err)}
	}
	tmp, err := os.MkdirTemp("", "overlab-kernel")
	if err != nil {
		return fmt.Errorf("make a folder for the image: %w", err)
	}
	defer os.RemoveAll(tmp) // it is only a copy
	start := time.Now()
	jobs, err := build(ctx, tmp, o.command)
	if err != nil {
		return err
	}
	o.say("built in %.0f s", time.Since(start).Seconds())
	image := filepath.Join(tmp, "image.cpio")
	if err := pack(image, k, tmp, jobs); err != nil {
		return err
	}
	m := machine{kernel: k.image, initrd: image, memory: o.memory, accel: o.accel, dir: tmp, say: o.say}
	start = time.Now()
	err = o.follow(ctx, &m, jobs)
	o.say("%s ran for %.0f s", k.version, time.Since(start).Seconds())
	return err
}

// follow runs the machine and hands on what its jobs print.
func (o *options) follow(ctx context.Context, m *machine, jobs []order.Job) error {
	results := newResults(o.out, jobs, o.command != "")
	if err := m.run(ctx, results.take); err != nil {
		return errors.Join(err, results.close())
	}
	return results.close()
}
