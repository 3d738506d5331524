package cni

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// The error codes that the CNI specification has for STATUS ("Error codes").
// Both say that an ADD could not make a pod that is on the overlay.
const (
	// errPluginNotAvailable says no more than that.
	errPluginNotAvailable uint = 50
	// errLimitedConnectivity says besides that the pods which are there may
	// not reach everything.
	errLimitedConnectivity uint = 51
)

// Status tells whether an ADD could succeed now. Its error has code 50 where
// the configuration is none that this plugin can serve, or the agent has not
// written the node's subnet; and code 51 where the subnet is known, but
// something that the pods' packets pass on this node is broken: a device of
// the overlay, the bridge, or forwarding. The text names each.
func Status(c *Config) error {
	n, err := c.resolve()
	if err != nil {
		return &failure{types.NewError(errPluginNotAvailable, err.Error(), ""), err}
	}
	broken, err := n.broken()
	if err != nil {
		return coded(types.ErrInternal, "network "+c.Name, err)
	}
	if len(broken) > 0 {
		return types.NewError(errLimitedConnectivity, fmt.Sprintf("network %s: %s", c.Name, strings.Join(broken, "; ")), "")
	}
	return nil
}

// broken lists what is wrong with the node's part of the network.
func (n *network) broken() ([]string, error) {
	k, err := openKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	overlay, err := k.overlayDown()
	if err != nil {
		return nil, err
	}
	bridge, err := k.bridgeBroken(n)
	if err != nil {
		return nil, err
	}
	return slices.Concat(overlay, bridge), nil
}

// overlayDown names the devices of flannel's backends (flannel.1,
// flannel-v6.1, flannel0, flannel.ipip, flannel-wg) that are down. A backend
// without a device has none, so that one which is missing cannot be told.
func (k *kernel) overlayDown() (broken []string, err error) {
	links, err := k.read.LinkList()
	if err != nil {
		return nil, fmt.Errorf("read the node's links: %w", err)
	}
	for _, l := range links {
		if a := l.Attrs(); strings.HasPrefix(a.Name, "flannel") && a.Flags&net.FlagUp == 0 {
			broken = append(broken, fmt.Sprintf("the overlay's device %s is down: ip link set %s up, or restart the agent", a.Name, a.Name))
		}
	}
	return broken, nil
}

// bridgeBroken says what is wrong with the bridge. One that is missing is no
// fault before the node's first pod, whose ADD makes it.
func (k *kernel) bridgeBroken(n *network) (broken []string, err error) {
	name := n.bridge.Bridge
	l, err := k.link(name)
	if err != nil {
		return nil, err
	}
	if l == nil {
		taken, err := reservations(ipamDir(n.ipam))
		if err == nil && len(taken) > 0 {
			broken = append(broken, fmt.Sprintf("the bridge %s is missing, and %d addresses are in use: their pods have to be made again", name, len(taken)))
		}
		return broken, err
	}
	if l.Type() != "bridge" {
		return []string{fmt.Sprintf("the link %s is no bridge but of type %s: delete it", name, l.Type())}, nil
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		broken = append(broken, fmt.Sprintf("the bridge %s is down: ip link set %s up", name, name))
	}
	have, err := addresses(l)
	if err != nil {
		return nil, err
	}
	for _, gw := range n.gateways() {
		if !slices.Contains(have, gw) {
			broken = append(broken, fmt.Sprintf("the bridge %s lacks the address %s of the node's subnet (it has %v): "+
				"give it that one, or make the pods again if the node's subnet has changed", name, gw, have))
		}
	}
	forwarding, err := n.notForwarding()
	return append(broken, forwarding...), err
}

// notForwarding names the families that the node does not forward.
func (n *network) notForwarding() (broken []string, err error) {
	for _, gw := range n.gateways() {
		sysctl := "net/ipv6/conf/all/forwarding"
		if gw.Addr().Is4() {
			sysctl = "net/ipv4/ip_forward"
		}
		b, err := os.ReadFile("/proc/sys/" + sysctl)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read sysctl %s: %w", sysctl, err)
		}
		if strings.TrimSpace(string(b)) == "0" {
			key := strings.ReplaceAll(sysctl, "/", ".")
			broken = append(broken, fmt.Sprintf("the node does not forward: sysctl %s=1", key))
		}
	}
	return broken, nil
}
