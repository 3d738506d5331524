package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/overlab/overlab/topology"
)

// Lab is an existing cluster with probes in it.
type Lab struct {
	client  *client
	session *session
	found   *Discovery
	plan    *topology.Plan
	notes   []string
	pods    map[string]*corev1.Pod
	began   time.Time
	dir     string
	tell    func(string)
}

var _ topology.Lab = (*Lab)(nil)

// Found is what the API tells of the cluster.
func (l *Lab) Found() *Discovery { return l.found }

// Plan implements topology.Lab: the cluster as it was found.
func (l *Lab) Plan() *topology.Plan { return l.plan }

// Machine says what the first node is, for reports.
func (l *Lab) Machine() Machine { return l.found.Nodes[0].Machine }

// addresses fills in what the API knows of the pods by now.
func (l *Lab) addresses() error {
	for i := range l.plan.Pods {
		p := &l.plan.Pods[i]
		if err := setAddress(p, l.pods[p.Name]); err != nil {
			return err
		}
	}
	return nil
}

// Namespace implements topology.Lab. The result is never topology.Local, also
// where the cluster is on this machine.
func (l *Lab) Namespace(name string) (topology.Namespace, error) {
	if p := l.pods[name]; p != nil && (l.plan.Node(name) != nil || l.plan.Pod(name) != nil) {
		return &namespace{client: l.client, name: name, space: p.Namespace, podName: p.Name}, nil
	}
	var names []string
	for i := range l.plan.Nodes {
		names = append(names, l.plan.Nodes[i].Name)
	}
	for i := range l.plan.Pods {
		names = append(names, l.plan.Pods[i].Name)
	}
	return nil, fmt.Errorf("lab %s has no node or pod %q; it has %s", l.plan.Name, name, strings.Join(names, " "))
}

// Status implements topology.Lab.
func (l *Lab) Status(context.Context) (topology.Status, error) {
	return topology.Status{
		Name: l.plan.Name, Provider: Name, Created: l.began, State: "running",
		Nodes: len(l.plan.Nodes), Pods: len(l.plan.Pods), Dir: l.dir, Found: l.describe(),
	}, nil
}

// describe says what was found, a line each.
func (l *Lab) describe() []string {
	d, n := l.found, l.found.Network
	out := []string{fmt.Sprintf("cluster: context %s, Kubernetes %s", l.client.context, d.Version)}
	switch {
	case n.Plugin == "":
		out = append(out, "pod network: no DaemonSet is known to be one")
	default:
		out = append(out, fmt.Sprintf("pod network: %s, DaemonSet %s, image %s", n.Plugin, n.DaemonSet, n.Image))
	}
	if n.Pods.IsValid() {
		out = append(out, fmt.Sprintf("pods' addresses: %s, by %s", n.Pods, n.PodsFrom))
	}
	out = append(out, l.notes...)
	for _, why := range d.LeftOut {
		out = append(out, "left out: node "+why)
	}
	return append(out, fmt.Sprintf("probes: namespace %s, of %s", l.session.namespace, l.session.owner))
}

// Nodes returns the cluster's nodes as the API has them, a NodeList in JSON: the
// leases are annotations of theirs.
func (l *Lab) Nodes(ctx context.Context) ([]byte, error) {
	var list corev1.NodeList
	if err := l.client.list(ctx, nodeResource(), "", "", &list); err != nil {
		return nil, fmt.Errorf("list the cluster's nodes: %w", err)
	}
	// Nodes without a probe are not judged, nor are their leases.
	list.Items = slices.DeleteFunc(list.Items, func(n corev1.Node) bool { return l.plan.Node(n.Name) == nil })
	return json.Marshal(list)
}

// Close removes the probes, unless they are kept, and returns when none of them
// runs any more. It says so where that fails: few look at its error.
func (l *Lab) Close() error {
	var err error
	if l.session.purpose == kept {
		l.session.release()
	} else {
		err = l.session.remove(context.Background())
	}
	if err != nil {
		l.tell(err.Error())
	}
	return errors.Join(err, os.RemoveAll(l.dir))
}
