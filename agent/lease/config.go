package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Config is flannel's net-conf.json with its defaults filled and its values
// checked (pkg/subnet/config.go).
type Config struct {
	EnableIPv4, EnableIPv6 bool
	// EnableNFTables asks for nftables in place of iptables.
	EnableNFTables bool
	// Network is what the nodes' subnets are cut from.
	Network netip.Prefix
	// SubnetLen is the prefix length of a node's subnet; SubnetMin and
	// SubnetMax are the network addresses of the first and last.
	SubnetLen            int
	SubnetMin, SubnetMax netip.Addr
	// IPv6Network is the same in a dual-stack network.
	IPv6Network netip.Prefix
	// BackendType is the backend's name in lower case.
	BackendType string
	// Backend is the Backend object as it was written.
	Backend json.RawMessage
}

// netConf is the file's form. encoding/json matches keys without regard to
// case, as flannel does.
type netConf struct {
	EnableIPv4     *bool
	EnableIPv6     bool
	EnableNFTables bool
	Network        string
	SubnetMin      string
	SubnetMax      string
	SubnetLen      int
	IPv6Network    string
	Backend        json.RawMessage
}

// ParseConfig reads net-conf.json and reports everything that is wrong with it
// at once.
func ParseConfig(raw []byte) (*Config, error) {
	var in netConf
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, fmt.Errorf("parse the network configuration: %w", err)
	}
	c := &Config{
		EnableIPv4: in.EnableIPv4 == nil || *in.EnableIPv4, EnableIPv6: in.EnableIPv6,
		EnableNFTables: in.EnableNFTables, Backend: in.Backend,
	}
	var errs []error
	if !c.EnableIPv4 && !c.EnableIPv6 {
		errs = append(errs, errors.New("EnableIPv4 and EnableIPv6 are both false: no address family is left"))
	}
	errs = append(errs, c.backend())
	if c.EnableIPv4 {
		errs = append(errs, c.subnets(in))
	}
	if c.EnableIPv6 {
		p, err := netip.ParsePrefix(in.IPv6Network)
		if err != nil || !p.Addr().Is6() {
			errs = append(errs, fmt.Errorf("IPv6Network %q is not an IPv6 network, such as fd00:10:244::/56", in.IPv6Network))
		}
		c.IPv6Network = p.Masked()
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("check the network configuration: %w", err)
	}
	return c, nil
}

// backend fills BackendType.
func (c *Config) backend() error {
	if len(c.Backend) == 0 || string(c.Backend) == "null" {
		// Flannel's code; its documentation says vxlan.
		c.BackendType, c.Backend = "udp", json.RawMessage(`{"Type":"udp"}`)
		return nil
	}
	var b struct{ Type string }
	if err := json.Unmarshal(c.Backend, &b); err != nil {
		return fmt.Errorf("field Backend: %w", err)
	}
	if b.Type == "" {
		return errors.New("field Backend has no Type, such as vxlan")
	}
	c.BackendType = strings.ToLower(b.Type)
	return nil
}

// subnets fills and checks the IPv4 fields by flannel's rules.
func (c *Config) subnets(in netConf) error {
	if in.Network == "" {
		return errors.New("field Network is missing: an IPv4 network, such as 10.244.0.0/16")
	}
	network, err := netip.ParsePrefix(in.Network)
	if err != nil || !network.Addr().Is4() {
		return fmt.Errorf("field Network %q is not an IPv4 network, such as 10.244.0.0/16", in.Network)
	}
	c.Network = network.Masked()
	bits := c.Network.Bits()
	switch {
	case in.SubnetLen > 30:
		return fmt.Errorf("SubnetLen %d: SubnetLen must be less than /31", in.SubnetLen)
	case in.SubnetLen > 0 && in.SubnetLen < bits+2, in.SubnetLen < 0:
		return fmt.Errorf("SubnetLen %d: network %s must be able to accommodate at least four subnets", in.SubnetLen, c.Network)
	case in.SubnetLen > 0:
		c.SubnetLen = in.SubnetLen
	case bits > 28:
		return fmt.Errorf("network %s is too small. Minimum useful network prefix is /28", c.Network)
	case bits <= 22:
		c.SubnetLen = 24
	default:
		c.SubnetLen = bits + 2
	}
	size := uint64(1) << (32 - c.SubnetLen)
	// The first subnet is left out: its address is that of the network.
	c.SubnetMin = fromInt(toInt(c.Network.Addr()) + size)
	c.SubnetMax = fromInt(toInt(c.Network.Addr()) + uint64(1)<<(32-bits) - size)
	var errs []error
	errs = append(errs, c.bound("SubnetMin", in.SubnetMin, &c.SubnetMin), c.bound("SubnetMax", in.SubnetMax, &c.SubnetMax))
	if c.SubnetMax.Less(c.SubnetMin) {
		errs = append(errs, fmt.Errorf("SubnetMin %s is above SubnetMax %s: no subnet is left", c.SubnetMin, c.SubnetMax))
	}
	return errors.Join(errs...)
}

// bound reads SubnetMin or SubnetMax, if given.
func (c *Config) bound(name string, value string, out *netip.Addr) error {
	if value == "" {
		return nil
	}
	a, err := netip.ParseAddr(value)
	switch {
	case err != nil || !a.Is4():
		return fmt.Errorf("%s %q is not an IPv4 address", name, value)
	case !c.Network.Contains(a):
		return fmt.Errorf("%s is not in the range of the Network: %s is outside %s", name, a, c.Network)
	case netip.PrefixFrom(a, c.SubnetLen).Masked().Addr() != a:
		return fmt.Errorf("%s is not on a SubnetLen boundary: %s", name, a)
	}
	*out = a
	return nil
}

// allows reports whether the subnet is one that Allocate could choose.
func (c *Config) allows(p netip.Prefix) bool {
	return p.IsValid() && p.Bits() == c.SubnetLen && p.Masked() == p &&
		!p.Addr().Less(c.SubnetMin) && !c.SubnetMax.Less(p.Addr())
}
