package kind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology"
)

// namespace is a node or pod. Processes that are run there have its network and
// name, the node's files, and this machine's process numbers. The pod's own image
// need not have any program.
type namespace struct {
	name string
	// set is the node's or pod's own.
	set *netns.Set
	// view is what probes and processes run in: as set, but with this machine's
	// /proc, in which the calling process finds itself, and an agent the number
	// that the lab's status gives for it.
	view *netns.Set
}

var (
	_ topology.Namespace = (*namespace)(nil)
	_ topology.Local     = (*namespace)(nil)
	_ topology.Sheller   = (*namespace)(nil)
)

// openNode opens a node by the name of its container.
func (v *viewer) openNode(ctx context.Context, name, host string) (*namespace, error) {
	pid, err := v.process(ctx, host)
	if err != nil {
		return nil, err
	}
	set, err := netns.Open(nsPath(pid, "net"), nsPath(pid, "mnt"), nsPath(pid, "uts"))
	if err != nil {
		return nil, fmt.Errorf("open node %s: %w", name, err)
	}
	return newNamespace(name, set)
}

// openPod opens a pod of the plan on a node.
func (v *viewer) openPod(ctx context.Context, name, host string) (*namespace, error) {
	pid, err := v.process(ctx, host)
	if err != nil {
		return nil, err
	}
	attached, err := attachments(pid)
	if err != nil {
		return nil, err
	}
	a, ok := attached[podNamespace+"/"+name]
	if !ok {
		return nil, fmt.Errorf("the pod %s is not on node %s any more", name, host)
	}
	set, err := netns.Open("", nsPath(pid, "mnt"), "")
	if err != nil {
		return nil, fmt.Errorf("open pod %s: %w", name, err)
	}
	if set.Net, err = openInside(pid, a.sandbox()); err == nil {
		err = podHostname(set)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open pod %s: %w", name, err), set.Close())
	}
	return newNamespace(name, set)
}

func nsPath(pid int, kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", pid, kind) }

// openInside opens a file by its path as a process of the node sees it; its
// links lead to the node's files.
func openInside(pid int, path string) (int, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return -1, fmt.Errorf("open %s on the node: %w", path, err)
	}
	return fd, nil
}

// podHostname adds the UTS namespace of the processes that are in the set's
// network namespace.
func podHostname(set *netns.Set) error {
	var of unix.Stat_t
	if err := unix.Fstat(set.Net, &of); err != nil {
		return err
	}
	pids, err := processes(func(pid int) bool { return inNet(pid, of.Ino) })
	if err != nil || len(pids) == 0 {
		return errors.Join(err, errors.New("no process is in its network namespace"))
	}
	set.UTS, err = unix.Open(nsPath(pids[0], "uts"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return err
}

func inNet(pid int, inode uint64) bool {
	var st unix.Stat_t
	return unix.Stat(nsPath(pid, "net"), &st) == nil && st.Ino == inode
}

// processes lists those that the function accepts.
func processes(accept func(pid int) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && accept(pid) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// programIn finds a program that runs in the network namespace of a process; 0
// if none does.
func programIn(pid int, program string) (int, error) {
	var of unix.Stat_t
	if err := unix.Stat(nsPath(pid, "net"), &of); err != nil {
		return 0, fmt.Errorf("look at process %d: %w", pid, err)
	}
	pids, err := processes(func(p int) bool {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p))
		return err == nil && strings.TrimSpace(string(comm)) == program && inNet(p, of.Ino)
	})
	if err != nil || len(pids) == 0 {
		return 0, err
	}
	return pids[0], nil
}

func newNamespace(name string, set *netns.Set) (*namespace, error) {
	n := &namespace{name: name, set: set, view: &netns.Set{Net: -1, Mount: -1, UTS: -1}}
	if err := n.makeView(); err != nil {
		return nil, errors.Join(fmt.Errorf("look into %s: %w", name, err), n.Close())
	}
	return n, nil
}

// makeView makes a mount namespace from the node's, with this machine's /proc
// in place of the node's: a process that enters from outside has no number in
// the latter, so that /proc/self would lead nowhere.
func (n *namespace) makeView() (err error) {
	if n.view.Net, err = unix.FcntlInt(uintptr(n.set.Net), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	if n.view.UTS, err = unix.FcntlInt(uintptr(n.set.UTS), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return err
	}
	proc, err := unix.OpenTree(unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("copy the mount of /proc: %w", err)
	}
	defer unix.Close(proc)
	return n.set.Do(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("copy the node's mounts: %w", err)
		}
		// What the node mounts later is to be seen, and nothing to get back.
		if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("part from the node's mounts: %w", err)
		}
		if err := unix.MoveMount(proc, "", unix.AT_FDCWD, "/proc", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount /proc: %w", err)
		}
		n.view.Mount, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
}

// Name implements topology.Namespace.
func (n *namespace) Name() string { return n.name }

// Close lets go of the namespaces.
func (n *namespace) Close() error { return errors.Join(n.set.Close(), n.view.Close()) }

// Do implements topology.Local.
func (n *namespace) Do(fn func() error) error { return n.view.Do(fn) }

// Dial implements topology.Local.
func (n *namespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.view.Dial(ctx, network, address)
}

// searchPath is where programs lie on a node.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/cni/bin"

// Run implements topology.Namespace.
func (n *namespace) Run(ctx context.Context, p topology.Process) (int, error) {
	cmd := &exec.Cmd{
		Args: p.Argv, Dir: p.Dir, Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr,
		// Two that the caller's environment has for its own machine.
		Env: append(append([]string{}, p.Env...), "PATH="+searchPath, "HOSTNAME="+n.name),
		// On a terminal the process shares this one's: keys that mean signals
		// reach both.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: !p.TTY},
	}
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	err := n.view.Do(func() (err error) {
		if cmd.Path, err = lookPath(p.Argv[0]); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return 0, unstarted(n.name, p.Argv[0], err)
	}
	return wait(ctx, cmd, p)
}

// Shell implements topology.Sheller.
func (n *namespace) Shell() topology.Process {
	return topology.Process{
		Argv: []string{"bash", "--norc", "-i"},
		Env:  []string{`PS1=root@` + n.name + `:\w# `, "HOME=/root"},
	}
}

// wait waits for the end of a process, and passes signals on.
func wait(ctx context.Context, cmd *exec.Cmd, p topology.Process) (int, error) {
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-p.Signals:
			if p.TTY && (s == unix.SIGINT || s == unix.SIGQUIT) {
				continue // the terminal has sent it to the process too
			}
			_ = cmd.Process.Signal(s) // it may have just ended
		case <-ctx.Done():
			_ = cmd.Process.Kill()
			<-ended
			return 0, fmt.Errorf("run %s: %w", p.Argv[0], context.Cause(ctx))
		case err := <-ended:
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return 0, fmt.Errorf("run %s: %w", p.Argv[0], err)
			}
			status := cmd.ProcessState.Sys().(syscall.WaitStatus)
			if status.Signaled() {
				return 128 + int(status.Signal()), nil
			}
			return status.ExitStatus(), nil
		}
	}
}

// unstarted says why a process could not be started, as a shell would.
func unstarted(space, program string, err error) error {
	reason := fmt.Sprintf("run %s in %s: %v", program, space, err)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return &topology.StartError{Code: 127, Reason: reason}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.ENOEXEC):
		return &topology.StartError{Code: 126, Reason: reason}
	}
	return errors.New(reason)
}

// lookPath finds a program among the files of the calling thread.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for dir := range strings.SplitSeq(searchPath, ":") {
		path := filepath.Join(dir, name)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s", exec.ErrNotFound, searchPath)
}
