// Package kind runs a lab as a real Kubernetes cluster whose nodes are Docker
// containers, by kind (https://kind.sigs.k8s.io). The agent is a DaemonSet with
// its leases in the Kubernetes API, and pods are Kubernetes pods.
//
// What a cluster decides by itself, the addresses of nodes, their subnets, the
// addresses of pods, is taken from it: a lab's plan is the spec's as it came
// out.
package kind

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/kind/pkg/cluster"
	"sigs.k8s.io/kind/pkg/log"

	"github.com/overlab/overlab/topology"
)

// Provider is the kind provider.
type Provider struct {
	// Agent and Plugin are the files of overlabd and overlab-cni, of which the
	// agent's image is made.
	Agent, Plugin string
}

var _ topology.Provider = (*Provider)(nil)

// Name implements topology.Provider.
func (*Provider) Name() string { return "kind" }

// Check implements topology.Provider.
func (p *Provider) Check(ctx context.Context, plan *topology.Plan) error {
	errs := limits(plan)
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("a lab of provider kind needs root, to look into the namespaces of its nodes: sudo overlab up …"))
	}
	if p.Agent == "" || p.Plugin == "" {
		errs = append(errs, errors.New("overlabd and overlab-cni are neither beside overlab nor in PATH: run `make build`, or `go install github.com/overlab/overlab/cmd/...`"))
	}
	if err := watchesLeft(len(plan.Nodes)); err != nil {
		errs = append(errs, err)
	}
	if err := reachable(ctx); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// limits names what a plan asks for that a cluster of kind's has not.
func limits(p *topology.Plan) []error {
	var errs []error
	refuse := func(wrong bool, format string, a ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, a...))
		}
	}
	b := p.Network.Backend.Type
	refuse(b != "vxlan" && b != "host-gw" && b != "alloc", "spec.network.Backend.Type: %s is not on provider kind in this build, which has vxlan, host-gw and alloc there", b)
	refuse(p.Network.EnableIPv6, "spec.network.EnableIPv6: provider kind of this build carries IPv4 alone")
	refuse(p.Network.SubnetLen != 24, "spec.network.SubnetLen: kind's cluster gives each node a /24, not a /%d: leave it out", p.Network.SubnetLen)
	refuse(len(p.Segments) > 1 || len(p.Routers) > 0, "spec.underlay: the nodes of provider kind are on one segment, without routers")
	refuse(p.Runtime == topology.RuntimeContainerd, "spec.runtime: the pods of provider kind are Kubernetes', of an image of its own; leave it out")
	refuse(p.CNI.Conflist != nil, "spec.cni.conflist: provider kind of this build wires pods by the bundled plugin; leave it out")
	masters := 0
	for i := range p.Nodes {
		n := &p.Nodes[i]
		if n.Role == topology.ControlPlane {
			masters++
		}
		refuse(len(n.Interfaces) > 1, "spec.nodes: %s has %d interfaces, and a node of provider kind has one", n.Name, len(n.Interfaces))
		refuse(len(n.Agent.Command) > 0 || len(n.Agent.Args) > 0 || n.Agent.ByHand || n.Agent.PublicIP.IsValid(),
			"spec.agent: %s has an agent of its own making, and provider kind of this build runs the bundled one, alike on all nodes", n.Name)
		refuse(n.Agent.IPMasq != p.Nodes[0].Agent.IPMasq, "spec.agent.ipMasq: %s and %s differ, and one DaemonSet is for all", n.Name, p.Nodes[0].Name)
	}
	refuse(masters != 1, "spec.nodes: kind needs exactly one node of role control-plane, and there are %d", masters)
	return errs
}

// clusterName is what kind calls a lab's cluster.
func clusterName(lab string) string { return "overlab-" + lab }

func engine() *cluster.Provider {
	return cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(log.NoopLogger{}))
}

// Up implements topology.Provider.
func (p *Provider) Up(ctx context.Context, plan *topology.Plan, o topology.UpOptions) (topology.Lab, error) {
	if err := p.Check(ctx, plan); err != nil {
		return nil, err
	}
	s, err := claim(plan.Name)
	if err != nil {
		return nil, err
	}
	b := &builder{Provider: p, plan: plan, state: s, cluster: clusterName(plan.Name), options: o}
	if err := b.build(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return nil, errors.Join(err, b.undo(context.WithoutCancel(ctx)))
	}
	return open(ctx, s)
}

// undo removes what was built of a lab.
func (b *builder) undo(ctx context.Context) error { return destroy(ctx, b.state, b.cluster) }

// destroy removes the cluster, its network, the image that the lab put into
// Docker, and the state folder. It goes on when one of them fails.
func destroy(ctx context.Context, s *state, name string) error {
	errs := []error{engine().Delete(name, s.path("kubeconfig"))}
	if out, err := docker(ctx, nil, "network", "ls", "-q", "--filter", "name=^"+network(name)+"$"); err != nil || len(out) > 0 {
		_, rm := docker(ctx, nil, "network", "rm", network(name))
		errs = append(errs, err, rm)
	}
	if s.Image != "" {
		errs = append(errs, removeImage(ctx, s.Image))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what is left of the cluster %s: %w", name, err)
	}
	return s.remove()
}

// Open implements topology.Provider.
func (*Provider) Open(ctx context.Context, name string) (topology.Lab, error) {
	s, err := load(name)
	if err != nil {
		return nil, err
	}
	return open(ctx, s)
}

// List implements topology.Provider.
func (*Provider) List(ctx context.Context) ([]topology.Status, error) {
	labs, err := names()
	if err != nil || len(labs) == 0 {
		return nil, err
	}
	var out []topology.Status
	var errs []error
	for _, name := range labs {
		s, err := load(name)
		if errors.Is(err, topology.ErrNoLab) { // it is coming up, or its Up was killed
			out = append(out, topology.Status{Name: name, Provider: "kind", State: "starting"})
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		status := s.summary()
		if running, err := containers(ctx, clusterName(name)); err != nil || len(running) < len(s.Plan.Nodes) {
			status.State = "broken"
		}
		out = append(out, status)
	}
	return out, errors.Join(errs...)
}

// summary is what is known of a lab without looking at it.
func (s *state) summary() topology.Status {
	return topology.Status{
		Name: s.Plan.Name, Provider: "kind", Created: s.Created, State: "running",
		Nodes: len(s.Plan.Nodes), Pods: len(s.Plan.Pods), Phases: s.Phases, Dir: s.dir,
	}
}

// containers lists the names of a cluster's containers that run.
func containers(ctx context.Context, name string) ([]string, error) {
	out, err := docker(ctx, nil, "ps", "--filter", "label=io.x-k8s.kind.cluster="+name, "--format", "{{.Names}}")
	return strings.Fields(string(out)), err
}

// Down implements topology.Provider. It also ends what an Up that was killed
// has left.
func (*Provider) Down(ctx context.Context, name string) error {
	labs, err := names()
	if err != nil {
		return err
	}
	if !slices.Contains(labs, name) {
		return fmt.Errorf("lab %s: %w", name, topology.ErrNoLab)
	}
	s, err := load(name)
	if errors.Is(err, topology.ErrNoLab) {
		s, err = unfinished(name)
	}
	if err != nil {
		return err
	}
	return destroy(ctx, s, clusterName(name))
}

// builder is a lab that is coming up.
type builder struct {
	*Provider
	plan    *topology.Plan
	state   *state
	cluster string
	options topology.UpOptions
}

// phase does one phase, and tells of it.
func (b *builder) phase(name string, do func() (detail string, err error)) error {
	tell := b.options.Progress
	if tell == nil {
		tell = func(topology.Phase) {}
	}
	tell(topology.Phase{Name: name})
	began := time.Now()
	detail, err := do()
	if err != nil {
		return err
	}
	ph := topology.Phase{Name: name, Took: time.Since(began), Detail: detail}
	b.state.Phases = append(b.state.Phases, ph)
	tell(ph)
	return nil
}
