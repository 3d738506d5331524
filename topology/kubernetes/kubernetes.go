// Package kubernetes judges an existing cluster: the lab is the cluster itself,
// found by kubeconfig and context. Probes run as a DaemonSet in the nodes'
// networks and as pods beside those that the cluster has, in a namespace of
// their own, and go when the command ends.
//
// Nothing else is changed, and nothing is assumed of where the nodes are: all
// that is measured goes over the API's exec streams.
package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/topology"
)

// Name is the provider's.
const Name = "kubernetes"

// Provider is the kubernetes provider. It has one lab, the cluster that Access
// chooses; the names of labs that it is asked for are not looked at.
type Provider struct {
	Access
	// Image is that of the probes; it has overlab in its PATH.
	Image string
	// Disruptive says that checks may change the cluster for a while. Such a
	// session is its command's own.
	Disruptive bool
	// Complete fills in what only the nodes' kernels know, and the wire between
	// them: it returns the plan, and a line for each thing that it found.
	Complete func(ctx context.Context, lab *Lab) (*topology.Plan, []string, error)
	// Tell, when set, is told of what takes time, and of what could not be
	// removed.
	Tell func(string)
}

var _ topology.Provider = (*Provider)(nil)

// Name implements topology.Provider.
func (*Provider) Name() string { return Name }

// Check implements topology.Provider.
func (p *Provider) Check(ctx context.Context, _ *topology.Plan) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	_, err = discover(ctx, c.api)
	return err
}

// Peek returns the plan as far as the API knows it; it makes no probes.
func (p *Provider) Peek(ctx context.Context) (*topology.Plan, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	d, err := discover(ctx, c.api)
	if err != nil {
		return nil, err
	}
	return d.plan(c.context), nil
}

// Up implements topology.Provider: it makes probes that stay for later commands,
// until Down, or an hour after the last one. Of the plan nothing is used: the
// cluster has its own.
func (p *Provider) Up(ctx context.Context, _ *topology.Plan, o topology.UpOptions) (topology.Lab, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	switch s, err := find(ctx, c); {
	case err != nil:
		return nil, err
	case s != nil:
		return nil, fmt.Errorf("a session of probes %w in the cluster %s: namespace %s, of %s", topology.ErrRunning, c.context, s.namespace, s.owner)
	}
	return p.open(ctx, c, kept, o.Progress)
}

// Open implements topology.Provider: it makes probes for as long as the lab is
// open, or joins those of Up.
func (p *Provider) Open(ctx context.Context, _ string) (topology.Lab, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	return p.open(ctx, c, forCommand, nil)
}

func (p *Provider) open(ctx context.Context, c *client, purpose string, progress func(topology.Phase)) (_ *Lab, err error) {
	l := &Lab{client: c, began: time.Now(), tell: p.tell}
	if l.found, err = discover(ctx, c.api); err != nil {
		return nil, fmt.Errorf("look at the cluster %s: %w", c.context, err)
	}
	l.plan = l.found.plan(c.context)
	if progress == nil {
		progress = func(ph topology.Phase) {
			if ph.Took > 0 {
				p.tell(fmt.Sprintf("%s: %s (%.1f s)", ph.Name, ph.Detail, ph.Took.Seconds()))
			}
		}
	}
	phase := func(name string, began time.Time, detail string) {
		progress(topology.Phase{Name: name, Took: time.Since(began), Detail: detail})
	}
	began := time.Now()
	if purpose == forCommand && !p.Disruptive {
		if l.session, err = find(ctx, c); err != nil {
			return nil, err
		}
	}
	if l.session != nil {
		l.session.renew(ctx)
	} else {
		progress(topology.Phase{Name: "probes"})
		if l.session, err = begin(ctx, c.api, l.found, l.plan, p.Image, purpose, p.Disruptive); err != nil {
			return nil, err
		}
		phase("probes", began, fmt.Sprintf("on %d nodes and in %d pods of namespace %s", len(l.plan.Nodes), len(l.plan.Pods), l.session.namespace))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.abandon(ctx, purpose))
		}
	}()
	if l.dir, err = os.MkdirTemp("", "overlab-kubernetes-"); err != nil {
		return nil, fmt.Errorf("make a folder for reports: %w", err)
	}
	if l.pods, err = l.session.pods(ctx); err != nil {
		return nil, err
	}
	if err = l.addresses(); err != nil {
		return nil, err
	}
	if p.Complete != nil {
		began := time.Now()
		plan, notes, err := p.Complete(ctx, l)
		if err != nil {
			return nil, fmt.Errorf("look at the network of %s: %w", c.context, err)
		}
		l.plan, l.notes = plan, notes
		phase("network", began, fmt.Sprintf("%s %s", plan.Network.Backend.Type, plan.Network.Network))
	}
	return l, nil
}

// abandon ends a lab that did not open: with the session, if it is of this
// command's making.
func (l *Lab) abandon(ctx context.Context, purpose string) error {
	var err error
	if l.session.purpose == purpose {
		err = l.session.remove(ctx)
	} else {
		l.session.release()
	}
	if l.dir != "" {
		err = errors.Join(err, os.RemoveAll(l.dir))
	}
	return err
}

func (p *Provider) tell(what string) {
	if p.Tell != nil {
		p.Tell(what)
	}
}

// find returns the session that Up has made, nil if there is none.
func find(ctx context.Context, c *client) (*session, error) {
	all, err := sessions(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, s := range all {
		if s.purpose == kept {
			return s, nil
		}
	}
	return nil, nil
}

// sessions lists what is ours in a cluster and not ending.
func sessions(ctx context.Context, c *client) ([]*session, error) {
	var list corev1.NamespaceList
	if err := c.list(ctx, namespaceResource(), "", sessionLabel, &list); err != nil {
		return nil, fmt.Errorf("look for probes in the cluster %s: %w", c.context, err)
	}
	var out []*session
	for _, ns := range list.Items {
		if ns.Status.Phase != corev1.NamespaceTerminating {
			out = append(out, &session{api: c.api, namespace: ns.Name, purpose: ns.Labels[sessionLabel], owner: ns.Annotations[ownerAnnotation]})
		}
	}
	return out, nil
}

// List implements topology.Provider: it lists the sessions in the cluster.
func (p *Provider) List(ctx context.Context) ([]topology.Status, error) {
	c, err := p.connect()
	if err != nil {
		return nil, err
	}
	var list corev1.NamespaceList
	if err := c.list(ctx, namespaceResource(), "", sessionLabel, &list); err != nil {
		return nil, fmt.Errorf("look for probes in the cluster %s: %w", c.context, err)
	}
	var out []topology.Status
	for _, ns := range list.Items {
		s := topology.Status{Name: labName(c.context), Provider: Name, Created: ns.CreationTimestamp.Time, State: "running", Dir: ns.Name}
		if ns.Status.Phase == corev1.NamespaceTerminating {
			s.State = "ending"
		}
		var pods corev1.PodList
		if err := c.list(ctx, podResource(), ns.Name, "", &pods); err != nil {
			return nil, fmt.Errorf("list the probes of %s: %w", ns.Name, err)
		}
		for i := range pods.Items {
			if pods.Items[i].Labels[partLabel] == partNode {
				s.Nodes++
			} else {
				s.Pods++
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// Down implements topology.Provider: it removes every session from the cluster,
// also those that commands were killed in, and those of others. It returns when
// the cluster has none of their names any more.
func (p *Provider) Down(ctx context.Context, _ string) error {
	c, err := p.connect()
	if err != nil {
		return err
	}
	all, err := sessions(ctx, c)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return fmt.Errorf("the cluster %s has no probes of overlab's: %w", c.context, topology.ErrNoLab)
	}
	errs := make([]error, len(all))
	for i, s := range all {
		p.tell(fmt.Sprintf("removing namespace %s, of %s", s.namespace, s.owner))
		errs[i] = s.remove(ctx)
	}
	for i, s := range all {
		if errs[i] == nil {
			errs[i] = s.gone(ctx)
		}
	}
	return errors.Join(errs...)
}

// setAddress takes a pod's IPv4 address from the API.
func setAddress(p *topology.Pod, pod *corev1.Pod) error {
	if pod == nil {
		return fmt.Errorf("there is no pod %s: `overlab down --provider kubernetes` clears what is left of a session", p.Name)
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil && a.Is4() {
			p.Address = netip.PrefixFrom(a, a.BitLen())
			return nil
		}
	}
	return fmt.Errorf("the pod %s of node %s has no IPv4 address", p.Name, p.Node)
}
