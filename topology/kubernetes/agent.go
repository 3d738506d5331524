package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RestartAgent deletes the pod of the network's DaemonSet on a node, and returns
// when the next one is ready. Only checks that disturb call it.
func (l *Lab) RestartAgent(ctx context.Context, node string) error {
	before, err := l.agent(ctx, node, "")
	if err == nil && before == nil {
		err = errors.New("there is none")
	}
	if err == nil {
		err = l.client.remove(ctx, podResource(), before.Namespace, before.Name)
	}
	for err == nil {
		var now *corev1.Pod
		if now, err = l.agent(ctx, node, before.UID); now != nil {
			if why, _ := unready(now); why == "" {
				return nil
			}
		}
		if err == nil {
			err = pause(ctx, readyPoll)
		}
	}
	return fmt.Errorf("restart the agent of node %s: %w", node, err)
}

// agent finds the pod of the network's DaemonSet on a node that is not the one
// that was, nil if there is none.
func (l *Lab) agent(ctx context.Context, node string, was types.UID) (*corev1.Pod, error) {
	namespace, set, _ := strings.Cut(l.found.Network.DaemonSet, "/")
	if set == "" {
		return nil, errors.New("no DaemonSet is known to be the cluster's network")
	}
	var pods corev1.PodList
	if err := l.client.list(ctx, podResource(), namespace, "", &pods); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		for _, owner := range p.OwnerReferences {
			if p.Spec.NodeName == node && owner.Kind == "DaemonSet" && owner.Name == set && p.UID != was {
				return p, nil
			}
		}
	}
	return nil, nil
}
