package cni

import (
	"encoding/json"
	"errors"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/cni/portmap"
)

// target is one pod's part of the network's port mappings.
func (n *network) target(r Request, ips []podIP) portmap.Target {
	t := portmap.Target{
		Owner:    portmap.Owner{ContainerID: r.ContainerID, IfName: r.IfName},
		Mappings: n.bridge.RuntimeConfig.PortMappings,
	}
	for _, ip := range ips {
		t.Addresses = append(t.Addresses, ip.address)
	}
	return t
}

// withPorts calls fn with the network's port mappings. There are none, and
// nothing to call, where the kernel has no netfilter to ask.
func (n *network) withPorts(fn func(*portmap.Table) error) error {
	t, err := portmap.Open(n.bridge.Name, n.bridge.Bridge)
	if errors.Is(err, unix.EPROTONOSUPPORT) && len(n.bridge.RuntimeConfig.PortMappings) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(fn(t), t.Close())
}

// mapPorts makes the ports of the node lead to the pods that asked for them.
func (a *adding) mapPorts(pods []*pod) error {
	if len(a.network.bridge.RuntimeConfig.PortMappings) == 0 {
		return nil
	}
	var targets []portmap.Target
	for _, p := range pods {
		t := a.network.target(p.Request, p.ips)
		a.undo.push(func() error { return unmapPorts(a.network, t.Owner) })
		targets = append(targets, t)
	}
	err := a.network.withPorts(func(t *portmap.Table) error { return t.Add(targets...) })
	if errors.Is(err, portmap.ErrTaken) {
		return coded(ErrHostPort, "network "+a.conf.Name, err)
	}
	if err != nil {
		return coded(ErrKernel, "map ports of network "+a.conf.Name, err)
	}
	return nil
}

// unmapPorts takes back what mapPorts added for one pod. It does not ask for
// which ports that was: a runtime need not repeat them to DEL.
func unmapPorts(n *network, o portmap.Owner) error {
	return n.withPorts(func(t *portmap.Table) error { return t.Remove(o) })
}

// ports checks the pod's port mappings: those that the runtime repeats, or
// else those of the record, which is of the container's last ADD.
func (c *checking) ports() error {
	n := c.network
	if given, ok := c.Config.RuntimeConfig["portMappings"]; ok {
		b, err := json.Marshal(given)
		if err == nil {
			n.bridge.RuntimeConfig.PortMappings = nil
			err = json.Unmarshal(b, &n.bridge.RuntimeConfig.PortMappings)
		}
		if err != nil {
			return coded(types.ErrDecodingFailure, "runtimeConfig: portMappings", err)
		}
	}
	if len(n.bridge.RuntimeConfig.PortMappings) == 0 {
		return nil
	}
	return n.withPorts(func(t *portmap.Table) error {
		missing, err := t.Check(n.target(c.Request, c.ips))
		for _, m := range missing {
			c.found("%s", m)
		}
		return err
	})
}
