package netns

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// processes is the supervisor's table of children. As process 1 of its PID
// namespace the supervisor inherits every orphan of the lab, so one loop waits
// for all children and tells each owner; nothing else may wait, but what lend
// calls.
type processes struct {
	mu   sync.Mutex
	done map[int]chan<- syscall.WaitStatus
}

// newProcesses starts the loop.
func newProcesses() *processes {
	p := &processes{done: map[int]chan<- syscall.WaitStatus{}}
	sigchld := make(chan os.Signal, 1)
	signal.Notify(sigchld, unix.SIGCHLD)
	go func() {
		for range sigchld {
			p.reap()
		}
	}()
	return p
}

func (p *processes) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ch, ok := p.done[pid]; ok {
			delete(p.done, pid)
			ch <- status
		}
	}
}

// lend calls fn, which may start processes of its own and wait for them. None
// is reaped until it returns: the loop cannot tell its children from orphans.
func (p *processes) lend(fn func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fn()
}

// child is a process that the supervisor started.
type child struct {
	pid int
	// exited gives the wait status, once.
	exited <-chan syscall.WaitStatus
}

// start runs argv with the namespaces of the calling OS thread. The program
// is looked up in PATH as the calling thread's mount namespace has it.
func (p *processes) start(argv, env []string, dir string, files []*os.File, session *syscall.SysProcAttr) (*child, error) {
	path, err := lookPath(argv[0], env)
	if err != nil {
		return nil, err
	}
	fds := make([]uintptr, len(files))
	for i, f := range files {
		fds[i] = f.Fd()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Dir: dir, Env: env, Files: fds, Sys: session})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	exited := make(chan syscall.WaitStatus, 1)
	p.done[pid] = exited
	return &child{pid: pid, exited: exited}, nil
}

// lookPath finds a program in the PATH of env.
func lookPath(name string, env []string) (string, error) {
	for i := len(env) - 1; i >= 0; i-- {
		path, ok := cutEnv(env[i], "PATH")
		if !ok {
			continue
		}
		return findIn(path, name)
	}
	return exec.LookPath(name)
}

func exitCode(s syscall.WaitStatus) int {
	if s.Signaled() {
		return 128 + int(s.Signal())
	}
	return s.ExitStatus()
}

func describeExit(s syscall.WaitStatus) string {
	if s.Signaled() {
		return fmt.Sprintf("killed by signal %d (%s)", s.Signal(), unix.SignalName(s.Signal()))
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}
