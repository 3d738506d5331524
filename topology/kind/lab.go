package kind

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
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
	v := &viewer{cluster: name}
	if now, err := v.observe(ctx, s.Plan); err == nil {
		s.Plan = now
	}
	return &Lab{state: s, view: v, on: hosts(s.Plan, name)}, nil
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

func (l *Lab) master() string { return l.view.cluster + "-" + string(topology.ControlPlane) }

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

// RestartAgent deletes the pod of a node's agent, and returns when the next one
// is ready.
func (l *Lab) RestartAgent(ctx context.Context, node string) error {
	host := l.on[node]
	agents, err := l.agents(ctx)
	if err != nil {
		return err
	}
	before, ok := agents[host]
	if !ok {
		return fmt.Errorf("node %s has no agent", node)
	}
	if _, err := kubectl(ctx, l.master(), nil, "-n", deploy.Namespace, "delete", "pod", before.Name, "--grace-period=1"); err != nil {
		return err
	}
	return l.awaitAgent(ctx, node)
}

// noAgent is the label that keeps the agent off a node (deploy/overlab.yaml).
const noAgent = "overlab.dev/no-agent"

// HoldAgent ends a node's agent by a label that the DaemonSet keeps off, until
// release. A harness that is killed leaves the label behind; `kubectl label node
// … overlab.dev/no-agent-` removes it.
func (l *Lab) HoldAgent(ctx context.Context, node string) (release func(context.Context) error, err error) {
	host := l.on[node]
	if _, err := kubectl(ctx, l.master(), nil, "label", "node", host, "--overwrite", noAgent+"=true"); err != nil {
		return nil, err
	}
	release = func(ctx context.Context) error {
		if _, err := kubectl(ctx, l.master(), nil, "label", "node", host, noAgent+"-"); err != nil {
			return err
		}
		return l.awaitAgent(ctx, node)
	}
	pid, err := l.view.process(ctx, host)
	for err == nil {
		agent := 0
		if agent, err = programIn(pid, deploy.DaemonSet); err == nil && agent == 0 {
			return release, nil
		}
		select {
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-time.After(agentPoll):
		}
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), rolloutTimeout)
	defer cancel()
	_ = release(back) // the node has its agent again, or what went wrong first is told
	return nil, fmt.Errorf("end the agent of %s: %w", node, err)
}

// agentPoll is the pause between two looks at an agent.
const agentPoll = 50 * time.Millisecond

// awaitAgent waits until a node's agent says that it is ready.
func (l *Lab) awaitAgent(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, rolloutTimeout)
	defer cancel()
	ns, err := l.Namespace(node)
	if err != nil {
		return err
	}
	local := ns.(*namespace)
	defer local.Close()
	client := http.Client{Transport: &http.Transport{DialContext: local.Dial, DisableKeepAlives: true}, Timeout: 2 * time.Second}
	url := "http://" + netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), deploy.HealthPort).String() + "/readyz"
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := client.Do(r)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the agent of %s does not get ready: %w", node, context.Cause(ctx))
		case <-time.After(agentPoll):
		}
	}
}
