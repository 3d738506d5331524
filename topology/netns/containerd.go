package netns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology/netns/container"
)

// The lab's containerd keeps everything on the lab's tmpfs, its images too, so
// that the kernel clears it all when the supervisor ends.
const (
	containerdFolder = labFolder + "/containerd"
	containerdSocket = containerdFolder + "/containerd.sock"
	containerdLog    = logsFolder + "/" + containerdLogFile
	runcWrapper      = containerdFolder + "/runc"
	podFilesFolder   = containerdFolder + "/pods"
	mountsFolder     = containerdFolder + "/mounts"
	tempFolder       = containerdFolder + "/tmp"
)

const containerdLogFile = "containerd.log"

// containerdTimeout is how long containerd may take to serve: a quarter of a
// second where nothing else runs.
const containerdTimeout = 20 * time.Second

// containerdConfig keeps containerd off the host's folders and without what
// only Kubernetes asks of it. Version 2 of the format is read by containerd
// 1.5 and later, 2.x among them. No process of the lab's may raise its OOM
// score (that takes CAP_SYS_RESOURCE, which root in a container often lacks), and
// without CRI none tries.
const containerdConfig = `version = 2
root = "` + containerdFolder + `/root"
state = "` + containerdFolder + `/state"
temp = "` + tempFolder + `"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "` + containerdSocket + `"
`

// runcScript is what containerd runs as runc. A control group is a folder on
// the host that nobody removes when a lab is killed, so the lab makes none: its
// control groups are mounted read-only for containerd, and runc is told to go
// on without (`runc --rootless`: "ignore cgroup permission errors").
const runcScript = `#!/bin/sh
exec %s --rootless=true "$@"
`

// startContainerd starts the lab's containerd and returns when it serves. Like
// every process of the lab it ends with the supervisor, process 1 of its PID
// namespace, and its shims and containers with it.
func (l *lab) startContainerd(ctx context.Context) (*container.Runtime, error) {
	for _, dir := range []string{podFilesFolder, mountsFolder, tempFolder} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, fmt.Errorf("make containerd's folder: %w", err)
		}
	}
	config := filepath.Join(containerdFolder, "config.toml")
	if err := os.WriteFile(config, []byte(containerdConfig), 0o600); err != nil {
		return nil, fmt.Errorf("write containerd's configuration: %w", err)
	}
	if err := os.WriteFile(runcWrapper, fmt.Appendf(nil, runcScript, l.opts.Containers.Runc), 0o700); err != nil {
		return nil, fmt.Errorf("write containerd's runtime: %w", err)
	}
	daemon, err := l.launchContainerd(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, containerdTimeout, fmt.Errorf("not after %s", containerdTimeout))
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	go func() {
		select {
		case how := <-daemon.exited:
			ended(fmt.Errorf("it ended: %s", describeExit(how)))
		case <-ctx.Done():
		}
	}()
	r, err := container.Connect(ctx, container.Options{Address: containerdSocket, Runc: runcWrapper, Temp: mountsFolder})
	if err != nil {
		return nil, fmt.Errorf("%w; its log ends with:\n    %s", err, strings.Join(lastLines(containerdLog), "\n    "))
	}
	return r, nil
}

// launchContainerd starts the process, in a mount namespace of its own.
func (l *lab) launchContainerd(config string) (*child, error) {
	log, err := os.OpenFile(containerdLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open containerd's log: %w", err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	var c *child
	err = netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return fmt.Errorf("make a mount namespace for containerd: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		if err := protectCgroups(); err != nil {
			return err
		}
		env := append(environment(os.Environ(), l.plan.Name, l.plan.Name), "TMPDIR="+tempFolder)
		var err error
		c, err = l.procs.start([]string{l.opts.Containers.Containerd, "--config", config}, env, "/",
			[]*os.File{null, log, log}, &syscall.SysProcAttr{Setsid: true})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	return c, nil
}

// protectCgroups makes the control groups read-only in the calling thread's
// mount namespace.
func protectCgroups() error {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	defer f.Close()
	var errs []error
	for lines := bufio.NewScanner(f); lines.Scan(); {
		target, ok := cgroupMount(lines.Text())
		if !ok {
			continue
		}
		// EINVAL: another mount lies over it by now.
		err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		if err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("make the control groups %s read-only: %w", target, err))
		}
	}
	return errors.Join(errs...)
}

// cgroupMount returns where control groups are mounted, of a line of mountinfo
// (proc(5)): the fifth field, and the file system's type after the dash.
func cgroupMount(line string) (target string, ok bool) {
	before, after, found := strings.Cut(line, " - ")
	fields := strings.Fields(before)
	if !found || len(fields) < 5 || !strings.HasPrefix(after, "cgroup") {
		return "", false
	}
	return unescape.Replace(fields[4]), true
}

// unescape undoes what the kernel does to spaces in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
