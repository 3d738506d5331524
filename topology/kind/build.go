package kind

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/cluster/nodeutils"
	kindexec "sigs.k8s.io/kind/pkg/exec"

	"github.com/overlab/overlab/deploy"
	"github.com/overlab/overlab/internal/agentimage"
	"github.com/overlab/overlab/topology"
)

// How long parts of a cluster may take to come up, on a slow machine.
const (
	rolloutTimeout = 3 * time.Minute
	podTimeout     = 2 * time.Minute
	meshTimeout    = 30 * time.Second
)

// build brings the lab up.
func (b *builder) build(ctx context.Context) error {
	var image string
	if err := b.phase("image", func() (detail string, err error) {
		image, detail, err = b.loadImage(ctx)
		return detail, err
	}); err != nil {
		return err
	}
	for _, p := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"cluster", func(ctx context.Context) (string, error) { return b.create(ctx, image) }},
		{"agents", b.agents},
		{"pods", b.pods},
		{"mesh", b.mesh},
	} {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := b.phase(p.name, func() (string, error) { return p.do(ctx) }); err != nil {
			return err
		}
	}
	return b.state.keep()
}

// create makes the network and the cluster.
func (b *builder) create(ctx context.Context, image string) (string, error) {
	segment := b.plan.Segments[0]
	create := []string{"network", "create", "-d", "bridge", "--subnet", segment.CIDR.String(), "-o", fmt.Sprintf("com.docker.network.driver.mtu=%d", segment.MTU)}
	if gw := gateway(b.plan); gw.IsValid() {
		create = append(create, "--gateway", gw.String())
	}
	if _, err := docker(ctx, nil, append(create, network(b.cluster))...); err != nil {
		return "", fmt.Errorf("make the network of the nodes: %w", err)
	}
	if err := b.createCluster(ctx, cluster.CreateWithV1Alpha4Config(clusterConfig(b.plan)), cluster.CreateWithNodeImage(image)); err != nil {
		return "", fmt.Errorf("create the cluster %s: %w", b.cluster, explain(err))
	}
	// The cluster's DNS is pods that the plan does not know, on nodes that
	// Kubernetes chooses. They have no network yet, and no trace of them stays.
	if _, err := kubectl(ctx, b.master(), nil, "-n", "kube-system", "scale", "deployment/coredns", "--replicas=0"); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d nodes", len(b.plan.Nodes)), nil
}

// clusterConfig is what kind is asked for.
func clusterConfig(p *topology.Plan) *v1alpha4.Cluster {
	config := &v1alpha4.Cluster{
		Networking: v1alpha4.Networking{DisableDefaultCNI: true, PodSubnet: p.Network.Network.String(), ServiceSubnet: p.ServiceCIDR.String()},
	}
	for i := range p.Nodes {
		role := v1alpha4.WorkerRole
		if p.Nodes[i].Role == topology.ControlPlane {
			role = v1alpha4.ControlPlaneRole
		}
		config.Nodes = append(config.Nodes, v1alpha4.Node{Role: role})
	}
	return config
}

// createCluster has kind make the cluster. Kind knows no context: when this one
// ends, the nodes are taken away from under it until it gives up.
func (b *builder) createCluster(ctx context.Context, options ...cluster.CreateOption) error {
	kubeconfig := b.state.path("kubeconfig")
	options = append(options, cluster.CreateWithKubeconfigPath(kubeconfig), cluster.CreateWithDisplayUsage(false))
	made := make(chan error, 1)
	go func() {
		made <- onNetwork(network(b.cluster), func() error { return engine().Create(b.cluster, options...) })
	}()
	select {
	case err := <-made:
		return err
	case <-ctx.Done():
	}
	for {
		_ = engine().Delete(b.cluster, kubeconfig) // what comes after, the next time or undo takes
		select {
		case err := <-made:
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// gateway is where the default route of the first node leads that has one: that
// of the segment, where the spec names it. Docker's network has one in any case.
func gateway(p *topology.Plan) netip.Addr {
	for i := range p.Nodes {
		for _, r := range p.Nodes[i].Routes {
			if !r.Dst.IsValid() || r.Dst.Bits() == 0 {
				return r.Via
			}
		}
	}
	return netip.Addr{}
}

// explain adds what the failed command printed, which kind's errors leave out.
func explain(err error) error {
	var run *kindexec.RunError
	if !errors.As(err, &run) {
		return err
	}
	const most = 2000
	said := strings.TrimSpace(string(run.Output[max(0, len(run.Output)-most):]))
	if strings.Contains(said, "unable to apply caps") {
		said += " (root lacks a capability that privileged containers get; see hack/with-docker)"
	}
	return fmt.Errorf("%w: %s", err, said)
}

// hosts gives each node of the plan the name of its container, as kind names
// them (pkg/cluster/internal/create/config in kind's module).
func hosts(p *topology.Plan, cluster string) map[string]string {
	out, count := map[string]string{}, map[topology.Role]int{}
	for i := range p.Nodes {
		n := &p.Nodes[i]
		count[n.Role]++
		name := cluster + "-" + string(n.Role)
		if count[n.Role] > 1 {
			name += fmt.Sprint(count[n.Role])
		}
		out[n.Name] = name
	}
	return out
}

// master is the container of the control plane.
func (b *builder) master() string { return b.cluster + "-" + string(topology.ControlPlane) }

// agents puts the agent on every node, and waits until each is ready. The pods are
// made meanwhile: kubelet has them wired as soon as a node has its plugin and its
// subnet.
func (b *builder) agents(ctx context.Context) (string, error) {
	if err := b.loadAgent(); err != nil {
		return "", err
	}
	conf, err := netConf(b.plan.Network)
	if err != nil {
		return "", err
	}
	manifest, err := deploy.Manifest(deploy.Options{NetConf: conf, NoMasquerade: !b.plan.Nodes[0].Agent.IPMasq})
	if err != nil {
		return "", err
	}
	if _, err := kubectl(ctx, b.master(), bytes.NewReader(manifest), "apply", "-f", "-"); err != nil {
		return "", err
	}
	if err := b.makePods(ctx); err != nil {
		return "", err
	}
	if _, err := kubectl(ctx, b.master(), nil, "-n", deploy.Namespace, "rollout", "status", "daemonset/"+deploy.DaemonSet, "--timeout="+rolloutTimeout.String()); err != nil {
		said, _ := kubectl(ctx, b.master(), nil, "-n", deploy.Namespace, "logs", "daemonset/"+deploy.DaemonSet, "--all-containers", "--tail=20")
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return b.plan.Network.Backend.Type, nil
}

// loadAgent puts the agent's image onto all nodes, side by side.
func (b *builder) loadAgent() error {
	file := b.state.path("overlabd.tar")
	if err := agentimage.WriteFile(file, agentimage.Options{Agent: b.Agent, Plugin: b.Plugin}); err != nil {
		return err
	}
	nodes, err := engine().ListInternalNodes(b.cluster)
	if err != nil {
		return fmt.Errorf("list the nodes of %s: %w", b.cluster, err)
	}
	results := make(chan error)
	for _, n := range nodes {
		go func() {
			f, err := os.Open(file)
			if err == nil {
				err = nodeutils.LoadImageArchive(n, f)
				f.Close()
			}
			if err != nil {
				err = fmt.Errorf("load the agent's image onto %s: %w", n, explain(err))
			}
			results <- err
		}()
	}
	var errs []error
	for range nodes {
		errs = append(errs, <-results)
	}
	return errors.Join(append(errs, os.Remove(file))...)
}

// netConf is flannel's net-conf.json. The subnets are Kubernetes' to give, and
// the image has no iptables.
func netConf(c topology.NetConf) ([]byte, error) {
	b, err := json.MarshalIndent(map[string]any{
		"Network": c.Network, "EnableNFTables": true, "Backend": c.Backend,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write net-conf.json: %w", err)
	}
	return b, nil
}

// labLabel is on the pods of the plan.
const labLabel = "overlab.dev/lab"

// makePods makes the plan's pods, and waits for none.
func (b *builder) makePods(ctx context.Context) error {
	if len(b.plan.Pods) == 0 {
		return nil
	}
	pause, err := pauseImage(ctx, b.master())
	if err != nil {
		return err
	}
	on := hosts(b.plan, b.cluster)
	list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "List"}}
	for i := range b.plan.Pods {
		p := &b.plan.Pods[i]
		list.Items = append(list.Items, pod(b.plan.Name, p, on[p.Node], pause))
	}
	manifest, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("write the manifest of the pods: %w", err)
	}
	return b.applyPods(ctx, manifest)
}

// pods waits until the plan's pods run.
func (b *builder) pods(ctx context.Context) (string, error) {
	if len(b.plan.Pods) == 0 {
		return "none", nil
	}
	if _, err := kubectl(ctx, b.master(), nil, "wait", "pod", "-l", labLabel+"="+b.plan.Name, "--for=condition=Ready", "--timeout="+podTimeout.String()); err != nil {
		said, _ := kubectl(ctx, b.master(), nil, "get", "events", "--field-selector=type=Warning")
		return "", fmt.Errorf("%w: %s", err, bytes.TrimSpace(said))
	}
	return fmt.Sprintf("%d pods", len(b.plan.Pods)), nil
}

// applyPods waits for the service account that a new cluster gives pods some
// seconds after it has come up.
func (b *builder) applyPods(ctx context.Context, manifest []byte) error {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	for {
		_, err := kubectl(ctx, b.master(), bytes.NewReader(manifest), "apply", "-f", "-")
		if err == nil || !strings.Contains(err.Error(), "serviceaccount") || ctx.Err() != nil {
			return err
		}
	}
}

// pod is one pod of the plan: a process that waits, in namespaces to look at.
func pod(lab string, p *topology.Pod, node, image string) corev1.Pod {
	now, no := int64(0), false
	c := corev1.Container{Name: "pause", Image: image, ImagePullPolicy: corev1.PullNever}
	for _, port := range p.Ports {
		cp := corev1.ContainerPort{
			HostPort: int32(port.HostPort), ContainerPort: int32(port.ContainerPort), Protocol: corev1.Protocol(strings.ToUpper(port.Protocol)),
		}
		if port.HostIP.IsValid() {
			cp.HostIP = port.HostIP.String()
		}
		c.Ports = append(c.Ports, cp)
	}
	return corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: podNamespace, Labels: map[string]string{labLabel: lab}},
		Spec: corev1.PodSpec{
			NodeName:                      node,
			Containers:                    []corev1.Container{c},
			Tolerations:                   []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			TerminationGracePeriodSeconds: &now,
			AutomountServiceAccountToken:  &no,
			EnableServiceLinks:            &no,
		},
	}
}

// podNamespace is the Kubernetes namespace of the plan's pods.
const podNamespace = "default"

// pauseImage finds the image that every node has, for the sandboxes of its
// pods. A pod of a lab needs no other: what looks into it brings its tools.
func pauseImage(ctx context.Context, node string) (string, error) {
	out, err := docker(ctx, nil, "exec", node, "ctr", "--namespace=k8s.io", "images", "list", "-q")
	if err != nil {
		return "", err
	}
	for _, name := range strings.Fields(string(out)) {
		if strings.Contains(name, "/pause:") {
			return name, nil
		}
	}
	return "", fmt.Errorf("node %s has no pause image among %s", node, strings.Join(strings.Fields(string(out)), ", "))
}

// mesh reads what the cluster has decided, and waits until each node has a
// route to each other's subnet.
func (b *builder) mesh(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, meshTimeout, fmt.Errorf("after %v not every node has a route to every other's subnet", meshTimeout))
	defer cancel()
	v := &viewer{cluster: b.cluster}
	nodes, err := v.nodes(ctx)
	if err != nil {
		return "", err
	}
	plan, err := v.observe(ctx, b.plan, nodes)
	if err != nil {
		return "", err
	}
	b.state.Plan = plan
	if plan.Network.Backend.Connects() {
		if err := v.awaitRoutes(ctx, plan); err != nil {
			return "", err
		}
	}
	return "", nil
}
