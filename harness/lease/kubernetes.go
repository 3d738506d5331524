package lease

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/overlab/overlab/topology"
)

// annotation begins the keys by which a node of Kubernetes is a lease
// (flannel's pkg/subnet/kube/annotations.go).
const annotation = "flannel.alpha.coreos.com/"

// madeLabel is on the nodes that Put made; its value is the lease's key.
const madeLabel = "overlab.dev/lease"

// node is what a lease is made of in the Kubernetes API.
type node struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels,omitempty"`
		Annotations map[string]string `json:"annotations,omitempty"`
	} `json:"metadata"`
	Spec struct {
		PodCIDR  string   `json:"podCIDR,omitempty"`
		PodCIDRs []string `json:"podCIDRs,omitempty"`
	} `json:"spec"`
}

// cluster is the lab's, where its leases are in the Kubernetes API.
func cluster(lab topology.Lab) (topology.Cluster, bool) {
	c, ok := lab.(topology.Cluster)
	return c, ok && lab.Plan().Store.Type == "kubernetes"
}

// nodeLister is a lab whose leases can be read and not written.
type nodeLister interface {
	// Nodes returns a NodeList of the Kubernetes API in JSON.
	Nodes(ctx context.Context) ([]byte, error)
}

// nodesOf asks for the nodes of a lab that has its leases in the Kubernetes API;
// false is one that has not.
func nodesOf(ctx context.Context, lab topology.Lab) (out []byte, there bool, err error) {
	if c, ok := cluster(lab); ok {
		out, err = c.Kubectl(ctx, nil, "get", "nodes", "-o", "json")
		return out, true, err
	}
	if l, ok := lab.(nodeLister); ok && lab.Plan().Store.Type == "kubernetes" {
		out, err = l.Nodes(ctx)
		return out, true, err
	}
	return nil, false, nil
}

// withAgent reads those nodes of a cluster that have an agent: each is a lease.
func withAgent(out []byte) ([]node, error) {
	var list struct{ Items []node }
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("the nodes of the cluster: %w", err)
	}
	return slices.DeleteFunc(list.Items, func(n node) bool {
		return n.Metadata.Annotations[annotation+"kube-subnet-manager"] != "true"
	}), nil
}

// lease reads a node's annotations.
func (n *node) lease() (Lease, error) {
	say := n.Metadata.Annotations
	subnet, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil {
		return Lease{}, fmt.Errorf("its podCIDR: %w", err)
	}
	address, err := netip.ParseAddr(say[annotation+"public-ip"])
	if err != nil {
		return Lease{}, fmt.Errorf("annotation %spublic-ip: %w", annotation, err)
	}
	l := Lease{Subnet: subnet, PublicIP: address, BackendType: say[annotation+"backend-type"], Key: Key(subnet)}
	if l.BackendType == "vxlan" {
		l.VNI, l.VtepMAC, err = vtep([]byte(say[annotation+"backend-data"]))
	}
	return l, err
}

// putNode makes or changes a node that has no machine.
func putNode(ctx context.Context, c topology.Cluster, l Lease) error {
	data := []byte("null")
	if l.BackendType == "vxlan" {
		var err error
		if data, err = json.Marshal(map[string]any{"VNI": l.VNI, "VtepMAC": l.VtepMAC}); err != nil {
			return err
		}
	}
	n := node{APIVersion: "v1", Kind: "Node"}
	n.Metadata.Name = "overlab-" + strings.ReplaceAll(l.Key, ".", "-")
	// The second keeps the agents' DaemonSet from waiting for it.
	n.Metadata.Labels = map[string]string{madeLabel: l.Key, "overlab.dev/no-agent": "true"}
	n.Metadata.Annotations = map[string]string{
		annotation + "kube-subnet-manager": "true",
		annotation + "backend-type":        l.BackendType,
		annotation + "backend-data":        string(data),
		annotation + "public-ip":           l.PublicIP.String(),
	}
	n.Spec.PodCIDR, n.Spec.PodCIDRs = l.Subnet.String(), []string{l.Subnet.String()}
	b, err := json.Marshal(n)
	if err == nil {
		_, err = c.Kubectl(ctx, bytes.NewReader(b), "apply", "-f", "-")
	}
	return err
}

// deleteNode deletes a node that putNode made, and no other.
func deleteNode(ctx context.Context, c topology.Cluster, key string) error {
	_, err := c.Kubectl(ctx, nil, "delete", "node", "-l", madeLabel+"="+key, "--ignore-not-found", "--wait=false")
	return err
}
