package oracle

import (
	"strconv"
	"strings"

	"github.com/overlab/overlab/topology"
)

// subnetFile is where an agent leaves what the CNI plugin needs (flannel's
// --subnet-file).
const subnetFile = "/run/flannel/subnet.env"

func itoa(n int) string { return strconv.Itoa(n) }

// subnetEnv is the content of subnet.env (flannel's subnet.go).
func (c *cluster) subnetEnv(n *topology.Node) []Fact {
	var facts []Fact
	for i, o := range c.families() {
		infix := ""
		if i > 0 {
			infix = "IPV6_"
		}
		facts = append(facts, setting("FLANNEL_"+infix+"NETWORK", o.network.String()), setting("FLANNEL_"+infix+"SUBNET", o.gateway(n).String()))
	}
	return append(facts,
		setting("FLANNEL_MTU", itoa(c.plan.OverlayMTU(n))),
		setting("FLANNEL_IPMASQ", strconv.FormatBool(n.Agent.IPMasq)))
}

// setting makes the fact of one line of subnet.env.
func setting(key, value string) Fact {
	return Fact{
		Kind: KindFile, ID: key, Fields: []Field{bare("setting", key+"="+value)}, Purpose: "for the CNI plugin",
	}
}

// settings reads subnet.env.
func settings(text string) []Fact {
	var facts []Fact
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			facts = append(facts, setting(key, value))
		}
	}
	return facts
}

// sysctls are the kernel's settings without which no node forwards.
func (c *cluster) sysctls() []Fact {
	var facts []Fact
	for _, s := range c.sysctlKeys() {
		facts = append(facts, sysctl(s, "1").forPeer("", "forward the pods' packets"))
	}
	return facts
}

// sysctlKeys are those that the oracle judges.
func (c *cluster) sysctlKeys() []string {
	keys := []string{"net.ipv4.ip_forward"}
	if c.plan.Network.EnableIPv6 {
		keys = append(keys, "net.ipv6.conf.all.forwarding")
	}
	return keys
}

func sysctl(key, value string) Fact {
	return Fact{Kind: KindSysctl, ID: key, Fields: []Field{bare("key", key), bare("equals", "="), bare("value", value)}}
}

// sysctlPath is the key's file.
func sysctlPath(key string) string { return "/proc/sys/" + strings.ReplaceAll(key, ".", "/") }

// lease is the node's entry of the store. Its MAC is the agent's to choose
// unless the plan fixes it.
func (c *cluster) lease(n *topology.Node) Fact {
	b := c.plan.Network.Backend
	f := Fact{Kind: KindLease, ID: leaseID(n.PodCIDR), Fields: []Field{
		bare("subnet", n.PodCIDR.Masked().String()), word("PublicIP", n.PublicIP().String()),
	}}
	if b.Type != "alloc" && b.Type != "udp" { // whose leases flannel writes without a type
		f = f.with(word("BackendType", b.Type))
	}
	if b.Type == "vxlan" {
		f = f.with(word("VNI", itoa(b.VNI)))
		if !n.VtepMAC.IsZero() {
			f = f.with(word("VtepMAC", n.VtepMAC.String()))
		}
	}
	if c.plan.Network.EnableIPv6 && c.plan.Network.EnableIPv4 {
		f = f.with(word("IPv6Subnet", n.PodCIDR6.Masked().String())).with(word("PublicIPv6", n.Underlay().Address6.Addr().String()))
	}
	return f.forPeer(n.Name, n.Name+"'s lease")
}
