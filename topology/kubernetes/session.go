package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/overlab/overlab/topology"
)

// How long parts of a session may take, on a slow cluster.
const (
	readyTimeout  = 3 * time.Minute
	removeTimeout = 2 * time.Minute
	readyPoll     = 200 * time.Millisecond
)

// session is what is ours in a cluster: one namespace.
type session struct {
	api       *api
	namespace string
	purpose   string
	owner     string
	// stop ends the renewing, and renewed is closed when it has ended.
	stop    context.CancelFunc
	renewed chan struct{}
}

// begin makes a session with probes on all nodes and the plan's pods. What it
// has made goes again when it fails.
func begin(ctx context.Context, a *api, d *Discovery, plan *topology.Plan, image, purpose string, disruptive bool) (*session, error) {
	s := &session{api: a, purpose: purpose, owner: owner()}
	ns := namespaceObject(purpose, s.owner)
	if err := a.create(ctx, namespaceResource(), "", ns); err != nil {
		return nil, fmt.Errorf("make a namespace for the probes: %w", err)
	}
	s.namespace = ns.Name
	o := &objects{namespace: ns.Name, image: image, network: d.Network, disruptive: disruptive}
	if err := s.populate(ctx, o, plan); err != nil {
		return nil, errors.Join(fmt.Errorf("make the probes in namespace %s: %w", ns.Name, err), s.remove(ctx))
	}
	s.renew(ctx)
	return s, nil
}

// populate makes the session's parts. The lease is the first of them: whoever
// keeps watch must find it.
func (s *session) populate(ctx context.Context, o *objects, plan *topology.Plan) error {
	account, role, binding := o.account()
	for _, x := range []struct {
		of resource
		runtime.Object
	}{
		{leaseResource(), o.lease(s.owner, s.seconds())},
		{accountResource(), account},
		{roleResource(), role},
		{roleBindingResource(), binding},
		{daemonSetResource(), o.probes()},
	} {
		if err := s.api.create(ctx, x.of, s.namespace, x.Object); err != nil {
			return err
		}
	}
	for i := range plan.Pods {
		if err := s.createPod(ctx, o.testPod(&plan.Pods[i])); err != nil {
			return err
		}
	}
	return s.awaitPods(ctx, plan)
}

// createPod waits for the account that each new namespace gets for its pods.
func (s *session) createPod(ctx context.Context, pod *corev1.Pod) error {
	waiting, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		err := s.api.create(waiting, podResource(), s.namespace, pod.DeepCopy())
		if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "serviceaccount") || pause(waiting, readyPoll) != nil {
			return err
		}
	}
}

// pods returns the session's pods: those of nodes by the nodes' names, the
// others by their own.
func (s *session) pods(ctx context.Context) (map[string]*corev1.Pod, error) {
	var list corev1.PodList
	if err := s.api.list(ctx, podResource(), s.namespace, "", &list); err != nil {
		return nil, fmt.Errorf("list the probes: %w", err)
	}
	out := map[string]*corev1.Pod{}
	for i := range list.Items {
		p := &list.Items[i]
		switch {
		case p.DeletionTimestamp != nil:
		case p.Labels[partLabel] == partNode:
			out[p.Spec.NodeName] = p
		default:
			out[p.Name] = p
		}
	}
	return out, nil
}

// awaitPods waits until every node and pod of the plan has a probe that is
// ready.
func (s *session) awaitPods(ctx context.Context, plan *topology.Plan) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not within %v", readyTimeout))
	defer cancel()
	names := make([]string, 0, len(plan.Nodes)+len(plan.Pods))
	for i := range plan.Nodes {
		names = append(names, plan.Nodes[i].Name)
	}
	for i := range plan.Pods {
		names = append(names, plan.Pods[i].Name)
	}
	for {
		pods, err := s.pods(ctx)
		if err != nil {
			return err
		}
		var missing []string
		for _, name := range names {
			why, hopeless := unready(pods[name])
			switch {
			case hopeless:
				return fmt.Errorf("the probe of %s does not run: %s", name, why)
			case why != "":
				missing = append(missing, name+": "+why)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if pause(ctx, readyPoll) != nil {
			return fmt.Errorf("the probes are not ready, %w: %s", context.Cause(ctx), strings.Join(missing, "; "))
		}
	}
}

// unready says why a pod is not ready, and whether waiting is of no use.
func unready(p *corev1.Pod) (why string, hopeless bool) {
	if p == nil {
		return "it has no pod", false
	}
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil {
			switch w.Reason {
			case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull":
				return fmt.Sprintf("node %s cannot get the image %s: %s (`overlab image agent` makes an archive of it to load onto the nodes; --probe-image names another)", p.Spec.NodeName, c.Image, w.Message), true
			case "CrashLoopBackOff", "CreateContainerConfigError", "RunContainerError", "CreateContainerError":
				return fmt.Sprintf("%s: %s (the image %s must have overlab in its PATH)", w.Reason, w.Message, c.Image), true
			}
			return w.Reason, false
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return "", false
		}
	}
	return "it is " + strings.ToLower(string(p.Status.Phase)), p.Status.Phase == corev1.PodFailed
}

// remove deletes the session, and returns when none of its pods runs any more.
// What is left then is the namespace's name, which the cluster takes back some
// seconds later by itself. It goes on when ctx has ended: that is when it is
// wanted.
func (s *session) remove(ctx context.Context) error {
	s.release()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), removeTimeout, fmt.Errorf("not gone after %v", removeTimeout))
	defer cancel()
	err := s.api.remove(ctx, namespaceResource(), "", s.namespace)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil || apierrors.IsConflict(err) { // it is ending already
		err = s.endPods(ctx)
	}
	if err != nil {
		return fmt.Errorf("remove the probes' namespace %s: %w (`overlab down --provider kubernetes` tries again)", s.namespace, err)
	}
	return nil
}

// endPods deletes the session's pods without waiting for the namespace's
// controller, and returns when their kubelets say that they have ended.
func (s *session) endPods(ctx context.Context) error {
	err := errors.Join(s.api.removeAll(ctx, daemonSetResource(), s.namespace), s.api.removeAll(ctx, podResource(), s.namespace))
	for err == nil {
		var left corev1.PodList
		if err = s.api.list(ctx, podResource(), s.namespace, "", &left); err != nil || len(left.Items) == 0 {
			return err
		}
		if pause(ctx, readyPoll) != nil {
			err = context.Cause(ctx)
		}
	}
	return err
}

// gone waits until the cluster has taken the namespace back.
func (s *session) gone(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, removeTimeout, fmt.Errorf("still there after %v", removeTimeout))
	defer cancel()
	for {
		err := s.api.get(ctx, namespaceResource(), "", s.namespace, new(corev1.Namespace))
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err == nil && pause(ctx, readyPoll) != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("wait for the end of namespace %s: %w", s.namespace, err)
		}
	}
}

// release leaves the session as it is; nobody renews it any more.
func (s *session) release() {
	if s.stop != nil {
		s.stop()
		<-s.renewed
	}
}

// owner says who runs this command, for others to read.
func owner() string {
	name, host := "somebody", "somewhere"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return fmt.Sprintf("%s@%s, process %d", name, host, os.Getpid())
}

// pause waits; its error is ctx's.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err()
}
