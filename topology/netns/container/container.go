package container

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// A Pod is what a container is made of besides its image.
type Pod struct {
	// Name is the pod's name, ID its container's.
	Name, ID string
	// Net and UTS are the paths of the namespaces that the container joins.
	Net, UTS string
	// Command is the program in place of the image's own.
	Command []string
	// Env are variables besides the image's.
	Env []string
	// Files maps paths in the container to files that are mounted there.
	Files map[string]string
	// Log is the path of the file that takes what the program prints.
	Log string
}

// Container is a pod's running container.
type Container struct {
	// pidfd is the program, through which its namespaces are entered. A number
	// could be another process's by then.
	pidfd   int
	process *specs.Process
	mu      sync.Mutex
	status  topology.ContainerStatus
}

// Start makes a pod's container and starts its program.
func (r *Runtime) Start(ctx context.Context, i *Image, p Pod) (*Container, error) {
	ctx = r.context(ctx)
	var spec oci.Spec
	made, err := r.client.NewContainer(ctx, p.ID,
		containerd.WithImage(i),
		containerd.WithSnapshotter(r.snapshotter),
		containerd.WithNewSnapshot(p.ID, i),
		r.runtime(),
		containerd.WithSpec(&spec, oci.WithDefaultSpec(), oci.WithImageConfigArgs(i, nil), p.spec))
	if err != nil {
		return nil, fmt.Errorf("make the container of pod %s: %w", p.Name, err)
	}
	task, err := made.NewTask(ctx, cio.LogFile(p.Log))
	if err != nil {
		return nil, fmt.Errorf("start the program of pod %s, %q: %w", p.Name, spec.Process.Args, err)
	}
	// From now on it would be noticed if the program ended at once.
	ended, err := task.Wait(r.context(context.WithoutCancel(ctx)))
	if err != nil {
		return nil, fmt.Errorf("watch the container of pod %s: %w", p.Name, err)
	}
	c := &Container{process: spec.Process, status: topology.ContainerStatus{
		Pod: p.Name, ID: p.ID, Image: i.Name(), Digest: i.Target().Digest.String(), PID: int(task.Pid()), Log: p.Log,
	}}
	if c.pidfd, err = unix.PidfdOpen(c.status.PID, 0); err != nil {
		return nil, fmt.Errorf("find the container of pod %s: %w", p.Name, err)
	}
	if err := task.Start(ctx); err != nil {
		return nil, fmt.Errorf("start the program of pod %s, %q: %w", p.Name, spec.Process.Args, errors.Join(err, unix.Close(c.pidfd)))
	}
	c.status.State, c.status.Started = topology.ContainerRunning, time.Now()
	go c.watch(ended)
	return c, nil
}

// watch notes how the program ended.
func (c *Container) watch(ended <-chan containerd.ExitStatus) {
	how := <-ended
	code, at, err := how.Result()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil { // the program may well run on
		c.status.State, c.status.LastExit = topology.ContainerUnknown, "containerd has gone: "+err.Error()
		return
	}
	c.status.State, c.status.LastExit = topology.ContainerEnded, describeExit(code)
	c.status.PID, c.status.Ended = 0, at
}

// describeExit reads the exit code of a runtime, which has 128+N for signal N.
func describeExit(code uint32) string {
	if n := syscall.Signal(code) - 128; code > 128 && unix.SignalName(n) != "" {
		return fmt.Sprintf("killed by signal %d (%s)", n, unix.SignalName(n))
	}
	return fmt.Sprintf("exit code %d", code)
}

// Status describes the container now.
func (c *Container) Status() topology.ContainerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// spec is what a lab changes of containerd's own idea of a container.
func (p Pod) spec(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	if len(p.Command) > 0 {
		s.Process.Args = p.Command
	}
	if len(s.Process.Args) == 0 {
		return errors.New("the image names no program; write the pod's command")
	}
	s.Process.Env = append(s.Process.Env, p.Env...)
	// As Kubernetes' default has it: a pod's setuid programs work.
	s.Process.NoNewPrivileges = false
	if err := limitCapabilities(s.Process.Capabilities); err != nil {
		return err
	}
	for i, n := range s.Linux.Namespaces {
		switch n.Type {
		case specs.NetworkNamespace:
			s.Linux.Namespaces[i].Path = p.Net
		case specs.UTSNamespace:
			s.Linux.Namespaces[i].Path = p.UTS
		}
	}
	// A control group would be on the host and outlive the lab (see Wrapper).
	s.Linux.CgroupsPath, s.Linux.Resources = "", nil
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.CgroupNamespace })
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" })
	for _, to := range slices.Sorted(maps.Keys(p.Files)) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: to, Source: p.Files[to], Type: "bind", Options: []string{"bind", "rw"}})
	}
	return nil
}

// limitCapabilities leaves out those that this process has not, and so cannot
// give: in a container, root has few.
func limitCapabilities(c *specs.LinuxCapabilities) error {
	mine, err := cap.Current()
	if err != nil {
		return fmt.Errorf("read the process's capabilities: %w", err)
	}
	for _, set := range []*[]string{&c.Bounding, &c.Permitted, &c.Effective, &c.Inheritable, &c.Ambient} {
		*set = slices.DeleteFunc(*set, func(name string) bool { return !slices.Contains(mine, name) })
	}
	return nil
}
