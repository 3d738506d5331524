package cni

import (
	"errors"
	"net"

	"github.com/containernetworking/plugins/pkg/ip"
	"github.com/containernetworking/plugins/pkg/utils"
)

// masquerade adds the bridge plugin's rules for pods whose agent does not
// masquerade for them (FLANNEL_IPMASQ=false).
func (a *adding) masquerade(pods []*pod) error {
	if err := canMasquerade(); err != nil {
		return coded(ErrKernel, "masquerade for the pods of network "+a.conf.Name, err)
	}
	for _, p := range pods {
		a.undo.push(func() error { return unmasquerade(a.network, p.Request, p.ips) })
		err := ip.SetupIPMasqForNetworks(a.network.bridge.IPMasqBackend, a.network.unmasked(p.ips), a.conf.Name, p.IfName, p.ContainerID)
		if err != nil {
			return coded(ErrKernel, "masquerade for container "+p.ContainerID, err)
		}
	}
	return nil
}

// unmasquerade takes back what masquerade added for one pod.
func unmasquerade(n *network, r Request, ips []podIP) error {
	if err := canMasquerade(); err != nil {
		return err // the library would call it a success
	}
	return ip.TeardownIPMasqForNetworks(n.unmasked(ips), n.bridge.Name, r.IfName, r.ContainerID)
}

// canMasquerade tells whether one of the programs is here that write the rules.
func canMasquerade() error {
	if !utils.SupportsIPTables() && !utils.SupportsNFTables() {
		return errors.New("neither iptables nor nft is in PATH: install one of them, or let the agent masquerade (--ip-masq)")
	}
	return nil
}

// unmasked are the pod's addresses, each with the length of the prefix to
// which the pod talks under its own address: that of the whole overlay. The
// bridge plugin has the node's subnet there, and so hides a pod from the pods
// of other nodes.
func (n *network) unmasked(ips []podIP) []*net.IPNet {
	var nets []*net.IPNet
	for _, ip := range ips {
		p := ip.address
		for _, r := range n.ipam.Routes {
			if dst := prefix(r.Dst); dst.Contains(p.Addr()) && dst.Bits() < p.Bits() {
				p = dst
			}
		}
		ipn := ipNet(p)
		ipn.IP = ip.address.Addr().AsSlice()
		nets = append(nets, &ipn)
	}
	return nets
}
