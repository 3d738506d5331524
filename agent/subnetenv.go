package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/overlab/overlab/agent/lease"
)

// subnetEnv is the content of subnet.env, from which CNI plugins and container
// engines take the node's subnet (flannel, pkg/subnet/subnet.go).
type subnetEnv struct {
	network, subnet netip.Prefix
	mtu             int
	masquerade      bool
}

func (e subnetEnv) content() []byte {
	gateway := netip.PrefixFrom(e.subnet.Addr().Next(), e.subnet.Bits())
	return fmt.Appendf(nil, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\nFLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n",
		e.network, gateway, e.mtu, e.masquerade)
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
	want := e.content()
	dir, name := filepath.Split(path)
	if err := os.MkdirAll(filepath.Clean(dir), 0o755); err != nil {
		return false, fmt.Errorf("make the folder of the subnet file: %w", err)
	}
	temporary := filepath.Join(dir, "."+name)
	if err := os.WriteFile(temporary, want, 0o644); err != nil {
		return false, fmt.Errorf("write the subnet file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return false, fmt.Errorf("write the subnet file: %w", err)
	}
	return true, nil
}

// previousSubnet reads the subnet that an earlier run left; the zero prefix
// where there is none of this network.
func previousSubnet(path string, c *lease.Config) netip.Prefix {
	p := recordedSubnet(path)
	if !p.IsValid() || !c.Network.Contains(p.Addr()) {
		return netip.Prefix{}
	}
	return p
}

// recordedSubnet reads the subnet from the file; the zero prefix where there is
// none.
func recordedSubnet(path string) netip.Prefix {
	raw, err := os.ReadFile(path)
	if err != nil {
		return netip.Prefix{}
	}
	for line := range strings.Lines(string(raw)) {
		value, ok := strings.CutPrefix(strings.TrimSpace(line), "FLANNEL_SUBNET=")
		if !ok {
			continue
		}
		if p, err := netip.ParsePrefix(value); err == nil {
			return p.Masked()
		}
	}
	return netip.Prefix{}
}
