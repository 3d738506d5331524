package netns

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// step is one phase of building a lab.
type step struct {
	name string
	do   func() (detail string, err error)
}

// build makes the lab, phase by phase. The store starts as soon as its node
// has a namespace: electing a leader takes as long as building the rest. So
// does containerd, where the pods are containers of images.
func (l *lab) build(ctx context.Context, images map[string]imageSource) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var (
		net     *underlay
		started = make(chan error, 1)
		runtime = make(chan error, 1)
		meshes  []*meshWatch
	)
	steps := []step{
		{"namespaces", func() (string, error) {
			var err error
			if net, err = l.makeUnderlay(); err != nil {
				return "", err
			}
			if err := l.makeNode(l.plan.Node(l.plan.Store.Node)); err != nil {
				return "", err
			}
			home := l.spaces[l.plan.Store.Node]
			go func() { started <- l.openStore(home) }()
			return l.makeSpaces(ctx)
		}},
		{"underlay", func() (string, error) { return l.wireUnderlay(net) }},
		{"store", func() (string, error) {
			if err := <-started; err != nil {
				return "", err
			}
			if err := l.store.wait(ctx); err != nil {
				return "", err
			}
			return "etcd at " + endpoint(l.plan), l.store.fill(ctx)
		}},
		{"agents", func() (string, error) {
			if err := writeSubnetFiles(l.plan); err != nil {
				return "", err
			}
			var err error
			meshes, err = l.startAgents(func(a *agent, how string) {
				if ctx.Err() == nil { // later exits are inspect's to tell
					fail(fmt.Errorf("node %s's agent ended (%s); %s", a.node, how, a.logTail()))
				}
			})
			return fmt.Sprintf("%d started", len(meshes)), err
		}},
		{"pods", func() (string, error) {
			return fmt.Sprintf("%d wired", len(l.plan.Pods)), l.wirePods(ctx)
		}},
		{"mesh", func() (string, error) { return l.waitMeshes(ctx, meshes) }},
	}
	if l.plan.Runtime == topology.RuntimeContainerd {
		go func() { runtime <- l.prepareContainers(ctx, images) }()
		steps = slices.Insert(steps, len(steps)-1, step{"containers", func() (string, error) {
			if err := <-runtime; err != nil {
				return "", err
			}
			return l.startContainers(ctx)
		}})
	}
	for _, s := range steps {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		began := time.Now()
		_ = l.reports.Encode(report{Phase: &topology.Phase{Name: s.name}})
		detail, err := s.do()
		if err != nil {
			return err
		}
		phase := topology.Phase{Name: s.name, Took: max(time.Since(began), 1), Detail: detail}
		l.phases = append(l.phases, phase)
		_ = l.reports.Encode(report{Phase: &phase})
	}
	return nil
}

func (l *lab) ipv6() bool { return l.plan.IPv6 != topology.IPv6Off }

func (l *lab) makeUnderlay() (*underlay, error) {
	if err := probeKinds(linkKinds(l.plan.Network.Backend.Type)); err != nil {
		return nil, err
	}
	net, err := newUnderlay(l.plan)
	if err != nil {
		return nil, err
	}
	return net, l.add(net.space)
}

// makeNode makes a node's namespaces and files.
func (l *lab) makeNode(n *topology.Node) error {
	if err := makeNodeFiles(l.plan, n); err != nil {
		return err
	}
	s, err := newSpace(n.Name, n.Name, unix.CLONE_NEWNS, func() error {
		if err := (kernel{forward: true, ipv6: l.ipv6(), bridgeCalls: true}).configure(); err != nil {
			return err
		}
		return mountNode(n.Name)
	})
	if err != nil {
		return err
	}
	return l.add(s)
}

// add makes a namespace one of the lab's, for every process of it.
func (l *lab) add(s *space) error {
	l.spaces[s.name] = s
	return publish(s)
}

// makePod makes a pod's namespaces. It sees its node's files.
func (l *lab) makePod(pod *topology.Pod) error {
	ipv6 := l.plan.IPv6 == topology.IPv6Dual
	s, err := newSpace(pod.Name, pod.Node, 0, kernel{ipv6: ipv6}.configure)
	if err != nil {
		return err
	}
	if s.set.Mount, err = unix.FcntlInt(uintptr(l.spaces[pod.Node].set.Mount), unix.F_DUPFD_CLOEXEC, 0); err != nil {
		return fmt.Errorf("share node %s's files with pod %s: %w", pod.Node, pod.Name, err)
	}
	if err := l.add(s); err != nil {
		return err
	}
	return namePod(pod, s)
}

// makeSpaces makes the namespaces of all routers, nodes and pods that are not
// there yet.
func (l *lab) makeSpaces(ctx context.Context) (string, error) {
	for i := range l.plan.Routers {
		r := &l.plan.Routers[i]
		s, err := newSpace(r.Name, "", 0, kernel{forward: true, ipv6: l.ipv6()}.configure)
		if err != nil {
			return "", err
		}
		if err := l.add(s); err != nil {
			return "", err
		}
	}
	for i := range l.plan.Nodes {
		if n := &l.plan.Nodes[i]; l.spaces[n.Name] == nil {
			if err := l.makeNode(n); err != nil {
				return "", err
			}
		}
	}
	for i := range l.plan.Pods {
		if err := context.Cause(ctx); err != nil {
			return "", err
		}
		if err := l.makePod(&l.plan.Pods[i]); err != nil {
			return "", err
		}
	}
	return count(len(l.plan.Nodes), "node") + ", " + count(len(l.plan.Pods), "pod"), nil
}

// wireUnderlay connects nodes and routers to their segments.
func (l *lab) wireUnderlay(net *underlay) (string, error) {
	links := 0
	for _, r := range l.plan.Routers {
		net.plug(l.spaces[r.Name], r.Interfaces)
		links += len(r.Interfaces)
	}
	for _, n := range l.plan.Nodes {
		net.plug(l.spaces[n.Name], n.Interfaces)
		links += len(n.Interfaces)
	}
	if err := net.connect(); err != nil {
		return "", err
	}
	for _, r := range l.plan.Routers {
		if err := address(l.spaces[r.Name], r.Interfaces, r.Routes); err != nil {
			return "", err
		}
	}
	for i := range l.plan.Nodes {
		n := &l.plan.Nodes[i]
		s := l.spaces[n.Name]
		if err := address(s, n.Interfaces, n.Routes); err != nil {
			return "", err
		}
		if len(l.plan.Nodes) > manyNodes {
			if err := fixNeighbours(l.plan, n, s); err != nil {
				return "", err
			}
		}
		if err := fixVTEP(l.plan, n, s); err != nil {
			return "", err
		}
	}
	return count(len(l.plan.Segments), "segment") + ", " + count(links, "link"), nil
}

// openStore starts the store on its node's sockets. It runs beside makeSpaces,
// and touches nothing of the lab but the store.
func (l *lab) openStore(home *space) error {
	return home.set.Do(func() error {
		var err error
		l.store, err = startStore(l.plan)
		return err
	})
}

// startAgents starts every node's agent, and watches its mesh from before.
// onExit is told of agents that end.
func (l *lab) startAgents(onExit func(a *agent, how string)) ([]*meshWatch, error) {
	var meshes []*meshWatch
	for i := range l.plan.Nodes {
		n := &l.plan.Nodes[i]
		if n.Agent.ByHand {
			continue
		}
		s := l.spaces[n.Name]
		m, err := watchMesh(l.plan, n, s)
		if err != nil {
			return meshes, err
		}
		meshes = append(meshes, m)
		a := newAgent(l.plan, n, s, l.procs, binFolder+"/overlabd", onExit)
		if err := a.start(); err != nil {
			return meshes, err
		}
		l.agents[n.Name] = a
	}
	return meshes, nil
}

// waitMeshes returns when every node reaches every other's pods.
func (l *lab) waitMeshes(ctx context.Context, meshes []*meshWatch) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, meshTimeout, fmt.Errorf("not after %s", meshTimeout))
	defer cancel()
	for _, m := range meshes {
		if err := m.wait(ctx); err != nil {
			return "", fmt.Errorf("%w; %s", err, l.agents[m.node].logTail())
		}
	}
	if !l.plan.Network.Backend.Connects() {
		return "none: " + l.plan.Network.Backend.Type + " connects no nodes", nil
	}
	n := len(meshes) // a node that is programmed by hand is no part of it yet
	routes := n * (n - 1)
	if l.plan.Network.EnableIPv6 {
		routes *= 2
	}
	detail := fmt.Sprintf("%d of %d routes between nodes", routes, routes)
	if l.plan.Network.Backend.Type != "wireguard" {
		return detail, nil
	}
	peers, err := l.waitPeers(ctx)
	return detail + "; " + peers, err
}

// count says how many there are of a thing.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
