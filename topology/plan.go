package topology

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// A Plan is a spec with every default filled and every name, address and MAC
// decided. It is pure data: two expansions of one spec are equal, on any
// machine. Providers build it, the harness judges against it, and the lab's
// state folder keeps it as JSON.
type Plan struct {
	// APIVersion names the schema of the plan itself.
	APIVersion string `json:"apiVersion"`
	// Name is the lab's name, a DNS label.
	Name string `json:"name"`
	// Provider is the name of the provider that the spec asks for.
	Provider string `json:"provider"`
	// Network is flannel's net-conf.json with its defaults filled.
	Network NetConf `json:"network"`
	// ServiceCIDR is that of the services in a Kubernetes cluster; invalid where
	// the lab is none and the spec names none.
	ServiceCIDR netip.Prefix `json:"serviceCIDR,omitzero"`
	// IPv6 says what the lab's kernels do with IPv6.
	IPv6 IPv6Mode `json:"ipv6"`
	// Segments are the L2 networks of the underlay.
	Segments []Segment `json:"segments"`
	// Routers forward between segments.
	Routers []Router `json:"routers,omitempty"`
	// Nodes are the machines' stand-ins, in the order of the spec.
	Nodes []Node `json:"nodes"`
	// Pods are the pods of all nodes, in the order in which they are wired.
	Pods []Pod `json:"pods"`
	// Runtime says what the pods are.
	Runtime Runtime `json:"runtime"`
	// Store is where the agents' leases live.
	Store Store `json:"store"`
	// CNI is how pods are wired.
	CNI CNI `json:"cni"`
	// Existing says that the lab is a cluster that was there before: its nodes
	// have pods, addresses and routes besides the plan's.
	Existing bool `json:"existing,omitempty"`
}

// CNI is how pods are wired.
type CNI struct {
	// LegacyRecords keeps the files under /var/lib/cni in the form that they
	// had before dual stack (flannel 0.11), which older articles show.
	LegacyRecords bool `json:"legacyRecords,omitempty"`
	// Conflist is the configuration list whose plugins wire pods in place of
	// the bundled one, nil for that one. ConflistOn has it as on a node.
	Conflist map[string]any `json:"conflist,omitempty"`
	// Foreign is the name of the network that wires the pods of a cluster that was
	// there before, where it is not as flannel does: nothing of how is known.
	Foreign string `json:"foreign,omitempty"`
	// PluginDirs are the folders of those plugins, absolute.
	PluginDirs []string `json:"pluginDirs,omitempty"`
}

// IPv6Mode says what the lab's kernels do with IPv6.
type IPv6Mode string

const (
	// IPv6Off switches IPv6 off in every namespace: the fastest, and the
	// quietest on the wire.
	IPv6Off IPv6Mode = "off"
	// IPv6LinkLocal leaves the kernel's link-local addresses on nodes, as on
	// the machines of the seed articles; pods have none.
	IPv6LinkLocal IPv6Mode = "link-local"
	// IPv6Dual is a dual-stack lab.
	IPv6Dual IPv6Mode = "dual"
)

// NetConf is flannel's net-conf.json: the same keys, the same defaults, save
// that a missing Backend is vxlan (flannel's code says udp, its documentation
// and every manifest say vxlan).
type NetConf struct {
	EnableIPv4     bool         `json:"EnableIPv4"`
	EnableIPv6     bool         `json:"EnableIPv6,omitempty"`
	EnableNFTables bool         `json:"EnableNFTables,omitempty"`
	Network        netip.Prefix `json:"Network"`
	SubnetLen      int          `json:"SubnetLen"`
	SubnetMin      netip.Addr   `json:"SubnetMin"`
	SubnetMax      netip.Addr   `json:"SubnetMax"`
	IPv6Network    netip.Prefix `json:"IPv6Network,omitzero"`
	IPv6SubnetLen  int          `json:"IPv6SubnetLen,omitempty"`
	IPv6SubnetMin  netip.Addr   `json:"IPv6SubnetMin,omitzero"`
	IPv6SubnetMax  netip.Addr   `json:"IPv6SubnetMax,omitzero"`
	Backend        Backend      `json:"Backend"`
}

// Backend is the Backend object of net-conf.json.
type Backend struct {
	// Type is the lower-case name of the backend.
	Type string `json:"Type"`
	// VNI is the VXLAN network identifier, 1 by default.
	VNI int `json:"VNI,omitempty"`
	// Port is the UDP port; 8472 for vxlan (the kernel's own default).
	Port int `json:"Port,omitempty"`
	// MTU is the MTU in bytes that the backend starts from; 0 takes that of
	// the agent's underlay interface, as do the backends that do not know the
	// key (see FixesMTU).
	MTU           int  `json:"MTU,omitempty"`
	GBP           bool `json:"GBP,omitempty"`
	Learning      bool `json:"Learning,omitempty"`
	DirectRouting bool `json:"DirectRouting,omitempty"`
	// Of wireguard: the UDP port, 51820 by default; the pre-shared key, base64,
	// which is ipsec's in characters; the seconds between keepalives, 0 for none;
	// and which addresses nodes reach each other by, where the spec says so.
	ListenPort                  int    `json:"ListenPort,omitempty"`
	PSK                         string `json:"PSK,omitempty"`
	PersistentKeepaliveInterval int    `json:"PersistentKeepaliveInterval,omitempty"`
	Mode                        string `json:"Mode,omitempty"`
	// UDPEncap puts ipsec's packets in UDP.
	UDPEncap bool `json:"UDPEncap,omitempty"`
	// The shell commands of the extension backend.
	PreStartupCommand   string `json:"PreStartupCommand,omitempty"`
	PostStartupCommand  string `json:"PostStartupCommand,omitempty"`
	SubnetAddCommand    string `json:"SubnetAddCommand,omitempty"`
	SubnetRemoveCommand string `json:"SubnetRemoveCommand,omitempty"`
}

// Segment is one L2 network of the underlay: a bridge in the underlay
// namespace.
type Segment struct {
	Name string `json:"name"`
	// Bridge is the bridge's interface name.
	Bridge string       `json:"bridge"`
	CIDR   netip.Prefix `json:"cidr"`
	// CIDR6 is the IPv6 prefix of a dual-stack segment.
	CIDR6 netip.Prefix `json:"cidr6,omitzero"`
	// MTU in bytes of every interface on the segment that names none.
	MTU int `json:"mtu"`
}

// Interface is one underlay interface of a node or router.
type Interface struct {
	// Name is the interface's name inside the node, at most 15 bytes.
	Name string `json:"name"`
	// AltName is the readable name where Name had to be hashed.
	AltName string `json:"altName,omitempty"`
	// Port is the name of the other end, on the segment's bridge.
	Port    string       `json:"port"`
	Segment string       `json:"segment"`
	Address netip.Prefix `json:"address"`
	// Address6 is the global IPv6 address of a dual-stack lab.
	Address6 netip.Prefix `json:"address6,omitzero"`
	MAC      MAC          `json:"mac"`
	MTU      int          `json:"mtu"`
}

// Router forwards between underlay segments, in a namespace of its own.
type Router struct {
	Name       string      `json:"name"`
	Interfaces []Interface `json:"interfaces"`
	// Routes lead to the segments that only other routers are on.
	Routes []Route `json:"routes,omitempty"`
}

// Route is a static route of a node or router. A zero Dst is the default route.
type Route struct {
	Dst netip.Prefix `json:"dst,omitzero"`
	Via netip.Addr   `json:"via"`
	Dev string       `json:"dev"`
}

// Role is a node's part in the cluster.
type Role string

const (
	// ControlPlane is the role of the node that stands in for the master; the
	// first one holds the store.
	ControlPlane Role = "control-plane"
	// Worker is the role of every other node.
	Worker Role = "worker"
)

// Node is one machine's stand-in.
type Node struct {
	Name       string      `json:"name"`
	Role       Role        `json:"role"`
	Interfaces []Interface `json:"interfaces"`
	Routes     []Route     `json:"routes,omitempty"`
	// PodCIDR is the node's subnet of the overlay, fixed by a reservation in
	// the store.
	PodCIDR  netip.Prefix `json:"podCIDR"`
	PodCIDR6 netip.Prefix `json:"podCIDR6,omitzero"`
	Agent    Agent        `json:"agent"`
	// VtepMAC fixes flannel.N's MAC; zero leaves it to the agent.
	VtepMAC MAC `json:"vtepMAC,omitzero"`
	// BridgeMAC is cni0's MAC.
	BridgeMAC MAC `json:"bridgeMAC"`
}

// Agent is the program under test on one node.
type Agent struct {
	// Command is the program and its first arguments; empty means the bundled
	// overlabd. Flanneld's flags are appended to it.
	Command []string `json:"command,omitempty"`
	// Args are further arguments, after the generated ones.
	Args []string `json:"args,omitempty"`
	// Iface and IfaceRegex choose the interface as flanneld's flags of the
	// same names do; empty means the interface of the default route.
	Iface      string `json:"iface,omitempty"`
	IfaceRegex string `json:"ifaceRegex,omitempty"`
	// PublicIP overrides the address that peers send to.
	PublicIP netip.Addr `json:"publicIP,omitzero"`
	// Underlay is the interface that the choice above ought to find; the
	// VTEP's local address, lease and MTU follow from it.
	Underlay string `json:"underlay"`
	// IPMasq asks for masquerading of what leaves the overlay.
	IPMasq bool `json:"ipMasq"`
	// Restart says when the program is started again that has ended by itself.
	Restart RestartPolicy `json:"restart"`
	// ByHand says that no agent runs on the node.
	ByHand bool `json:"byHand,omitempty"`
}

// Hardened reports whether it is the bundled overlabd with --harden.
func (a Agent) Hardened() bool {
	return len(a.Command) == 0 && !a.ByHand && slices.ContainsFunc(a.Args, func(s string) bool {
		name, value, given := strings.Cut(s, "=")
		on, err := strconv.ParseBool(value)
		return (name == "--harden" || name == "-harden") && (!given || on && err == nil)
	})
}

// RestartPolicy says after which ends a program is started again.
type RestartPolicy string

const (
	// RestartAlways is after any.
	RestartAlways RestartPolicy = "always"
	// RestartOnFailure is after a signal, and after any exit code but 0.
	RestartOnFailure RestartPolicy = "on-failure"
	// RestartNever is after none.
	RestartNever RestartPolicy = "never"
)

// Pod is one pod.
type Pod struct {
	Name string `json:"name"`
	Node string `json:"node"`
	// Address with the prefix length of the node's subnet.
	Address  netip.Prefix `json:"address"`
	Address6 netip.Prefix `json:"address6,omitzero"`
	MAC      MAC          `json:"mac"`
	// HostInterface is the name of the veth's end on the node.
	HostInterface string `json:"hostInterface"`
	// ContainerID is the 64 hex digits under which CNI files the pod, and
	// SandboxID those of its network namespace, as a container engine would
	// have made them.
	ContainerID string `json:"containerID"`
	SandboxID   string `json:"sandboxID"`
	// Ports are those of the node that lead to the pod.
	Ports []Port `json:"ports,omitempty"`
	// Image is what the pod's container is made of, where the lab has
	// containers: a whole reference, a path (see ImageFile), or empty for the
	// image that overlab makes.
	Image string `json:"image,omitempty"`
	// Command is the container's program in place of the image's own.
	Command []string `json:"command,omitempty"`
}

// Store is where the leases live.
type Store struct {
	// Type is "etcd".
	Type string `json:"type"`
	// Node is the node whose underlay address the store listens on.
	Node string `json:"node"`
	// Port is the client port.
	Port int `json:"port"`
	// Prefix is flannel's --etcd-prefix.
	Prefix string `json:"prefix"`
}

// Node returns the node of that name, or nil.
func (p *Plan) Node(name string) *Node {
	return find(p.Nodes, func(n *Node) bool { return n.Name == name })
}

// Pod returns the pod of that name, or nil.
func (p *Plan) Pod(name string) *Pod {
	return find(p.Pods, func(x *Pod) bool { return x.Name == name })
}

// Segment returns the segment of that name, or nil.
func (p *Plan) Segment(name string) *Segment {
	return find(p.Segments, func(s *Segment) bool { return s.Name == name })
}

// PodsOn returns the pods of one node, in the plan's order.
func (p *Plan) PodsOn(node string) []Pod {
	return slices.DeleteFunc(slices.Clone(p.Pods), func(x Pod) bool { return x.Node != node })
}

// Interface returns the node's underlay interface of that name, or nil.
func (n *Node) Interface(name string) *Interface {
	return find(n.Interfaces, func(i *Interface) bool { return i.Name == name })
}

// Underlay returns the interface that the node's agent ought to use.
func (n *Node) Underlay() *Interface { return n.Interface(n.Agent.Underlay) }

// PublicIP returns the address that peers send encapsulated packets to.
func (n *Node) PublicIP() netip.Addr {
	if n.Agent.PublicIP.IsValid() {
		return n.Agent.PublicIP
	}
	return n.Underlay().Address.Addr()
}

// PublicIP6 returns the address that peers send packets over IPv6 to; the zero
// address in a lab that is not dual stack.
func (n *Node) PublicIP6() netip.Addr { return n.Underlay().Address6.Addr() }

// Gateway returns cni0's address on the node: the first host of its subnet.
func (n *Node) Gateway() netip.Prefix { return firstHost(n.PodCIDR) }

// Gateway6 returns cni0's IPv6 address; the zero prefix in a lab that is not
// dual stack.
func (n *Node) Gateway6() netip.Prefix { return firstHost(n.PodCIDR6) }

func firstHost(p netip.Prefix) netip.Prefix {
	if !p.IsValid() {
		return p
	}
	return netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits())
}

// OverlayMTU returns the MTU in bytes of the node's pods and cni0: that of
// the underlay (or the backend's own MTU key, if that is less) less the
// encapsulation.
func (p *Plan) OverlayMTU(n *Node) int {
	b, mtu := p.Network.Backend, n.Underlay().MTU
	if b.MTU != 0 && b.FixesMTU() {
		mtu = min(mtu, b.MTU)
	}
	return mtu - p.Network.Overhead()
}

// Overhead returns the bytes that the largest packet of the overlay has less
// than one of the underlay. Pods have one MTU, whatever family they speak: in a
// dual-stack overlay of vxlan both have room for IPv6's outer header.
func (c NetConf) Overhead() int {
	if c.EnableIPv6 && c.Backend.Type == "vxlan" {
		return c.Backend.Overhead() + 20 // an IPv6 header has 40 bytes, an IPv4 header 20
	}
	return c.Backend.Overhead()
}

// CarriesIPv6 reports whether the backend has flannel's IPv6; its udp, ipip and
// ipsec have not.
func (b Backend) CarriesIPv6() bool {
	switch b.Type {
	case "udp", "ipip", "ipsec":
		return false
	}
	return true
}

// FixesMTU reports whether the backend heeds its MTU key. Flannel's host-gw,
// ipip, udp and alloc have none. Its extension has none either, and the
// bundled agent's has: only who writes the commands knows what they add to a
// packet.
func (b Backend) FixesMTU() bool {
	switch b.Type {
	case "host-gw", "ipip", "udp", "alloc":
		return false
	}
	return true
}

// Connects reports whether the backend carries packets between nodes; alloc
// only gives each node its subnet, and so does an extension without a command
// for peers.
func (b Backend) Connects() bool {
	return b.Type != "alloc" && (b.Type != "extension" || b.SubnetAddCommand != "")
}

// Overhead returns the bytes that the backend's encapsulation adds to an IPv4
// packet, as flannel accounts for them.
func (b Backend) Overhead() int {
	switch b.Type {
	case "vxlan":
		return 50
	case "udp":
		return 28
	case "ipip":
		return 20
	case "wireguard":
		return 80
	case "ipsec":
		return 77
	default:
		return 0
	}
}

func find[T any](s []T, is func(*T) bool) *T {
	for i := range s {
		if is(&s[i]) {
			return &s[i]
		}
	}
	return nil
}
