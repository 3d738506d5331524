package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// cordonedBy is the label of a node that a process has cordoned; see holder.
const cordonedBy = "overlab.dev/cordoned-by"

// CordonNode keeps new pods off a node until uncordon. What a harness that is
// killed has cordoned, the next command uncordons.
func (l *Lab) CordonNode(ctx context.Context, node string) (func(context.Context) error, error) {
	me, err := holder()
	if err != nil {
		return nil, err
	}
	host := l.on[node]
	if err := label(ctx, l.master(), host, cordonedBy, me); err != nil {
		return nil, err
	}
	lift := func(ctx context.Context) error { return uncordon(ctx, l.master(), host) }
	if _, err := kubectl(ctx, l.master(), nil, "cordon", host); err != nil {
		return nil, errors.Join(err, lift(context.WithoutCancel(ctx)))
	}
	return lift, nil
}

// uncordon takes the label last: while it is there, the node is somebody's.
func uncordon(ctx context.Context, master, host string) error {
	if _, err := kubectl(ctx, master, nil, "uncordon", host); err != nil {
		return err
	}
	return unlabel(ctx, master, host, cordonedBy)
}

// RestartNode restarts the container of a node, and returns when its agent is
// ready and its pods have their networks again. They have other addresses then.
func (l *Lab) RestartNode(ctx context.Context, node string) error {
	// A restart that is begun is not to be left half done.
	if _, err := docker(context.WithoutCancel(ctx), nil, "restart", l.on[node]); err != nil {
		return err
	}
	if err := l.awaitAgent(ctx, node, 0); err != nil {
		return err
	}
	for _, p := range l.state.Plan.PodsOn(node) {
		if err := l.awaitPod(ctx, p.Name); err != nil {
			return err
		}
	}
	nodes, err := l.view.nodes(ctx)
	if err != nil {
		return err
	}
	now, err := l.view.observe(ctx, l.state.Plan, nodes)
	if err != nil {
		return err
	}
	l.state.Plan = now
	return nil
}

// awaitPod waits until a pod's namespaces can be entered.
func (l *Lab) awaitPod(ctx context.Context, pod string) error {
	for {
		ns, err := l.Namespace(pod)
		if err == nil {
			return ns.(*namespace).Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the pod %s does not come back: %w: %w", pod, context.Cause(ctx), err)
		case <-time.After(agentPoll):
		}
	}
}

// pluginList and pluginDir are where the agent's init container leaves the
// plugins' list and programs (deploy/overlab.yaml).
const (
	pluginList = "/etc/cni/net.d/10-overlab.conflist"
	pluginDir  = "/opt/cni/bin"
)

// Plugins returns a node's CNI network configuration list, and the folders of the
// plugins, by a path that is good here and on the node.
func (l *Lab) Plugins(node string) (list []byte, path []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	pid, err := l.view.process(ctx, l.on[node])
	if err != nil {
		return nil, nil, err
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	list, err = os.ReadFile(root + pluginList)
	if err != nil {
		return nil, nil, fmt.Errorf("read the CNI configuration of %s: %w", node, err)
	}
	return list, []string{root + pluginDir}, nil
}
