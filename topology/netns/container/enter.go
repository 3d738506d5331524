package container

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/cap"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology"
)

// entered are the namespaces that a command in a container shares with it.
const entered = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWNET

// Do calls fn on an OS thread that is thrown away, inside the container: it
// sees the image's files, and the processes that it starts are the container's,
// with no more capabilities than those have. Unlike an exec through containerd
// it hands over descriptors and terminals as they are, so that signals, exit
// codes and job control are those of the process itself.
func (c *Container) Do(fn func() error) error {
	if s := c.Status(); s.State == topology.ContainerEnded {
		return fmt.Errorf("the container of pod %s does not run: %s", s.Pod, s.LastExit)
	}
	return netns.Thread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare file system state: %w", err)
		}
		if err := unix.Setns(c.pidfd, entered); err != nil {
			return c.refused(err)
		}
		if err := c.dropCapabilities(); err != nil {
			return err
		}
		return fn()
	})
}

// refused explains why a container cannot be entered.
func (c *Container) refused(err error) error {
	s := c.Status()
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("the container of pod %s has just ended", s.Pod)
	}
	return fmt.Errorf("enter the container of pod %s: %w", s.Pod, err)
}

// dropCapabilities takes what the container has not out of the calling
// thread's bounding set: a program of root's that it starts has what is left.
func (c *Container) dropCapabilities() error {
	for number, name := range cap.Known() { // in the kernel's order
		if slices.Contains(c.process.Capabilities.Bounding, name) {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: the kernel knows none of that number
			return fmt.Errorf("give up %s: %w", name, err)
		}
	}
	return nil
}

// Dir is the working directory of the container's program.
func (c *Container) Dir() string { return c.process.Cwd }

// Environment is that of the container's program.
func (c *Container) Environment() []string { return slices.Clone(c.process.Env) }

// Credential is the user that the container's program runs as, nil for root.
func (c *Container) Credential() *syscall.Credential {
	u := c.process.User
	if u.UID == 0 && u.GID == 0 {
		return nil
	}
	return &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.AdditionalGids}
}
