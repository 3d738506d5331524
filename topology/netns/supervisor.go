package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// Descriptors that the supervisor inherits from `overlab up`.
const (
	reportFD = 3 // the pipe on which it reports its progress
	lockFD   = 4 // the state folder's lock, held as long as the lab lives
)

// SuperviseOptions tell the supervisor what `overlab up` decided.
type SuperviseOptions struct {
	// StateDir is the lab's state folder, with the plan in it.
	StateDir string
	// Programs maps names in the lab's PATH to files of the host: overlabd is
	// the bundled agent.
	Programs map[string]string
	// Containers are what pods that are containers need.
	Containers ContainerOptions
	// Created is when `overlab up` was called.
	Created time.Time
}

// report is one line that the supervisor writes while it comes up.
type report struct {
	Phase *topology.Phase `json:"phase,omitempty"`
	Error string          `json:"error,omitempty"`
	Ready bool            `json:"ready,omitempty"`
}

// lab is a running lab as its supervisor knows it.
type lab struct {
	plan   *topology.Plan
	opts   SuperviseOptions
	procs  *processes
	spaces map[string]*space
	agents map[string]*agent
	// store is nil while it is ended.
	store *store
	// containers are the pods', where they have any.
	containers containers
	// storeHeld is locked while the store is ended for a client, and whenever it
	// is ended or started.
	storeHeld sync.Mutex
	ended     ended
	phases    []topology.Phase
	reports   *json.Encoder
}

// Supervise is the main function of a lab's supervisor: process 1 of fresh
// PID, mount, network and UTS namespaces (and of a user namespace when not
// started by root). It builds the lab, reports on descriptor 3, and serves the
// control socket until it is killed. When it ends, however it ends, the kernel
// ends every process of the lab and removes every namespace, link and mount.
func Supervise(ctx context.Context, o SuperviseOptions) error {
	pipe := os.NewFile(reportFD, "report")
	unix.CloseOnExec(reportFD)
	unix.CloseOnExec(lockFD)
	l := &lab{
		opts: o, procs: newProcesses(),
		spaces: map[string]*space{}, agents: map[string]*agent{},
		ended:   ended{releases: map[string]func(context.Context) error{}},
		reports: json.NewEncoder(pipe),
	}
	ctx, stop := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	go watchParent(pipe, cancel)

	if err := l.comeUp(ctx); err != nil {
		_ = l.reports.Encode(report{Error: err.Error()})
		return err
	}
	// From here on a signal ends the lab; none may fall between the two.
	down := make(chan os.Signal, 1)
	signal.Notify(down, unix.SIGTERM, unix.SIGINT)
	stop()
	if err := l.reports.Encode(report{Ready: true}); err != nil {
		l.forget()
		return fmt.Errorf("report that the lab is ready: %w", err)
	}
	slog.Info("ended by a signal", "signal", <-down)
	l.forget()
	return nil
}

// watchParent cancels when `overlab up` goes away before the lab is ready:
// nobody would know of it.
func watchParent(pipe *os.File, cancel context.CancelCauseFunc) {
	poll := []unix.PollFd{{Fd: int32(pipe.Fd())}}
	for {
		_, err := unix.Poll(poll, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		cancel(errors.New("the command that brought the lab up went away"))
		return
	}
}

// forget removes what the state folder holds, save the lock: without one, no
// command would know the folder for a lab's and clear the rest, which is the
// mount point that the lab still uses.
func (l *lab) forget() {
	entries, err := os.ReadDir(stateLink)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != lockFile {
			_ = os.RemoveAll(filepath.Join(stateLink, e.Name()))
		}
	}
}

// comeUp builds the lab and opens its control socket.
func (l *lab) comeUp(ctx context.Context) error {
	p, err := readPlan(filepath.Join(l.opts.StateDir, planFile))
	if err != nil {
		return err
	}
	l.plan = p
	programs, err := openPrograms(l.opts.Programs)
	if err != nil {
		return err
	}
	plugins, err := openPlugins(p)
	if err != nil {
		return err
	}
	images, err := openImages(p, l.opts.Containers)
	if err != nil {
		return err
	}
	dir, err := os.Open(l.opts.StateDir)
	if err != nil {
		return fmt.Errorf("open the state folder: %w", err)
	}
	defer dir.Close()
	if err := mountLab(dir); err != nil {
		return err
	}
	if err := linkPrograms(binFolder, programs); err != nil {
		return err
	}
	if err := linkPlugins(plugins, programs); err != nil {
		return err
	}
	if err := writeShellStart(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(p.Name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := os.Mkdir(logsFolder, 0o700); err != nil {
		return fmt.Errorf("make the logs' folder: %w", err)
	}
	if err := l.build(ctx, images); err != nil {
		return err
	}
	listener, err := listen(stateLink)
	if err != nil {
		return err
	}
	go l.serve(listener)
	return nil
}

// openPrograms opens the host's files before the lab's mounts can hide them.
func openPrograms(programs map[string]string) (map[string]int, error) {
	open := map[string]int{}
	for name, path := range programs {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s for the lab: %s: %w", name, path, err)
		}
		open[name] = fd
	}
	return open, nil
}

// linkPrograms puts the programs into a folder of the lab's.
func linkPrograms(folder string, programs map[string]int) error {
	for name, fd := range programs {
		if err := os.Symlink(fdPath(fd), filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("put %s into the lab's %s: %w", name, folder, err)
		}
	}
	return nil
}

// status describes the lab now.
func (l *lab) status() topology.Status {
	s := topology.Status{
		Name: l.plan.Name, Provider: "netns", Created: l.opts.Created, State: "running",
		Nodes: len(l.plan.Nodes), Pods: len(l.plan.Pods), Phases: l.phases, Dir: l.opts.StateDir,
	}
	for i := range l.plan.Nodes {
		running := l.agents[l.plan.Nodes[i].Name]
		if running == nil {
			continue // it is programmed by hand
		}
		a := running.Status()
		a.Log = filepath.Join(l.opts.StateDir, logFolder, filepath.Base(a.Log))
		s.Agents = append(s.Agents, a)
	}
	return s
}
