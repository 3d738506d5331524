package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/deploy"
	"github.com/overlab/overlab/topology"
)

// Lab is a running cluster.
type Lab struct {
	state *state
	view  *viewer
	on    map[string]string // the containers of the plan's nodes
}

var (
	_ topology.Lab     = (*Lab)(nil)
	_ topology.Cluster = (*Lab)(nil)
)

// open looks again at what the cluster has decided: a node that was restarted
// gives its pods other addresses. Where a part of the cluster does not answer,
// the plan is that of before, by which the rest can be used.
func open(ctx context.Context, s *state) (*Lab, error) {
	name := clusterName(s.Plan.Name)
	l := &Lab{state: s, view: &viewer{cluster: name}, on: hosts(s.Plan, name)}
	nodes, err := l.view.nodes(ctx)
	if err != nil {
		return l, nil
	}
	if err := l.releaseAbandoned(ctx, nodes); err != nil {
		return nil, err
	}
	if now, err := l.view.observe(ctx, s.Plan, nodes); err == nil {
		s.Plan = now
	}
	return l, nil
}

// Plan implements topology.Lab: the spec as the cluster came out.
func (l *Lab) Plan() *topology.Plan { return l.state.Plan }

// Close implements topology.Lab.
func (*Lab) Close() error { return nil }

// Namespace implements topology.Lab; the result is topology.Local.
func (l *Lab) Namespace(name string) (topology.Namespace, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dockerTimeout)
	defer cancel()
	if n := l.state.Plan.Node(name); n != nil {
		return l.view.openNode(ctx, name, l.on[name])
	}
	if p := l.state.Plan.Pod(name); p != nil {
		return l.view.openPod(ctx, name, l.on[p.Node])
	}
	var names []string
	for i := range l.state.Plan.Nodes {
		names = append(names, l.state.Plan.Nodes[i].Name)
	}
	for i := range l.state.Plan.Pods {
		names = append(names, l.state.Plan.Pods[i].Name)
	}
	return nil, fmt.Errorf("lab %s has no node or pod %q; it has %s", l.state.Plan.Name, name, strings.Join(names, " "))
}

// dockerTimeout is how long Docker may take to say where a container is.
const dockerTimeout = 20 * time.Second

func (l *Lab) master() string { return l.view.master() }

// Kubectl implements topology.Cluster, by the program of the control plane.
func (l *Lab) Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	return kubectl(ctx, l.master(), stdin, args...)
}

// Status implements topology.Lab.
func (l *Lab) Status(ctx context.Context) (topology.Status, error) {
	s := l.state.summary()
	agents, err := l.agents(ctx)
	if err != nil {
		return s, err
	}
	for i := range l.state.Plan.Nodes {
		n := &l.state.Plan.Nodes[i]
		a := topology.AgentStatus{Node: n.Name, State: "ended", Restart: topology.RestartAlways}
		if pod, ok := agents[l.on[n.Name]]; ok {
			if err := l.describe(ctx, &a, &pod, l.on[n.Name]); err != nil {
				return s, err
			}
		}
		s.Agents = append(s.Agents, a)
	}
	return s, nil
}

// agents are the agents' pods, by the names of the nodes' containers.
func (l *Lab) agents(ctx context.Context) (map[string]corev1.Pod, error) {
	out, err := kubectl(ctx, l.master(), nil, "-n", deploy.Namespace, "get", "pods", "-o", "json")
	if err != nil {
		return nil, err
	}
	var pods corev1.PodList
	if err := json.Unmarshal(out, &pods); err != nil {
		return nil, fmt.Errorf("read the agents' pods: %w", err)
	}
	agents := map[string]corev1.Pod{}
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			agents[p.Spec.NodeName] = p
		}
	}
	return agents, nil
}

// describe fills in what is known of a node's agent.
func (l *Lab) describe(ctx context.Context, a *topology.AgentStatus, pod *corev1.Pod, host string) error {
	pid, err := l.view.process(ctx, host)
	if err != nil {
		return err
	}
	a.State = "restarting"
	for _, c := range pod.Spec.Containers {
		a.Command = append([]string{deploy.DaemonSet}, c.Args...)
	}
	a.LogFormat = topology.LogCRI
	// The link that kubelet makes in /var/log/containers leads here.
	a.Log = fmt.Sprintf("/proc/%d/root/var/log/pods/%s_%s_%s/%s/0.log", pid, pod.Namespace, pod.Name, pod.UID, deploy.DaemonSet)
	for _, c := range pod.Status.ContainerStatuses {
		a.Restarts = int(c.RestartCount)
		a.Log = strings.Replace(a.Log, "/0.log", fmt.Sprintf("/%d.log", c.RestartCount), 1)
		if c.State.Running != nil {
			a.Started = c.State.Running.StartedAt.Time
		}
		if t := c.LastTerminationState.Terminated; t != nil {
			a.LastExit = fmt.Sprintf("exit code %d", t.ExitCode)
		}
	}
	if a.PID, err = programIn(pid, deploy.DaemonSet); err != nil || a.PID == 0 {
		return err
	}
	a.State = "running" // kubelet may not have told the API yet
	if a.Started.IsZero() {
		a.Started = pod.CreationTimestamp.Time
	}
	return nil
}
