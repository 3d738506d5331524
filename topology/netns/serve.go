package netns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/netns"
)

// acceptPause is the pause after a connection that could not be accepted, as for
// want of descriptors: it is tried again.
const acceptPause = 100 * time.Millisecond

// serve answers the control socket for the rest of the lab's life.
func (l *lab) serve(listener *net.UnixListener) {
	for {
		conn, err := listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			slog.Error("accept control connection", "error", err)
			time.Sleep(acceptPause)
			continue
		}
		go func() {
			defer conn.Close()
			if err := l.answer(newPeer(conn)); err != nil {
				slog.Warn("control connection", "error", err)
			}
		}()
	}
}

// answer handles one connection.
func (l *lab) answer(p *peer) error {
	cred, err := p.credentials()
	if err != nil {
		return err
	}
	if cred.Uid != uint32(os.Getuid()) {
		return fmt.Errorf("refused user %d", cred.Uid)
	}
	var req request
	files, err := p.receive(&req)
	if errors.Is(err, errHungUp) {
		return nil // somebody asked only whether the lab lives
	}
	if err != nil {
		return err
	}
	defer closeAll(files)
	switch req.Op {
	case opStatus:
		s := l.status()
		return p.send(response{Status: &s})
	case opContainers:
		all := l.containerStatus()
		from := min(max(req.From, 0), len(all))
		return p.send(response{Containers: all[from:min(from+containersPerMessage, len(all))]})
	case opRestart:
		return p.send(l.restartAgent(req.Node))
	case opHold:
		return l.hold(p, req.Node)
	case opEnd, opStart:
		return p.send(l.keepEnded(req.Op, req.Node))
	case opRun:
		return l.run(p, req, files)
	default:
		return p.send(response{Error: fmt.Sprintf("unknown operation %q", req.Op)})
	}
}

func (l *lab) restartAgent(node string) response {
	a := l.agents[node]
	if a == nil {
		return response{Error: fmt.Sprintf("no node %s with an agent in lab %s", node, l.plan.Name)}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*restartMost)
	defer cancel()
	if err := a.restart(ctx); err != nil {
		return response{Error: err.Error()}
	}
	return response{}
}

// hold keeps a node's agent, or the store, ended for as long as the client
// wants and lives.
func (l *lab) hold(p *peer, node string) error {
	ctx, cancel := holdTime()
	defer cancel()
	release, err := l.end(ctx, node)
	if err != nil {
		return p.send(response{Error: err.Error()})
	}
	err = p.send(response{})
	if err == nil {
		_, err = p.receive(new(struct{}))
	}
	again, cancel := holdTime()
	defer cancel()
	failed := release(again)
	if err != nil {
		return failed // the client went away: there is nobody to tell
	}
	var resp response
	if failed != nil {
		resp.Error = failed.Error()
	}
	return p.send(resp)
}

// holdTime is how long an agent, or the store, may take to end or to come back.
func holdTime() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), max(2*restartMost, 2*storeTimeout))
}

// end ends a node's agent, or the store where no node is named, until release.
func (l *lab) end(ctx context.Context, node string) (release func(context.Context) error, err error) {
	if node == "" {
		return l.holdStore(ctx)
	}
	a := l.agents[node]
	if a == nil {
		return nil, fmt.Errorf("no node %s with an agent in lab %s", node, l.plan.Name)
	}
	return a.hold(ctx)
}

// ended are the releases of what was ended by opEnd, by node.
type ended struct {
	mu       sync.Mutex
	releases map[string]func(context.Context) error
}

// keepEnded ends an agent or the store, or starts it again.
func (l *lab) keepEnded(op, node string) response {
	ctx, cancel := holdTime()
	defer cancel()
	l.ended.mu.Lock()
	defer l.ended.mu.Unlock()
	release := l.ended.releases[node]
	var err error
	switch {
	case op == opEnd && release == nil:
		if release, err = l.end(ctx, node); err == nil {
			l.ended.releases[node] = release
		}
	case op == opStart && release != nil:
		delete(l.ended.releases, node)
		err = release(ctx)
	case op == opStart && node == "":
		err = l.reviveStore(ctx)
	}
	if err != nil {
		return response{Error: err.Error()}
	}
	return response{}
}

var errStoreHeld = errors.New("the store is held by another command")

// holdStore ends the store, whose data stay.
func (l *lab) holdStore(context.Context) (release func(context.Context) error, err error) {
	if !l.storeHeld.TryLock() {
		return nil, errStoreHeld
	}
	if l.store != nil {
		l.store.stop()
		l.store = nil
	}
	return func(ctx context.Context) error {
		defer l.storeHeld.Unlock()
		return l.restartStore(ctx)
	}, nil
}

// reviveStore starts a store that could not come back when it was let go.
func (l *lab) reviveStore(ctx context.Context) error {
	if !l.storeHeld.TryLock() {
		return errStoreHeld
	}
	defer l.storeHeld.Unlock()
	if l.store != nil {
		return nil
	}
	return l.restartStore(ctx)
}

func (l *lab) restartStore(ctx context.Context) error {
	if err := l.openStore(l.spaces[l.plan.Store.Node]); err != nil {
		return err
	}
	return l.store.wait(ctx)
}

// run runs a process for a client until it ends or the client goes away.
func (l *lab) run(p *peer, req request, files []*os.File) error {
	if len(files) != 3 || len(req.Argv) == 0 {
		return p.send(response{Error: "a run request needs a command and three streams"})
	}
	c, err := l.launch(req, files)
	closeAll(files) // the process holds its own; ours would keep pipes open
	if err != nil {
		return p.send(response{Error: err.Error(), Unstarted: unstarted(err)})
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			var m signalMessage
			if _, err := p.receive(&m); err != nil {
				return
			}
			// To the group, as a terminal does.
			_ = unix.Kill(-c.pid, unix.Signal(m.Signal))
		}
	}()
	select {
	case status := <-c.exited:
		return p.send(response{Exit: exitCode(status)})
	case <-gone:
		return hangUp(c)
	}
}

// unstarted is the code of a StartError, 0 if err is none.
func unstarted(err error) int {
	switch {
	case errors.Is(err, errNoProgram), errors.Is(err, unix.ENOENT):
		return 127
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC):
		return 126
	default:
		return 0
	}
}

// hangUp ends a process whose client is gone, as a lost terminal would, and
// without mercy if it does not care.
func hangUp(c *child) error {
	const patience = 500 * time.Millisecond
	_ = unix.Kill(-c.pid, unix.SIGHUP)
	select {
	case <-c.exited:
	case <-time.After(patience):
		_ = unix.Kill(-c.pid, unix.SIGKILL)
		<-c.exited
	}
	return nil
}

// launch starts the process of a run request.
func (l *lab) launch(req request, files []*os.File) (*child, error) {
	host := l.plan.Name
	enter := netns.Thread
	if req.Space != "" {
		s := l.spaces[req.Space]
		if s == nil {
			return nil, fmt.Errorf("no node, pod or router %s in lab %s", req.Space, l.plan.Name)
		}
		host, enter = s.name, s.enter
	}
	session := &syscall.SysProcAttr{Setsid: true}
	if req.TTY {
		session.Setctty, session.Ctty = true, 0
	}
	if c := l.containers.byPod[req.Space]; c != nil {
		return l.launchIn(c, req, files, session)
	}
	dir := req.Dir
	if dir == "" {
		dir = "/"
	}
	var c *child
	err := enter(func() error {
		var err error
		c, err = l.procs.start(req.Argv, environment(req.Env, host, l.plan.Name), dir, files, session)
		return err
	})
	return c, err
}

// enter calls fn inside the namespace, where a /sys of its own belongs to it.
func (s *space) enter(fn func() error) error {
	return s.set.Do(func() error {
		if s.node != "" && s.node != s.name {
			// A pod sees its node's files, but its own /sys.
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return fmt.Errorf("make a mount namespace for a process of %s: %w", s.name, err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			mountSys()
		}
		return fn()
	})
}
