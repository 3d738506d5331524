package netns

import (
	"context"
	"errors"
	"fmt"

	"github.com/overlab/overlab/agent/cni"
	"github.com/overlab/overlab/topology"
)

// wirePods wires each node's pods as soon as its agent has written subnet.env.
func (l *lab) wirePods(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, meshTimeout, fmt.Errorf("not after %s", meshTimeout))
	defer cancel()
	err := eachSubnetFile(ctx, l.plan, func(node string) error {
		pods := l.plan.PodsOn(node)
		if len(pods) == 0 {
			return nil
		}
		wire := l.runBundled
		if l.plan.CNI.Conflist != nil {
			wire = l.runPlugins
		}
		err := l.spaces[node].set.Do(func() error { return wire(ctx, l.plan.Node(node), pods) })
		if err != nil {
			return fmt.Errorf("wire the pods of node %s: %w", node, err)
		}
		return nil
	})
	var missing *noSubnetFile
	if errors.As(err, &missing) {
		return fmt.Errorf("%w; %s", err, l.agents[missing.node].logTail())
	}
	return err
}

// runBundled wires a node's pods by the bundled plugin as a library, all at
// once but for those that have ports of the node.
func (l *lab) runBundled(ctx context.Context, n *topology.Node, pods []topology.Pod) error {
	requests := l.cniRequests(n, pods)
	var batches [][]cni.Request
	var plain []cni.Request
	for i, r := range requests {
		if len(pods[i].Ports) == 0 {
			plain = append(plain, r)
			continue
		}
		conf := *r.Config
		conf.RuntimeConfig = map[string]any{"portMappings": pods[i].Ports}
		r.Config = &conf
		batches = append(batches, []cni.Request{r})
	}
	// Where the agent does not masquerade, the plugin does, by running nft.
	return l.procs.lend(func() error {
		for _, b := range append(batches, plain) {
			if _, err := cni.AddAll(ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
}

// cniRequests are the ADDs of a node's pods, in the configuration of flannel's
// manifest (kube-flannel.yml) and with what the plan fixes.
func (l *lab) cniRequests(n *topology.Node, pods []topology.Pod) []cni.Request {
	version := "0.3.1"
	if l.plan.CNI.LegacyRecords {
		version = "" // the manifests of that time named none
	}
	conf := &cni.Config{
		CNIVersion:    version,
		Name:          "cbr0",
		Type:          "overlab-cni",
		Delegate:      map[string]any{"hairpinMode": true, "isDefaultGateway": true},
		BridgeMAC:     n.BridgeMAC.String(),
		LegacyRecords: l.plan.CNI.LegacyRecords,
	}
	requests := make([]cni.Request, len(pods))
	for i, pod := range pods {
		requests[i] = cni.Request{
			ContainerID: pod.ContainerID,
			Netns:       nsPath(pod.Name, "net"),
			IfName:      "eth0",
			Args:        fmt.Sprintf("IgnoreUnknown=1;IP=%s;MAC=%s;HostInterface=%s", addresses(&pod), pod.MAC, pod.HostInterface),
			Config:      conf,
		}
	}
	return requests
}

// addresses are what the plan fixes of a pod, in the form of CNI_ARGS.
func addresses(pod *topology.Pod) string {
	if !pod.Address6.IsValid() {
		return pod.Address.String()
	}
	return pod.Address.String() + "," + pod.Address6.String()
}
