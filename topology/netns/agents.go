package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// healthzPort is where every agent answers /healthz and /readyz, on loopback
// inside its node.
const healthzPort = 8471

// Restart waits of an agent that ends by itself: the first is short, so that
// a killed agent is back before a workshop notices, and they double.
const (
	restartFirst = 50 * time.Millisecond
	restartMost  = 5 * time.Second
)

// keptExits is how many ends of an agent are told of.
const keptExits = 3

// States of an agent.
const (
	stateRunning    = "running"
	stateRestarting = "restarting"
	stateEnded      = "ended"
)

// agentArgs are the arguments of a node's agent. They are flanneld's, so that
// any agent with flanneld's command line fits.
func agentArgs(p *topology.Plan, n *topology.Node) []string {
	args := []string{
		"--etcd-endpoints=" + endpoint(p),
		"--etcd-prefix=" + p.Store.Prefix,
		fmt.Sprintf("--ip-masq=%t", n.Agent.IPMasq),
		"--healthz-ip=127.0.0.1",
		fmt.Sprintf("--healthz-port=%d", healthzPort),
	}
	if n.Agent.Iface != "" {
		args = append(args, "--iface="+n.Agent.Iface)
	}
	if n.Agent.IfaceRegex != "" {
		args = append(args, "--iface-regex="+n.Agent.IfaceRegex)
	}
	if n.Agent.PublicIP.IsValid() {
		args = append(args, "--public-ip="+n.Agent.PublicIP.String())
	}
	return append(args, n.Agent.Args...)
}

// agentCommand is a node's whole command line; bundled is the path of
// overlabd.
func agentCommand(p *topology.Plan, n *topology.Node, bundled string) []string {
	command := n.Agent.Command
	if len(command) == 0 {
		command = []string{bundled}
	}
	return append(append([]string{}, command...), agentArgs(p, n)...)
}

// agent runs one node's agent, and runs it again when it ends.
type agent struct {
	node  string
	argv  []string
	log   string
	space *space
	procs *processes
	lab   string

	mu     sync.Mutex
	status topology.AgentStatus
	asked  bool // somebody asked for the next exit, so it is no crash
	// held, if set, is closed when the agent may be started again.
	held chan struct{}
	// onExit is told how the agent ended, each time.
	onExit func(a *agent, how string)
}

func newAgent(p *topology.Plan, n *topology.Node, s *space, procs *processes, bundled string, onExit func(a *agent, how string)) *agent {
	a := &agent{
		node: n.Name, argv: agentCommand(p, n, bundled), lab: p.Name,
		log: filepath.Join(logsFolder, "agent-"+n.Name+".log"), space: s, procs: procs, onExit: onExit,
	}
	a.status = topology.AgentStatus{Node: n.Name, Command: a.argv, Restart: n.Agent.Restart, Log: a.log}
	return a
}

// start starts the agent and keeps it running for the rest of the lab's life.
func (a *agent) start() error {
	c, err := a.launch()
	if err != nil {
		return err
	}
	go a.keep(c)
	return nil
}

// launch starts one process of the agent, on its node.
func (a *agent) launch() (*child, error) {
	out, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of node %s's agent: %w", a.node, err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	var c *child
	err = a.space.set.Do(func() error {
		env := environment(os.Environ(), a.node, a.lab)
		c, err = a.procs.start(a.argv, env, "/", []*os.File{null, out, out}, &syscall.SysProcAttr{Setsid: true})
		return err
	})
	if err != nil {
		if errors.Is(err, errNoProgram) || errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("node %s's agent: %w", a.node, err)
		}
		return nil, fmt.Errorf("start node %s's agent: %w", a.node, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status.PID, a.status.Started, a.status.State = c.pid, time.Now(), stateRunning
	return c, nil
}

// keep waits for the agent to end and starts it again, as its policy says.
func (a *agent) keep(c *child) {
	wait := restartFirst
	for {
		began := time.Now()
		exit := <-c.exited
		how := describeExit(exit)
		again, asked, held := a.noteExit(exit, time.Since(began))
		a.onExit(a, how)
		if !again {
			return
		}
		if asked || time.Since(began) > restartMost {
			wait = restartFirst // it did not crash, or ran well for a while
		}
		if held != nil {
			<-held
		}
		for {
			if !asked {
				time.Sleep(wait)
				wait = min(2*wait, restartMost)
			}
			next, err := a.launch()
			if err == nil {
				c = next
				break
			}
			asked = false
			a.mu.Lock()
			a.addExit(err.Error(), 0)
			a.mu.Unlock()
		}
		a.mu.Lock()
		a.status.Restarts++
		a.mu.Unlock()
	}
}

// noteExit records how the process ended. again says whether it is to be
// started again, asked whether somebody asked for that, and held, if set, is
// closed when it may be.
func (a *agent) noteExit(exit syscall.WaitStatus, ran time.Duration) (again, asked bool, held chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, held, a.asked = a.asked, a.held, false
	again = asked || restarts(a.status.Restart, exit)
	a.status.PID, a.status.State = 0, stateEnded
	if again {
		a.status.State = stateRestarting
	}
	a.addExit(describeExit(exit), ran)
	return again, asked, held
}

// addExit records an end; the caller holds the lock.
func (a *agent) addExit(how string, ran time.Duration) {
	exits := append(slices.Clone(a.status.Exits), topology.AgentExit{Time: time.Now(), Ran: ran, How: how})
	a.status.Exits = exits[max(0, len(exits)-keptExits):]
	a.status.LastExit = how
}

// restarts reports whether a process that ended so is started again.
func restarts(p topology.RestartPolicy, exit syscall.WaitStatus) bool {
	switch p {
	case topology.RestartNever:
		return false
	case topology.RestartOnFailure:
		return exit.Signaled() || exit.ExitStatus() != 0
	}
	return true
}

// Status describes the agent now.
func (a *agent) Status() topology.AgentStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// restart kills the running process and returns when the next one says that
// it is ready. An agent that does not answer on its health port, as a script
// may not, is taken to be ready once it has run for a while.
func (a *agent) restart(ctx context.Context) error {
	before := a.Status()
	if before.PID == 0 {
		return fmt.Errorf("node %s's agent is not running (%s)", a.node, before.LastExit)
	}
	a.mu.Lock()
	a.asked = true
	a.mu.Unlock()
	if err := unix.Kill(before.PID, unix.SIGKILL); err != nil {
		return fmt.Errorf("kill node %s's agent: %w", a.node, err)
	}
	return a.back(ctx, before.PID)
}

// hold kills the running process and returns when it is gone. None is started
// until release, which returns when the next one says that it is ready.
func (a *agent) hold(ctx context.Context) (release func(context.Context) error, err error) {
	a.mu.Lock()
	pid, held := a.status.PID, make(chan struct{})
	switch {
	case a.held != nil:
		err = fmt.Errorf("node %s's agent is held by another command", a.node)
	case pid == 0:
		err = fmt.Errorf("node %s's agent is not running (%s)", a.node, a.status.LastExit)
	default:
		a.held, a.asked = held, true
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	release = func(ctx context.Context) error {
		a.mu.Lock()
		a.held = nil
		a.mu.Unlock()
		close(held)
		return a.back(ctx, pid)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return nil, errors.Join(fmt.Errorf("kill node %s's agent: %w", a.node, err), release(ctx))
	}
	for a.Status().PID != 0 {
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("node %s's agent does not end: %w", a.node, ctx.Err()), release(ctx))
		case <-time.After(2 * time.Millisecond):
		}
	}
	return release, nil
}

// back returns when another process than before says that it is ready.
func (a *agent) back(ctx context.Context, before int) error {
	for {
		if now := a.Status(); now.PID != 0 && now.PID != before {
			ready, answered := a.ready(ctx)
			if ready || !answered && time.Since(now.Started) > silence {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s's agent did not come back: %w; %s", a.node, ctx.Err(), a.logTail())
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// silence is after how long an agent that answers no health question counts
// as one that never does.
const silence = 2 * time.Second

// ready asks the agent's /readyz; answered is false where nobody listens.
func (a *agent) ready(ctx context.Context) (ready, answered bool) {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{
		DialContext:       a.space.set.Dial,
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/readyz", healthzPort), nil)
	if err != nil {
		return false, false
	}
	resp, err := client.Do(req)
	if err != nil {
		return false, false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK, true
}

// logTail returns the last lines that the agent printed, for an error.
func (a *agent) logTail() string {
	lines := lastLines(a.log)
	if len(lines) == 0 {
		return "it printed nothing"
	}
	return "it printed:\n    " + strings.Join(lines, "\n    ")
}

// Of what an agent printed, an error and a status show the last few lines, which
// are at the end of the log.
const (
	shownLines = 5
	shownBytes = 4 << 10
)

// lastLines returns the last lines of a file; none where it cannot be read.
func lastLines(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	from := max(0, st.Size()-shownBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, shownBytes))
	if err != nil {
		return nil
	}
	text := string(b)
	if from > 0 { // the first line is not whole
		_, text, _ = strings.Cut(text, "\n")
	}
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	return lines[max(0, len(lines)-shownLines):]
}
