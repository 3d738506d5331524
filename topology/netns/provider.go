// Package netns runs a lab in network namespaces on this machine, as root or
// not: one supervisor process in namespaces of its own holds everything, so
// that nothing on the host changes and nothing can be left behind.
package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/topology"
)

// Provider is the netns provider.
type Provider struct {
	// Supervisor is the command that calls Supervise; the options follow as
	// its last argument, in JSON.
	Supervisor []string
	// Programs maps names to files of the host that the lab has in its PATH.
	// overlabd, the bundled agent, must be among them.
	Programs map[string]string
	// ImageStore is where images are read from that a lab names by reference.
	ImageStore ImageStore
}

var _ topology.Provider = (*Provider)(nil)

// Name implements topology.Provider.
func (*Provider) Name() string { return "netns" }

// backends are the backends that labs of this provider may have: those of the
// bundled agent.
var backends = map[string]bool{"vxlan": true, "host-gw": true, "udp": true, "ipip": true, "wireguard": true, "ipsec": true, "alloc": true, "extension": true}

// Check implements topology.Provider: what a plan asks for that this provider
// or this machine cannot do.
func (p *Provider) Check(ctx context.Context, plan *topology.Plan) error {
	var errs []error
	if t := plan.Network.Backend.Type; !backends[t] {
		errs = append(errs, fmt.Errorf("spec.network.Backend.Type: backend %s is not in this build, which has %s",
			t, strings.Join(slices.Sorted(maps.Keys(backends)), ", ")))
	}
	switch plan.Network.Backend.Type {
	case "host-gw":
		errs = append(errs, nextHops(plan)...)
	case "udp":
		if err := tuntap.Usable(); err != nil {
			errs = append(errs, fmt.Errorf("spec.network.Backend.Type: backend udp needs TUN devices: %w", err))
		}
	case "wireguard":
		if plan.Network.EnableIPv6 {
			errs = append(errs, errors.New("spec.network.EnableIPv6: wireguard of this build carries IPv4 alone; write Type: vxlan or host-gw, or leave EnableIPv6 out"))
		}
		if plan.Network.Backend.Mode == "ipv6" {
			errs = append(errs, errors.New("spec.network.Backend.Mode: ipv6 asks for tunnels over IPv6, which this build does not make; leave it out"))
		}
	}
	bundled := slices.ContainsFunc(plan.Nodes, func(n topology.Node) bool { return len(n.Agent.Command) == 0 && !n.Agent.ByHand })
	if plan.Network.Backend.Type == "ipsec" && bundled {
		errs = append(errs, ipsecLimits(plan)...)
	}
	errs = append(errs, samePublicIP(plan)...)
	errs = append(errs, p.checkPlugins(plan))
	_, lacking := p.containerOptions(ctx, plan)
	errs = append(errs, lacking)
	if bundled && p.Programs["overlabd"] == "" {
		errs = append(errs, errors.New("overlabd is neither beside overlab nor in PATH: run `make build`, or `go install github.com/overlab/overlab/cmd/...`"))
	}
	return errors.Join(errs...)
}

// nextHops names the nodes that others could not use as a next hop, so that a
// lab of host-gw could not come up.
func nextHops(plan *topology.Plan) []error {
	var errs []error
	first := &plan.Nodes[0]
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		if a := n.Underlay().Address.Addr(); n.PublicIP() != a {
			errs = append(errs, fmt.Errorf("spec.agent.publicIP: host-gw routes to a node by the address of its interface, and %s would publish %s in place of %s", n.Name, n.PublicIP(), a))
		}
		if n.Underlay().Segment != first.Underlay().Segment {
			errs = append(errs, fmt.Errorf("spec.network.Backend.Type: host-gw crosses no router, and the agents of %s and %s are on the segments %s and %s: use vxlan, with DirectRouting if you like",
				first.Name, n.Name, first.Underlay().Segment, n.Underlay().Segment))
			break
		}
	}
	return errs
}

// ipsecLimits names what the bundled agent does not do with ipsec.
func ipsecLimits(plan *topology.Plan) []error {
	var errs []error
	if plan.Network.Backend.UDPEncap {
		errs = append(errs, errors.New("spec.network.Backend.UDPEncap: ESP in UDP needs a process that holds a socket for as long as the overlay works, and the bundled agent may end at any time: leave it out"))
	}
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		if a := n.Underlay().Address.Addr(); n.PublicIP() != a {
			errs = append(errs, fmt.Errorf("spec.agent.publicIP: ESP passes no address translation, and %s would publish %s in place of %s", n.Name, n.PublicIP(), a))
		}
	}
	return errs
}

// samePublicIP names the nodes that would publish one address. Flannel knows a
// node by it: they would share one subnet, and the lab could not come up.
func samePublicIP(plan *topology.Plan) []error {
	holder := map[netip.Addr]string{}
	var errs []error
	for i := range plan.Nodes {
		n := &plan.Nodes[i]
		ip := n.PublicIP()
		if other, taken := holder[ip]; taken {
			errs = append(errs, fmt.Errorf("spec.nodes: %s and %s would both publish %s, the address of their agents' interface %s: choose another with spec.agent.iface, or set agent.publicIP",
				other, n.Name, ip, n.Agent.Underlay))
			continue
		}
		holder[ip] = n.Name
	}
	return errs
}

// Up implements topology.Provider.
func (p *Provider) Up(ctx context.Context, plan *topology.Plan, o topology.UpOptions) (topology.Lab, error) {
	if err := p.Check(ctx, plan); err != nil {
		return nil, err
	}
	st, err := stateOf(plan.Name)
	if err != nil {
		return nil, err
	}
	lock, err := st.claim()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	s, err := p.launch(ctx, st, lock, plan)
	if err != nil {
		return nil, errors.Join(err, st.remove())
	}
	if err := s.await(ctx, o.Progress); err != nil {
		return nil, errors.Join(err, s.undo(), st.remove())
	}
	go func() { _ = s.cmd.Wait() }() // until it ends, for callers that outlive it
	return openOutside(st)
}

// supervisor is a supervisor that is coming up.
type supervisor struct {
	cmd     *exec.Cmd
	reports io.ReadCloser
	log     string
}

// launch starts the supervisor in namespaces of its own.
func (p *Provider) launch(ctx context.Context, st state, lock *os.File, plan *topology.Plan) (*supervisor, error) {
	if err := writePlan(st.path(planFile), plan); err != nil {
		return nil, err
	}
	logPath := st.path("supervisor.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the supervisor's log: %w", err)
	}
	defer logFile.Close()
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer pw.Close()
	containers, err := p.containerOptions(ctx, plan)
	if err != nil {
		return nil, errors.Join(err, pr.Close())
	}
	options, err := json.Marshal(SuperviseOptions{StateDir: st.dir, Programs: p.Programs, Containers: containers, Created: time.Now()})
	if err != nil {
		return nil, errors.Join(err, pr.Close())
	}
	if err := context.Cause(ctx); err != nil {
		return nil, errors.Join(err, pr.Close())
	}
	argv := append(append([]string{}, p.Supervisor...), string(options))
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Args[0] = "overlab" // what ps(1) shows
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{pw, lock} // reportFD, lockFD
	cmd.SysProcAttr = isolate()
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(explainClone(err), pr.Close())
	}
	return &supervisor{cmd: cmd, reports: pr, log: logPath}, nil
}

// isolate asks for the supervisor's namespaces: a user namespace in which an
// ordinary user is root, besides those that every lab has.
func isolate() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS,
	}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// explainClone says why the kernel refused the namespaces, and the mend.
func explainClone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start the lab's supervisor: %w", err)
	}
	for _, f := range userNamespaceLimits() {
		if !f.OK {
			err = fmt.Errorf("%w: %s; %s", err, f.Detail, f.Mend)
		}
	}
	if os.Geteuid() == 0 {
		return fmt.Errorf("start the lab's supervisor in namespaces of its own: %w (inside a container, root needs CAP_SYS_ADMIN and CAP_NET_ADMIN)", err)
	}
	return fmt.Errorf("start the lab's supervisor in a user namespace: %w (`overlab doctor` says more; root needs no user namespace)", err)
}

// await reads the supervisor's reports until the lab is ready.
func (s *supervisor) await(ctx context.Context, progress func(topology.Phase)) error {
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Kill() })
	defer stop()
	defer s.reports.Close()
	reports := json.NewDecoder(s.reports)
	for {
		var r report
		if err := reports.Decode(&r); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return fmt.Errorf("the lab's supervisor ended while it built the lab: %s", s.lastWords())
		}
		switch {
		case r.Error != "":
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return errors.New(r.Error)
		case r.Ready:
			if !stop() {
				return context.Cause(ctx) // too late: it is being killed
			}
			return nil
		case r.Phase != nil && progress != nil:
			progress(*r.Phase)
		}
	}
}

// lastWords are the end of the supervisor's log.
func (s *supervisor) lastWords() string {
	b, err := os.ReadFile(s.log)
	if err != nil || len(b) == 0 {
		return "it said nothing"
	}
	const most = 2000
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// undo ends a supervisor that has not become a lab.
func (s *supervisor) undo() error {
	_ = s.cmd.Process.Kill()
	var exit *exec.ExitError
	if err := s.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("end the lab's supervisor: %w", err)
	}
	return nil
}

// Open implements topology.Provider.
func (*Provider) Open(_ context.Context, name string) (topology.Lab, error) {
	if Inside() && os.Getenv(insideEnv) == name {
		return openInside()
	}
	st, err := stateOf(name)
	if err != nil {
		return nil, err
	}
	if err := st.alive(); err != nil {
		return nil, err
	}
	return openOutside(st)
}

// alive returns topology.ErrNoLab unless a supervisor holds the lock.
func (s state) alive() error {
	if _, err := os.Stat(s.path(lockFile)); err != nil {
		s.removeEmpty()
		return fmt.Errorf("lab %s: %w", s.name, topology.ErrNoLab)
	}
	lock, err := s.lock()
	switch {
	case errors.Is(err, topology.ErrRunning):
		return nil
	case err == nil:
		return errors.Join(fmt.Errorf("lab %s: %w", s.name, topology.ErrNoLab), s.remove(), lock.Close())
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("lab %s: %w", s.name, topology.ErrNoLab)
	default:
		return err
	}
}

// List implements topology.Provider.
func (*Provider) List(ctx context.Context) ([]topology.Status, error) {
	all, err := states()
	if err != nil {
		return nil, err
	}
	var out []topology.Status
	var errs []error
	for _, st := range all {
		switch err := st.alive(); {
		case errors.Is(err, topology.ErrNoLab):
			continue // and cleared
		case err != nil:
			errs = append(errs, err)
			continue
		}
		status, err := st.status(ctx)
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if err != nil {
			// It is coming up or going down: its lock is held, its socket is not
			// open.
			status = &topology.Status{Name: st.name, Provider: "netns", State: "starting", Dir: st.dir}
		}
		out = append(out, *status)
	}
	return out, errors.Join(errs...)
}

// status asks the lab's supervisor.
func (s state) status(ctx context.Context) (*topology.Status, error) {
	resp, err := ask(ctx, s.dir, request{Op: opStatus})
	if err != nil {
		return nil, err
	}
	if resp.Status == nil {
		return nil, fmt.Errorf("lab %s gave no status", s.name)
	}
	p, err := dial(s.dir)
	if err != nil {
		return nil, err
	}
	defer p.conn.Close()
	if cred, err := p.credentials(); err == nil {
		resp.Status.PID = int(cred.Pid)
	}
	if resp.Status.Containers, err = s.containers(ctx); err != nil {
		return nil, err
	}
	for i := range resp.Status.Agents { // too much for one control message
		a := &resp.Status.Agents[i]
		a.Output = lastLines(a.Log)
	}
	return resp.Status, nil
}

// containers asks for the containers, of which one message may not hold all.
func (s state) containers(ctx context.Context) ([]topology.ContainerStatus, error) {
	var all []topology.ContainerStatus
	for {
		resp, err := ask(ctx, s.dir, request{Op: opContainers, From: len(all)})
		if err != nil {
			return nil, err
		}
		if len(resp.Containers) == 0 {
			return all, nil
		}
		all = append(all, resp.Containers...)
	}
}

// Down implements topology.Provider. It kills the supervisor; the kernel does
// the rest.
func (*Provider) Down(ctx context.Context, name string) error {
	st, err := stateOf(name)
	if err != nil {
		return err
	}
	if err := st.alive(); err != nil {
		return err
	}
	if err := st.kill(ctx); err != nil {
		return err
	}
	// Who holds the lock now clears the folder, or has claimed it.
	if err := st.removeStale(); !errors.Is(err, topology.ErrRunning) {
		return err
	}
	return nil
}

// downTimeout is how long the kernel may take to end a lab's processes.
const downTimeout = 10 * time.Second

// kill kills the supervisor and waits until its processes are gone.
func (s state) kill(ctx context.Context) error {
	p, err := dial(s.dir)
	if err != nil {
		return fmt.Errorf("lab %s is coming up or going down: %w", s.name, err)
	}
	defer p.conn.Close()
	cred, err := p.credentials()
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(int(cred.Pid), 0)
	if err != nil {
		return fmt.Errorf("find the supervisor of lab %s: %w", s.name, err)
	}
	defer unix.Close(pidfd)
	// The pid was the listener's when it listened; that it still holds the
	// lock proves that it is not somebody else's by now.
	if err := s.alive(); err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("end the supervisor of lab %s: %w", s.name, err)
	}
	deadline := time.Now().Add(downTimeout)
	for time.Now().Before(deadline) {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the supervisor of lab %s: %w", s.name, err)
		}
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("the supervisor of lab %s (process %d) does not end", s.name, cred.Pid)
}

// Beside finds a program of the project: beside the running one, else in
// PATH; empty if it is in neither place.
func Beside(name string) string {
	if self, err := os.Executable(); err == nil {
		if path := filepath.Join(filepath.Dir(self), name); executable(path) {
			return path
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	if path, err = filepath.Abs(path); err != nil {
		return ""
	}
	return path
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && !st.IsDir() && st.Mode()&0o111 != 0
}
