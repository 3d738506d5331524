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
	// Network is what the nodes' IPv4 subnets are cut from; unset in a network
	// of IPv6 alone, as are the next.
	Network netip.Prefix
	// SubnetLen is the prefix length of a node's subnet; SubnetMin and
	// SubnetMax are the network addresses of the first and last.
	SubnetLen            int
	SubnetMin, SubnetMax netip.Addr
	// IPv6Network and so on are the same of IPv6; unset in a network of IPv4
	// alone.
	IPv6Network                  netip.Prefix
	IPv6SubnetLen                int
	IPv6SubnetMin, IPv6SubnetMax netip.Addr
	// BackendType is the backend's name in lower case.
	BackendType string
	// Backend is the Backend object as it was written.
	Backend json.RawMessage
}

// Families returns the network's address families, IPv4 first; there is at
// least one.
func (c *Config) Families() []Family {
	switch {
	case !c.EnableIPv6:
		return []Family{IPv4}
	case !c.EnableIPv4:
		return []Family{IPv6}
	}
	return []Family{IPv4, IPv6}
}

// Range returns the network of a family; the zero Range where there is none.
func (c *Config) Range(f Family) Range {
	if f == IPv4 {
		return Range{Network: c.Network, Len: c.SubnetLen, Min: c.SubnetMin, Max: c.SubnetMax}
	}
	return Range{Network: c.IPv6Network, Len: c.IPv6SubnetLen, Min: c.IPv6SubnetMin, Max: c.IPv6SubnetMax}
}

// allows reports whether the key is one that Allocate could choose: a subnet of
// each of the network's families, and of no other.
func (c *Config) allows(k Key) bool {
	for _, f := range []Family{IPv4, IPv6} {
		r := c.Range(f)
		if r.Network.IsValid() && !r.allows(k.Of(f)) || !r.Network.IsValid() && k.Of(f).IsValid() {
			return false
		}
	}
	return true
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
	IPv6SubnetMin  string
	IPv6SubnetMax  string
	IPv6SubnetLen  int
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
		r, err := rules4.read(keys{in.Network, in.SubnetMin, in.SubnetMax, in.SubnetLen})
		c.Network, c.SubnetLen, c.SubnetMin, c.SubnetMax = r.Network, r.Len, r.Min, r.Max
		errs = append(errs, err)
	}
	if c.EnableIPv6 {
		r, err := rules6.read(keys{in.IPv6Network, in.IPv6SubnetMin, in.IPv6SubnetMax, in.IPv6SubnetLen})
		c.IPv6Network, c.IPv6SubnetLen, c.IPv6SubnetMin, c.IPv6SubnetMax = r.Network, r.Len, r.Min, r.Max
		errs = append(errs, err)
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
