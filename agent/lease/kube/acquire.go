package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/overlab/overlab/agent/lease"
)

// Self implements lease.Registry.
func (s *Store) Self(ctx context.Context, c *lease.Config) (lease.Self, error) {
	n, err := s.own(ctx)
	if err != nil {
		return lease.Self{}, err
	}
	self := lease.Self{}
	if self.Key, err = assigned(n, c); err != nil {
		return lease.Self{}, err
	}
	if self.PublicIP, err = s.annotations.address(n.Annotations, s.annotations.nodePublicIP, netip.Addr.Is4); err != nil {
		return lease.Self{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if self.PublicIPv6, err = s.annotations.address(n.Annotations, s.annotations.nodePublicIPv6, netip.Addr.Is6); err != nil {
		return lease.Self{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if self.Shown, self.ShownV6, err = s.annotations.shown(n.Annotations); err != nil {
		return lease.Self{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	// What cannot be read is written anew.
	self.Attrs, _ = s.annotations.read(n.Annotations)
	return self, nil
}

// Acquire implements lease.Store: the subnet is the podCIDR, and the
// annotations are written only where they say something else.
func (s *Store) Acquire(ctx context.Context, c lease.Claim) (lease.Grant, error) {
	n, err := s.own(ctx)
	if err != nil {
		return lease.Grant{}, err
	}
	attrs, err := s.annotations.overwrite(c.Attrs, n.Annotations)
	if err != nil {
		return lease.Grant{}, fmt.Errorf("node %s: %w", n.Name, err)
	}
	if _, err := assigned(n, c.Config); err != nil {
		return lease.Grant{}, err
	}
	if different := s.different(n, attrs); different {
		if n, err = s.annotate(ctx, n, attrs); err != nil {
			return lease.Grant{}, err
		}
	}
	g := lease.Grant{Lease: lease.Lease{Attrs: attrs}, Bound: true}
	if g.Lease.Key, err = assigned(n, c.Config); err != nil {
		return lease.Grant{}, err
	}
	if g.Lease.Revision, err = revision(n.ResourceVersion); err != nil {
		return lease.Grant{}, err
	}
	return g, nil
}

// different reports whether the node's annotations do not say what attrs say,
// letter for letter.
func (s *Store) different(n *corev1.Node, attrs lease.Attrs) bool {
	for key, want := range s.annotations.values(attrs) {
		if have, found := n.Annotations[key]; have != want || found != (want != "") {
			return true
		}
	}
	return false
}

// annotate writes the annotations, and removes those that another
// configuration has left.
func (s *Store) annotate(ctx context.Context, n *corev1.Node, attrs lease.Attrs) (*corev1.Node, error) {
	write := map[string]any{}
	for key, value := range s.annotations.values(attrs) {
		if _, found := n.Annotations[key]; value != "" {
			write[key] = value
		} else if found {
			write[key] = nil
		}
	}
	merge, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": write}})
	if err != nil {
		return nil, fmt.Errorf("write the annotations of node %s: %w", n.Name, err)
	}
	return s.patch(ctx, n.Name, merge)
}

// Announce implements lease.Announcer: it sets the node's condition
// NetworkUnavailable to False, in flannel's words, unless Config forbids it.
// Until then a node of some clouds is tainted, and gets no pods.
func (s *Store) Announce(ctx context.Context) error {
	if !s.config.AnnounceNetwork {
		return nil
	}
	n, err := s.own(ctx)
	if err != nil {
		return err
	}
	now := metav1.Now()
	want := corev1.NodeCondition{
		Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse,
		Reason: "FlannelIsUp", Message: "Flannel is running on this node",
		LastTransitionTime: now, LastHeartbeatTime: now,
	}
	for _, have := range n.Status.Conditions {
		if have.Type == want.Type && have.Status == want.Status && have.Reason == want.Reason {
			return nil
		}
	}
	merge, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{want}}})
	if err != nil {
		return fmt.Errorf("write the conditions of node %s: %w", n.Name, err)
	}
	_, err = s.patch(ctx, n.Name, merge)
	return err
}
