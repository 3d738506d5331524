// Package cni wires pods to their node's bridge: the verbs of the CNI
// specification as a library. It does in one step what flannel's CNI plugin
// and the bridge and host-local plugins that it delegates to do in three, with
// the same configuration, the same files and the same result in the kernel.
//
// Every function works in the network and mount namespaces of the calling OS
// thread, which are the node's: a caller that entered them keeps its goroutine
// locked to the thread. No file is opened and no socket made on another thread,
// save inside a pod's network namespace, on a thread that is thrown away.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"

	"github.com/overlab/overlab/agent/cni/portmap"
)

// Where flannel's and the host-local plugin keep their files, unless the
// configuration says otherwise.
const (
	DefaultSubnetFile = "/run/flannel/subnet.env"
	DefaultDataDir    = "/var/lib/cni/flannel"
	DefaultIPAMDir    = "/var/lib/cni/networks"
)

// Config is a network configuration: flannel's keys, and this plugin's own
// below them.
type Config struct {
	CNIVersion string `json:"cniVersion,omitempty"`
	// Name is the network's name, cbr0 in flannel's manifest.
	Name string `json:"name"`
	Type string `json:"type,omitempty"`
	// SubnetFile is what the agent writes; empty is DefaultSubnetFile.
	SubnetFile string `json:"subnetFile,omitempty"`
	// AwaitSubnet is for how many seconds ADD waits for a subnet file that is not
	// there; 0 is not at all, as flannel's plugin does. When a node starts, its
	// agent does so beside its pods, and kubelet tries a pod that failed again
	// only after 10 s or more.
	AwaitSubnet int `json:"awaitSubnet,omitempty"`
	// DataDir holds one record a container; empty is DefaultDataDir.
	DataDir string `json:"dataDir,omitempty"`
	// IPAM is host-local's configuration: routes that pods have besides, and
	// dataDir. Its ranges are always those of the subnet file.
	IPAM map[string]any `json:"ipam,omitempty"`
	// Delegate is the bridge plugin's configuration; "name" and "ipam" are
	// not the user's to give.
	Delegate map[string]any `json:"delegate,omitempty"`
	// RuntimeConfig holds what the runtime asks for one container by the
	// capabilities "ips", "mac" and "portMappings", and "hostInterface", the
	// name of the veth's end on the node.
	RuntimeConfig map[string]any `json:"runtimeConfig,omitempty"`
	// PrevResult is ADD's result, which a runtime hands to CHECK.
	PrevResult json.RawMessage `json:"prevResult,omitempty"`
	// ValidAttachments is what GC leaves alone.
	ValidAttachments []types.GCAttachment `json:"cni.dev/valid-attachments,omitempty"`

	// BridgeMAC fixes the bridge's MAC address. Without it a new bridge's is
	// derived from its address, and that of an existing one is kept.
	BridgeMAC string `json:"bridgeMAC,omitempty"`
	// LegacyRecords writes the record and the reservation in the form that
	// they had before dual stack and several interfaces a pod (flannel 0.11,
	// plugins 0.7), which is what older articles show.
	LegacyRecords bool `json:"legacyRecords,omitempty"`
}

// ParseConfig reads a network configuration.
func ParseConfig(b []byte) (*Config, error) {
	c := new(Config)
	if err := json.Unmarshal(b, c); err != nil {
		return nil, coded(types.ErrDecodingFailure, "read the network configuration", err)
	}
	return c, nil
}

func (c *Config) subnetFile() string { return or(c.SubnetFile, DefaultSubnetFile) }

func (c *Config) dataDir() string { return or(c.DataDir, DefaultDataDir) }

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// delegate is the configuration that flannel's plugin would hand to the
// bridge plugin, which is also the record it keeps of a container, byte for
// byte: an object with sorted keys and no newline.
func (c *Config) delegate(env *subnetEnv) ([]byte, error) {
	for _, key := range []string{"name", "ipam"} {
		if _, ok := c.Delegate[key]; ok {
			return nil, fmt.Errorf("delegate: %q must not be given, it is filled in", key)
		}
	}
	d := map[string]any{
		"type":      "bridge",
		"ipMasq":    !env.ipMasq, // one of the two has to masquerade
		"mtu":       env.mtu,
		"isGateway": true,
	}
	maps.Copy(d, c.Delegate)
	if len(c.RuntimeConfig) > 0 {
		d["runtimeConfig"] = c.RuntimeConfig
	}
	d["name"] = c.Name
	if c.CNIVersion != "" {
		d["cniVersion"] = c.CNIVersion
	}
	ipam, err := c.delegateIPAM(env)
	if err != nil {
		return nil, err
	}
	d["ipam"] = ipam
	return json.Marshal(d)
}

// delegateIPAM is the part of the delegate that configures host-local.
func (c *Config) delegateIPAM(env *subnetEnv) (map[string]any, error) {
	ipam := map[string]any{"type": "host-local"}
	maps.Copy(ipam, c.IPAM)

	type subnet struct {
		Subnet netip.Prefix `json:"subnet"`
	}
	var ranges [][]subnet
	for _, s := range env.subnets() {
		ranges = append(ranges, []subnet{{s.Masked()}})
	}
	if c.LegacyRecords {
		if len(ranges) != 1 {
			return nil, errors.New("legacyRecords: the old form holds one subnet, and this node has two")
		}
		ipam["subnet"] = ranges[0][0].Subnet
	} else {
		ipam["ranges"] = ranges
	}

	var routes []types.Route
	if given, ok := c.IPAM["routes"]; ok {
		b, err := json.Marshal(given)
		if err == nil {
			err = json.Unmarshal(b, &routes)
		}
		if err != nil {
			return nil, fmt.Errorf("ipam: routes: %w", err)
		}
	}
	for _, n := range env.networks {
		routes = append(routes, types.Route{Dst: ipNet(n.Masked())})
	}
	ipam["routes"] = routes
	return ipam, nil
}

// bridgeConf is what the delegate asks of the bridge plugin.
type bridgeConf struct {
	Name             string    `json:"name"`
	Type             string    `json:"type"`
	Bridge           string    `json:"bridge"`
	IsGateway        bool      `json:"isGateway"`
	IsDefaultGateway bool      `json:"isDefaultGateway"`
	ForceAddress     bool      `json:"forceAddress"`
	IPMasq           bool      `json:"ipMasq"`
	IPMasqBackend    *string   `json:"ipMasqBackend"`
	MTU              int       `json:"mtu"`
	HairpinMode      bool      `json:"hairpinMode"`
	DNS              types.DNS `json:"dns"`
	IPAM             struct {
		Type       string `json:"type"`
		ResolvConf string `json:"resolvConf"`
	} `json:"ipam"`
	RuntimeConfig struct {
		MAC           string            `json:"mac"`
		HostInterface string            `json:"hostInterface"`
		PortMappings  []portmap.Mapping `json:"portMappings"`
	} `json:"runtimeConfig"`

	// What the bridge plugin can do besides, and this one refuses.
	PromiscMode      bool  `json:"promiscMode"`
	Vlan             int   `json:"vlan"`
	VlanTrunk        []any `json:"vlanTrunk"`
	MacSpoofChk      bool  `json:"macspoofchk"`
	EnableDad        bool  `json:"enabledad"`
	PortIsolation    bool  `json:"portIsolation"`
	DisableInterface bool  `json:"disableContainerInterface"`
}

// refuse names what the delegate asks for and this plugin does not do.
func (b *bridgeConf) refuse() error {
	var errs []error
	if b.Type != "bridge" {
		errs = append(errs, fmt.Errorf(`delegate: type %q: pods are wired to a bridge here, only "bridge" is possible`, b.Type))
	}
	if b.IPAM.Type != "host-local" {
		errs = append(errs, fmt.Errorf(`ipam: type %q: only "host-local" is possible`, b.IPAM.Type))
	}
	if b.IPAM.ResolvConf != "" {
		errs = append(errs, errors.New("ipam: resolvConf is not supported; give the delegate dns"))
	}
	for _, o := range []struct {
		key string
		set bool
	}{
		{"promiscMode", b.PromiscMode},
		{"vlan", b.Vlan != 0},
		{"vlanTrunk", len(b.VlanTrunk) > 0},
		{"macspoofchk", b.MacSpoofChk},
		{"enabledad", b.EnableDad},
		{"portIsolation", b.PortIsolation},
		{"disableContainerInterface", b.DisableInterface},
	} {
		if o.set {
			errs = append(errs, fmt.Errorf("delegate: %s is not supported", o.key))
		}
	}
	if err := portmap.Validate(b.RuntimeConfig.PortMappings); err != nil {
		errs = append(errs, fmt.Errorf("runtimeConfig: %w", err))
	}
	// IPv4 needs 68 bytes (RFC 791); the kernel caps a link at 65535.
	if b.MTU < 68 || b.MTU > 65535 {
		errs = append(errs, fmt.Errorf("mtu %d is not within 68 and 65535", b.MTU))
	}
	return errors.Join(errs...)
}

// network is a Config with the node's subnet filled in: all that is common to
// the pods of one node.
type network struct {
	// record is the delegate's configuration, as it is kept for each pod.
	record []byte
	bridge bridgeConf
	ipam   *allocator.IPAMConfig
}

// parseDelegate reads a record, just made or kept by an ADD.
func parseDelegate(record []byte) (*network, error) {
	n := &network{record: record, bridge: bridgeConf{Bridge: "cni0"}}
	if err := json.Unmarshal(record, &n.bridge); err != nil {
		return nil, err
	}
	if n.bridge.IsDefaultGateway {
		n.bridge.IsGateway = true
	}
	var err error
	n.ipam, _, err = allocator.LoadIPAMConfig(record, "")
	return n, err
}

func noSubnet(err error) error {
	return coded(types.ErrTryAgainLater, "read the node's subnet (is its agent, overlabd or flanneld, running?)", err)
}

// resolve fills in the node's subnet.
func (c *Config) resolve() (*network, error) {
	env, err := readSubnetEnv(c.subnetFile())
	if err != nil {
		return nil, noSubnet(err)
	}
	record, err := c.delegate(env)
	if err != nil {
		return nil, coded(types.ErrInvalidNetworkConfig, "network "+c.Name, err)
	}
	n, err := parseDelegate(record)
	if err == nil {
		err = n.bridge.refuse()
	}
	if err != nil {
		return nil, coded(types.ErrInvalidNetworkConfig, "network "+c.Name, err)
	}
	return n, nil
}

// gateways are the bridge's addresses, one a family.
func (n *network) gateways() []netip.Prefix {
	if !n.bridge.IsGateway {
		return nil
	}
	var gws []netip.Prefix
	for _, set := range n.ipam.Ranges {
		gws = append(gws, prefix(net.IPNet{IP: set[0].Gateway, Mask: set[0].Subnet.Mask}))
	}
	return gws
}

// route is one route of a pod.
type route struct {
	dst netip.Prefix
	via netip.Addr
}

func (r route) String() string { return fmt.Sprintf("%s via %s", r.dst, r.via) }

// routes are those of a pod with the given addresses, in the bridge plugin's
// order: the network's, then a default one for each family. A network that is
// the pod's own subnet is on the link already.
func (n *network) routes(ips []podIP) []route {
	var routes []route
	for _, r := range n.ipam.Routes {
		dst := prefix(r.Dst)
		if slices.ContainsFunc(ips, func(ip podIP) bool { return ip.address.Masked() == dst }) {
			continue
		}
		via := addr(r.GW)
		for _, ip := range ips {
			if !via.IsValid() && ip.gateway.Is4() == dst.Addr().Is4() {
				via = ip.gateway
			}
		}
		routes = append(routes, route{dst, via})
	}
	if !n.bridge.IsDefaultGateway {
		return routes
	}
	for _, ip := range ips {
		d := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if ip.gateway.Is4() {
			d = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		if !hasRoute(routes, d) {
			routes = append(routes, route{d, ip.gateway})
		}
	}
	return routes
}

func hasRoute(routes []route, dst netip.Prefix) bool {
	for _, r := range routes {
		if r.dst == dst {
			return true
		}
	}
	return false
}

// wishes are what a runtime asks for one pod.
type wishes struct {
	ips           []net.IP
	mac           net.HardwareAddr
	hostInterface string
}

// envArgs are the keys of CNI_ARGS that count here. types.LoadArgs matches
// keys with the fields' names, and refuses others unless IgnoreUnknown=1.
type envArgs struct {
	types.CommonArgs
	IP            types.UnmarshallableString
	MAC           types.UnmarshallableString
	HostInterface types.UnmarshallableString
}

// wishes reads what the runtime asks for, by CNI_ARGS (IP, several separated
// by commas, MAC and HostInterface) or by capabilities, which win.
func (n *network) wishes(args string) (wishes, error) {
	var e envArgs
	if err := types.LoadArgs(args, &e); err != nil {
		return wishes{}, coded(types.ErrInvalidEnvironmentVariables, "CNI_ARGS", err)
	}
	w := wishes{hostInterface: or(n.bridge.RuntimeConfig.HostInterface, string(e.HostInterface))}
	if w.ips = n.ipam.IPArgs; len(w.ips) == 0 && e.IP != "" {
		for s := range strings.SplitSeq(string(e.IP), ",") {
			bare, _, _ := strings.Cut(s, "/") // host-local takes a length too
			a, err := netip.ParseAddr(bare)
			if err != nil {
				return wishes{}, coded(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: IP", err)
			}
			w.ips = append(w.ips, a.AsSlice())
		}
	}
	var err error
	if s := or(n.bridge.RuntimeConfig.MAC, string(e.MAC)); s != "" {
		if w.mac, err = parseMAC(s); err != nil {
			return wishes{}, coded(types.ErrInvalidNetworkConfig, "the pod's MAC", err)
		}
	}
	return w, nil
}

// parseMAC reads an address that an Ethernet interface can have.
func parseMAC(s string) (net.HardwareAddr, error) {
	m, err := net.ParseMAC(s)
	switch {
	case err != nil:
		return nil, err
	case len(m) != 6 || m[0]&1 != 0 || m.String() == "00:00:00:00:00:00":
		return nil, fmt.Errorf("%s is not a unicast Ethernet address", s)
	}
	return m, nil
}

// prefix, addr and ipNet convert between the standard library's older and
// newer types.
func prefix(n net.IPNet) netip.Prefix {
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr(n.IP), ones)
}

func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
