package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"github.com/overlab/overlab/internal/netns"
	"github.com/overlab/overlab/topology"
)

// insideEnv names the lab that a process runs inside of. There, namespaces are
// local: their descriptors lie under /run/overlab/ns.
const insideEnv = "OVERLAB_INSIDE"

// Inside reports whether this process was run by Join.
func Inside() bool { return os.Getenv(insideEnv) != "" }

// ReportFolder is where, in the state folder, the last report's evidence lies.
const ReportFolder = "report"

// InsideReports is that folder as processes inside the lab see it.
func InsideReports() string { return stateLink + "/" + ReportFolder }

// FaultsFile is where, in the state folder, it is remembered which faults are
// in the lab.
const FaultsFile = "faults.json"

// InsideFaults is that file as processes inside the lab see it.
func InsideFaults() string { return stateLink + "/" + FaultsFile }

// outsideLab is a running lab as a process of the host sees it: it can run
// processes inside, and cannot enter.
type outsideLab struct {
	plan *topology.Plan
	dir  string
}

func openOutside(st state) (*outsideLab, error) {
	p, err := readPlan(st.path(planFile))
	if err != nil {
		return nil, err
	}
	return &outsideLab{plan: p, dir: st.dir}, nil
}

// Plan implements topology.Lab.
func (l *outsideLab) Plan() *topology.Plan { return l.plan }

// Close implements topology.Lab.
func (*outsideLab) Close() error { return nil }

// Status implements topology.Lab.
func (l *outsideLab) Status(ctx context.Context) (topology.Status, error) {
	s, err := state{name: l.plan.Name, dir: l.dir}.status(ctx)
	if err != nil {
		return topology.Status{}, err
	}
	return *s, nil
}

// RestartAgent kills a node's agent and returns when the next one is ready.
func (l *outsideLab) RestartAgent(ctx context.Context, node string) error {
	_, err := ask(ctx, l.dir, request{Op: opRestart, Node: node})
	return err
}

// HoldAgent kills a node's agent, and keeps it from being started again until
// release, which returns when the next one is ready. The end of the calling
// process releases it too.
func (l *outsideLab) HoldAgent(ctx context.Context, node string) (release func(context.Context) error, err error) {
	return hold(ctx, l.dir, request{Op: opHold, Node: node})
}

// HoldStore ends the store, and starts it again with its data on release, or
// when the calling process ends.
func (l *outsideLab) HoldStore(ctx context.Context) (release func(context.Context) error, err error) {
	return hold(ctx, l.dir, request{Op: opHold})
}

// End ends a node's agent, or with an empty name the store, until Start. It
// outlives the calling process; what is ended already stays so.
func (l *outsideLab) End(ctx context.Context, node string) error {
	_, err := ask(ctx, l.dir, request{Op: opEnd, Node: node})
	return err
}

// Start starts again what End ended, and returns when it is ready; what runs
// goes on.
func (l *outsideLab) Start(ctx context.Context, node string) error {
	_, err := ask(ctx, l.dir, request{Op: opStart, Node: node})
	return err
}

// Namespace implements topology.Lab.
func (l *outsideLab) Namespace(name string) (topology.Namespace, error) {
	if err := known(l.plan, name); err != nil {
		return nil, err
	}
	return &remoteNamespace{dir: l.dir, name: name}, nil
}

// Join implements topology.Joiner: the process runs in the lab's own
// namespaces, where Open gives a lab whose namespaces are topology.Local.
func (l *outsideLab) Join(ctx context.Context, p topology.Process) (int, error) {
	p.Env = append(append([]string{}, p.Env...), insideEnv+"="+l.plan.Name)
	return runIn(ctx, l.dir, "", p)
}

// Self is the path of the supervisor's own program inside the lab.
const Self = "/proc/1/exe"

// known returns an error that lists what there is, if nothing is named so.
func known(p *topology.Plan, name string) error {
	if p.Node(name) != nil || p.Pod(name) != nil || name == underlayName {
		return nil
	}
	names := ""
	for i := range p.Routers {
		if p.Routers[i].Name == name {
			return nil
		}
		names += " " + p.Routers[i].Name
	}
	for i := range p.Pods {
		names = " " + p.Pods[len(p.Pods)-1-i].Name + names
	}
	for i := range p.Nodes {
		names = " " + p.Nodes[len(p.Nodes)-1-i].Name + names
	}
	return fmt.Errorf("lab %s has no node or pod %q; it has%s", p.Name, name, names)
}

// remoteNamespace is a namespace seen from the host.
type remoteNamespace struct{ dir, name string }

// Name implements topology.Namespace.
func (n *remoteNamespace) Name() string { return n.name }

// Run implements topology.Namespace.
func (n *remoteNamespace) Run(ctx context.Context, p topology.Process) (int, error) {
	return runIn(ctx, n.dir, n.name, p)
}

// insideLab is the lab that the process runs inside of.
type insideLab struct {
	outsideLab
	mu sync.Mutex
	// open are the namespaces that were asked for, each of three descriptors.
	open map[string]*localNamespace
}

func openInside() (*insideLab, error) {
	p, err := readPlan(stateLink + "/" + planFile)
	if err != nil {
		return nil, err
	}
	return &insideLab{outsideLab: outsideLab{plan: p, dir: stateLink}, open: map[string]*localNamespace{}}, nil
}

// Close implements topology.Lab; namespaces that the lab gave end with it.
func (l *insideLab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, ns := range l.open {
		errs = append(errs, ns.set.Close())
	}
	clear(l.open)
	return errors.Join(append(errs, l.outsideLab.Close())...)
}

// Namespace implements topology.Lab; the result is topology.Local.
func (l *insideLab) Namespace(name string) (topology.Namespace, error) {
	if err := known(l.plan, name); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ns := l.open[name]; ns != nil {
		return ns, nil
	}
	mount := nsPath(name, "mnt")
	if _, err := os.Lstat(mount); err != nil {
		mount = "" // the underlay and routers have no files of their own
	}
	set, err := netns.Open(nsPath(name, "net"), mount, nsPath(name, "uts"))
	if err != nil {
		return nil, err
	}
	l.open[name] = &localNamespace{remoteNamespace{dir: l.dir, name: name}, set}
	return l.open[name], nil
}

// localNamespace is a namespace that the process may enter.
type localNamespace struct {
	remoteNamespace
	set *netns.Set
}

var _ topology.Local = (*localNamespace)(nil)

// Do implements topology.Local.
func (n *localNamespace) Do(fn func() error) error { return n.set.Do(fn) }

// Dial implements topology.Local.
func (n *localNamespace) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.set.Dial(ctx, network, address)
}
