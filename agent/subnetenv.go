package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/wholefile"
)

// subnetEnv is the content of subnet.env, from which CNI plugins and container
// engines take the node's subnet (flannel, pkg/subnet/subnet.go).
type subnetEnv struct {
	config *lease.Config
	// key holds the node's subnets.
	key lease.Key
	// mtu is that of every pod, in bytes, whatever family it speaks.
	mtu        int
	masquerade bool
}

// variables are the names of a family's network and subnet in subnet.env.
var variables = map[lease.Family][2]string{
	lease.IPv4: {"FLANNEL_NETWORK", "FLANNEL_SUBNET"},
	lease.IPv6: {"FLANNEL_IPV6_NETWORK", "FLANNEL_IPV6_SUBNET"},
}

func (e subnetEnv) content() []byte {
	var out []byte
	for _, f := range e.config.Families() {
		subnet, name := e.key.Of(f), variables[f]
		gateway := netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())
		out = fmt.Appendf(out, "%s=%s\n%s=%s\n", name[0], e.config.Range(f).Network, name[1], gateway)
	}
	return fmt.Appendf(out, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", e.mtu, e.masquerade)
}

// in reports whether the file says this.
func (e subnetEnv) in(path string) bool {
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, e.content())
}

// write replaces the file in one step, unless it says this already.
func (e subnetEnv) write(path string) (changed bool, err error) {
	if e.in(path) {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("make the folder of the subnet file: %w", err)
	}
	if err := wholefile.WriteBytes(path, 0o644, e.content()); err != nil {
		return false, fmt.Errorf("write the subnet file: %w", err)
	}
	return true, nil
}

// previousKey reads the subnets that an earlier run left, of the networks that
// there are now.
func previousKey(path string, c *lease.Config) lease.Key {
	k := recordedKey(path)
	if !c.EnableIPv4 || !k.Subnet.IsValid() || !c.Network.Contains(k.Subnet.Addr()) {
		k.Subnet = netip.Prefix{}
	}
	if !c.EnableIPv6 || !k.Subnet6.IsValid() || !c.IPv6Network.Contains(k.Subnet6.Addr()) {
		k.Subnet6 = netip.Prefix{}
	}
	return k
}

// recordedKey reads the subnets from the file; unset where there are none.
func recordedKey(path string) lease.Key {
	var k lease.Key
	raw, err := os.ReadFile(path)
	if err != nil {
		return k
	}
	for line := range strings.Lines(string(raw)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		p, err := netip.ParsePrefix(value)
		if err != nil {
			continue
		}
		switch name {
		case variables[lease.IPv4][1]:
			k.Subnet = p.Masked()
		case variables[lease.IPv6][1]:
			k.Subnet6 = p.Masked()
		}
	}
	return k
}
