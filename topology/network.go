package topology

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"
)

// network settles flannel's net-conf.json by flannel's own rules
// (subnet/config.go), so that a flanneld that is handed the plan's accepts
// it. It differs in two things: no Backend is vxlan, as flannel's
// documentation has it, and SubnetMin beyond SubnetMax is an error.
func (x *expansion) network() {
	n, c := &x.spec.Network, &x.plan.Network
	c.EnableIPv4, c.EnableIPv6, c.EnableNFTables = or(n.EnableIPv4, true), or(n.EnableIPv6, false), or(n.EnableNFTables, false)
	if !c.EnableIPv4 {
		if c.EnableIPv6 {
			x.add("spec.network.EnableIPv4", "is false; an overlay of IPv6 alone is not supported: leave EnableIPv4 out for dual stack")
		} else {
			x.add("spec.network.EnableIPv4", "is false and EnableIPv6 is not true, which leaves no address family; leave EnableIPv4 out")
		}
	}
	x.ipv6Mode()
	x.v4 = x.subnets(familyIPv4, n.Network, n.SubnetLen, n.SubnetMin, n.SubnetMax)
	if c.EnableIPv6 {
		x.v6 = x.subnets(familyIPv6, n.IPv6Network, n.IPv6SubnetLen, n.IPv6SubnetMin, n.IPv6SubnetMax)
	} else {
		x.refuseIPv6Keys(n)
	}
	x.backend(&n.Backend)
}

// refuseIPv6Keys: flannel ignores IPv6's keys without EnableIPv6, and who writes
// them does not expect that.
func (x *expansion) refuseIPv6Keys(n *NetworkSpec) {
	for _, key := range []struct {
		name  string
		given bool
	}{
		{"IPv6Network", n.IPv6Network.IsValid()}, {"IPv6SubnetLen", n.IPv6SubnetLen != nil},
		{"IPv6SubnetMin", n.IPv6SubnetMin.IsValid()}, {"IPv6SubnetMax", n.IPv6SubnetMax.IsValid()},
	} {
		if key.given {
			x.notDual("spec.network." + key.name)
		}
	}
}

// ipv6Mode settles what the kernels do with IPv6.
func (x *expansion) ipv6Mode() {
	mode := x.choose("spec.ipv6", x.spec.IPv6, []string{string(IPv6Off), string(IPv6LinkLocal)})
	x.plan.IPv6 = IPv6Mode(mode)
	if !x.plan.Network.EnableIPv6 {
		return
	}
	x.plan.IPv6 = IPv6Dual
	if x.spec.IPv6 != "" {
		x.add("spec.ipv6", "is %s, but network.EnableIPv6 makes the lab dual stack; leave one of the two out", mode)
	}
}

// family is what flannel's rules call the keys of one address family, and the
// numbers that they put there.
type family struct {
	is4      bool
	prefix   string       // of the keys' names
	network  netip.Prefix // when the spec has none
	maxLen   int          // the longest subnet prefix
	smallest int          // the longest Network prefix without SubnetLen
	usual    int          // SubnetLen of a wide Network
}

var (
	familyIPv4 = family{true, "", netip.MustParsePrefix("10.244.0.0/16"), 30, 28, 24}
	familyIPv6 = family{false, "IPv6", netip.MustParsePrefix("fd00:10:244::/48"), 126, 124, 64}
)

// key returns the path of one of the family's keys.
func (f family) key(name string) string { return "spec.network." + f.prefix + name }

// subnets is the overlay's network of one family, cut into nodes' subnets.
// One that is wrong in the spec has no valid network.
type subnets struct {
	network netip.Prefix
	len     int
	// first and last are the ends of what a plan may give to nodes.
	first, last netip.Addr
	// min is flannel's SubnetMin; minFixed tells that the spec chose it.
	min      netip.Addr
	minFixed bool
}

// subnets applies flannel's rules to the keys of one family.
func (x *expansion) subnets(f family, network netip.Prefix, length *int, low, high netip.Addr) subnets {
	if !network.IsValid() {
		network = f.network
	}
	broken := slices.ContainsFunc([]string{"Network", "SubnetLen", "SubnetMin", "SubnetMax"}, func(k string) bool { return x.source.bad[f.key(k)] })
	if broken || !x.checkFamily(f.key("Network"), network.Addr(), f.is4) {
		return subnets{}
	}
	network = network.Masked()
	if what := special(network); what != "" {
		x.add(f.key("Network"), "is %s, which overlaps %s; choose a private one such as %s", network, what, f.network)
		return subnets{}
	}
	s := subnets{network: network}
	var ok bool
	if s.len, ok = x.subnetLen(f, network.Bits(), length); !ok {
		return subnets{}
	}
	s.first = network.Addr()
	s.last = lastSubnet(network, s.len)
	s.min, _ = step(s.first, 1, network.Addr().BitLen()-s.len)
	if low.IsValid() && x.checkBound(f, "SubnetMin", low, s) {
		s.first, s.min, s.minFixed = low, low, true
	}
	if high.IsValid() && x.checkBound(f, "SubnetMax", high, s) {
		s.last = high
	}
	if s.minFixed && s.last.Less(s.first) {
		x.add(f.key("SubnetMin"), "is %s, beyond %sSubnetMax %s, which leaves no subnet; swap them", s.first, f.prefix, s.last)
		return subnets{}
	}
	return s
}

// subnetLen returns the prefix length of nodes' subnets in a network.
func (x *expansion) subnetLen(f family, plen int, length *int) (int, bool) {
	switch n := or(length, 0); {
	case n > f.maxLen:
		x.add(f.key("SubnetLen"), "is %d; %sSubnetLen must be less than /%d", n, f.prefix, f.maxLen+1)
	case n != 0 && n < plen+2:
		x.add(f.key("SubnetLen"), "is %d; the network, a /%d, must be able to accommodate at least four subnets: write %d to %d, or widen %sNetwork",
			n, plen, min(plen+2, f.maxLen), f.maxLen, f.prefix)
	case n != 0:
		return n, true
	case plen > f.smallest:
		x.add(f.key("Network"), "is a /%d; the network is too small: the minimum useful network prefix is /%d", plen, f.smallest)
	case plen <= f.usual-2:
		return f.usual, true
	default:
		return plen + 2, true
	}
	return 0, false
}

// checkBound checks SubnetMin or SubnetMax.
func (x *expansion) checkBound(f family, key string, a netip.Addr, s subnets) bool {
	switch path := f.key(key); {
	case !x.checkFamily(path, a, f.is4):
	case !s.network.Contains(a):
		x.add(path, "is %s; %s%s is not in the range of the network %s", a, f.prefix, key, s.network)
	case netip.PrefixFrom(a, s.len).Masked().Addr() != a:
		x.add(path, "is %s, which is not on a SubnetLen boundary; %s is", a, netip.PrefixFrom(a, s.len).Masked().Addr())
	default:
		return true
	}
	return false
}

// nth returns the i-th subnet that the plan may give, from 0.
func (s subnets) nth(i int) (netip.Prefix, bool) {
	a, ok := step(s.first, uint64(i), s.network.Addr().BitLen()-s.len)
	if !ok || s.last.Less(a) {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(a, s.len), true
}

// free returns the lowest subnet that nobody has, and whether there is one.
func (s subnets) free(taken map[netip.Prefix]*machine) (netip.Prefix, bool) {
	for i := 0; ; i++ {
		p, ok := s.nth(i)
		if !ok || taken[p] == nil {
			return p, ok
		}
	}
}

// backends are the words that flannel's Backend.Type has, the default first.
func backends() []string {
	return []string{"vxlan", "host-gw", "udp", "ipip", "wireguard", "ipsec", "alloc", "extension"}
}

// backend settles the Backend object.
func (x *expansion) backend(b *BackendSpec) {
	const path = "spec.network.Backend"
	out := &x.plan.Network.Backend
	*out = Backend{
		Type: x.choose(path+".Type", strings.ToLower(b.Type), backends()),
		VNI:  x.between(path+".VNI", b.VNI, 1, 9_999_999, 0, ": the name of the device, flannel.VNI, has room for seven digits"),
		Port: x.between(path+".Port", b.Port, 1, 65535, 0, ""),
		MTU:  x.mtu(path+".MTU", b.MTU, 0),
		GBP:  or(b.GBP, false), Learning: or(b.Learning, false), DirectRouting: or(b.DirectRouting, false),
		PreStartupCommand: b.PreStartupCommand, PostStartupCommand: b.PostStartupCommand,
		SubnetAddCommand: b.SubnetAddCommand, SubnetRemoveCommand: b.SubnetRemoveCommand,
	}
	x.wireguard(path, b, out)
	x.ipsec(path, b, out)
	if out.Type != "extension" {
		for _, c := range []struct{ key, command string }{
			{"PreStartupCommand", b.PreStartupCommand}, {"PostStartupCommand", b.PostStartupCommand},
			{"SubnetAddCommand", b.SubnetAddCommand}, {"SubnetRemoveCommand", b.SubnetRemoveCommand},
		} {
			if c.command != "" {
				x.add(path+"."+c.key, "is a command of the backend extension, and the backend is %s; leave it out", out.Type)
			}
		}
	}
	if x.plan.Network.EnableIPv6 {
		x.dualBackend(path, out)
	}
	switch out.Type {
	case "vxlan":
		out.VNI, out.Port = nonzero(out.VNI, 1), nonzero(out.Port, 8472)
	case "udp":
		out.Port = nonzero(out.Port, 8285)
	}
}

// dualBackend checks what a dual-stack overlay asks of the backend besides.
func (x *expansion) dualBackend(path string, b *Backend) {
	switch {
	case !b.CarriesIPv6():
		x.add(path+".Type", "is %s, which carries IPv4 alone, as flannel's does; write vxlan or host-gw, or leave EnableIPv6 out", b.Type)
	case b.Type == "vxlan" && b.VNI > 9999:
		x.add(path+".VNI", "is %d; in a dual-stack overlay the name of the second device, flannel-v6.VNI, has room for four digits", b.VNI)
	}
}

// wireguard settles the keys that only the backend wireguard has.
func (x *expansion) wireguard(path string, b *BackendSpec, out *Backend) {
	if out.Type != "wireguard" {
		for _, k := range []struct {
			key   string
			given bool
		}{
			{"ListenPort", b.ListenPort != nil}, {"PSK", b.PSK != "" && out.Type != "ipsec"},
			{"PersistentKeepaliveInterval", b.PersistentKeepaliveInterval != nil}, {"Mode", b.Mode != ""},
		} {
			if k.given {
				x.add(path+"."+k.key, "is of the backend wireguard, and the backend is %s; leave it out", out.Type)
			}
		}
		return
	}
	out.ListenPort = x.between(path+".ListenPort", b.ListenPort, 1, 65535, 51820, "")
	out.PersistentKeepaliveInterval = x.between(path+".PersistentKeepaliveInterval", b.PersistentKeepaliveInterval, 0, 65535, 0, ": a number of seconds")
	if b.Mode != "" {
		out.Mode = x.choose(path+".Mode", b.Mode, []string{"separate", "auto", "ipv4", "ipv6"})
	}
	if key, err := base64.StdEncoding.DecodeString(b.PSK); err != nil || b.PSK != "" && len(key) != 32 {
		x.add(path+".PSK", "is not 32 bytes in base64, as `wg genpsk` prints them")
		return
	}
	out.PSK = b.PSK
}

// shortestPSK is how many characters flannel's ipsec asks of its key
// (pkg/backend/ipsec/ipsec.go).
const shortestPSK = 96

// ipsec settles the keys that the backend ipsec has.
func (x *expansion) ipsec(path string, b *BackendSpec, out *Backend) {
	if out.Type != "ipsec" {
		if b.UDPEncap != nil {
			x.add(path+".UDPEncap", "is of the backend ipsec, and the backend is %s; leave it out", out.Type)
		}
		return
	}
	if len(b.PSK) < shortestPSK {
		x.add(path+".PSK", "has %d characters; ipsec needs %d at least: `openssl rand -hex 48` makes a key", len(b.PSK), shortestPSK)
	}
	out.PSK, out.UDPEncap = b.PSK, or(b.UDPEncap, false)
}

// or returns what a pointer holds, or the default for none.
func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func nonzero(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}
