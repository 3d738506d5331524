// Package topology says what a lab is: the specification that a person writes,
// its expansion to a plan in which everything is decided, and the seam that
// providers implement to build one. It is pure: it reads a file, and touches
// nothing else.
package topology

import "net/netip"

// The one version and kind of lab file that this build reads.
const (
	APIVersion = "overlab/v1alpha1"
	Kind       = "Lab"
)

// A Spec is a lab as a person writes it. Every key that is left out has a
// default, which Plan fills in; a Spec itself stays as written.
//
// Pointers tell "left out" from a zero that somebody wrote.
type Spec struct {
	// The version of this format.
	APIVersion string `json:"apiVersion" jsonschema:"required,enum=overlab/v1alpha1"`
	// The kind of document.
	Kind string `json:"kind" jsonschema:"required,enum=Lab"`
	// What the lab is called.
	Metadata Metadata `json:"metadata,omitempty"`
	// What the lab is made of; {} is a master and two workers with two pods each.
	Spec LabSpec `json:"spec" jsonschema:"required"`

	source *source
}

// Metadata names a lab.
type Metadata struct {
	// A DNS label of at most 40 characters; "lab" when left out.
	Name string `json:"name,omitempty" jsonschema:"maxLength=40,pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"`
	// One line for people.
	Description string `json:"description,omitempty"`
}

// LabSpec is what a lab is made of.
type LabSpec struct {
	// What the lab is built with; netns when left out.
	Provider string `json:"provider,omitempty" jsonschema:"enum=netns,enum=kind,enum=vagrant,enum=kubernetes"`
	// The overlay: flannel's net-conf.json, the same keys.
	Network NetworkSpec `json:"network,omitempty"`
	// The IPv4 CIDR of services, in a lab that is a Kubernetes cluster; 10.96.0.0/16 with the provider kind when left out. Others have no services, and pass it over.
	ServiceCIDR netip.Prefix `json:"serviceCIDR,omitempty"`
	// What the kernels do with IPv6 in a lab of IPv4 alone; off when left out. A lab with EnableIPv6 is dual stack and leaves this out.
	IPv6 string `json:"ipv6,omitempty" jsonschema:"enum=off,enum=link-local"`
	// The L2 networks between nodes; one called lan, 172.16.1.0/24, when left out.
	Underlay []SegmentSpec `json:"underlay,omitempty"`
	// Routers between segments.
	Routers []RouterSpec `json:"routers,omitempty"`
	// The machines; master, node-1 and node-2 when left out.
	Nodes []NodeSpec `json:"nodes,omitempty"`
	// Pods by name; podsPerNode fills in the others.
	Pods []PodSpec `json:"pods,omitempty"`
	// How many pods every node has at least; 2 when pods is left out, else 0.
	PodsPerNode *int `json:"podsPerNode,omitempty" jsonschema:"minimum=0,maximum=1023"`
	// What pods are: namespaces alone (netns), or containers too; netns when left out.
	Runtime string `json:"runtime,omitempty" jsonschema:"enum=netns,enum=containerd"`
	// With containerd, the image of every pod that names none: file: and the path of an OCI or Docker archive, as seen from the lab file, or a reference in a containerd that runs. The image of `overlab image pod` when left out.
	Image string `json:"image,omitempty"`
	// The program under test, for every node that does not say otherwise.
	Agent AgentSpec `json:"agent,omitempty"`
	// Where the agents' leases live.
	Store StoreSpec `json:"store,omitempty"`
	// How pods are wired.
	CNI CNISpec `json:"cni,omitempty"`
}

// NetworkSpec is flannel's net-conf.json.
type NetworkSpec struct {
	// Whether the overlay carries IPv4; true when left out.
	EnableIPv4 *bool `json:"EnableIPv4,omitempty"`
	// Whether the overlay carries IPv6 too; false when left out.
	EnableIPv6 *bool `json:"EnableIPv6,omitempty"`
	// Whether the agents write nftables rules; false (iptables) when left out.
	EnableNFTables *bool `json:"EnableNFTables,omitempty"`
	// The overlay's IPv4 CIDR; 10.244.0.0/16 when left out. Host bits are dropped.
	Network netip.Prefix `json:"Network,omitempty"`
	// The prefix length of each node's subnet; 24 when Network is a /22 or wider, else that of Network plus 2.
	SubnetLen *int `json:"SubnetLen,omitempty" jsonschema:"maximum=30"`
	// The first subnet that agents may allocate; Network's second, or its first when a node has that one.
	SubnetMin netip.Addr `json:"SubnetMin,omitempty"`
	// The last subnet that agents may allocate; Network's last when left out.
	SubnetMax netip.Addr `json:"SubnetMax,omitempty"`
	// The overlay's IPv6 CIDR; fd00:10:244::/48 when left out. Host bits are dropped.
	IPv6Network netip.Prefix `json:"IPv6Network,omitempty"`
	// The prefix length of each node's IPv6 subnet; 64 when IPv6Network is a /62 or wider, else that of IPv6Network plus 2.
	IPv6SubnetLen *int `json:"IPv6SubnetLen,omitempty" jsonschema:"maximum=126"`
	// As SubnetMin.
	IPv6SubnetMin netip.Addr `json:"IPv6SubnetMin,omitempty"`
	// As SubnetMax.
	IPv6SubnetMax netip.Addr `json:"IPv6SubnetMax,omitempty"`
	// How packets cross the underlay.
	Backend BackendSpec `json:"Backend,omitempty"`
}

// BackendSpec is the Backend object of net-conf.json.
type BackendSpec struct {
	// vxlan when left out. The loader takes upper case too, as flannel does; write lower case.
	Type string `json:"Type,omitempty" jsonschema:"enum=vxlan,enum=host-gw,enum=udp,enum=ipip,enum=wireguard,enum=ipsec,enum=alloc,enum=extension"`
	// The VXLAN network identifier; 1 when left out. The device's name, flannel.VNI, allows seven digits.
	VNI *int `json:"VNI,omitempty" jsonschema:"minimum=1,maximum=9999999"`
	// The UDP port; 8472 for vxlan, 8285 for udp when left out.
	Port *int `json:"Port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// The MTU in bytes that the encapsulation is taken from, for vxlan, wireguard, ipsec and extension; that of the agent's interface when left out.
	MTU *int `json:"MTU,omitempty" jsonschema:"minimum=576,maximum=65535"`
	// The group-based policy extension of VXLAN; false when left out.
	GBP *bool `json:"GBP,omitempty"`
	// Whether the VXLAN device learns addresses from traffic; false when left out.
	Learning *bool `json:"Learning,omitempty"`
	// Whether nodes of one segment route to each other without encapsulation; false when left out.
	DirectRouting *bool `json:"DirectRouting,omitempty"`
	// For wireguard: the UDP port that nodes listen on; 51820 when left out.
	ListenPort *int `json:"ListenPort,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// For wireguard: a key of 32 bytes in base64 that all nodes share, besides their own; none when left out. For ipsec: the key that all nodes share, 96 characters at least, as `openssl rand -hex 48` makes it.
	PSK string `json:"PSK,omitempty"`
	// For ipsec: whether ESP travels in UDP, which the bundled agent does not do; false when left out.
	UDPEncap *bool `json:"UDPEncap,omitempty"`
	// For wireguard: the seconds after which a silent node sends something, so that NAT gateways remember it; 0, never, when left out.
	PersistentKeepaliveInterval *int `json:"PersistentKeepaliveInterval,omitempty" jsonschema:"minimum=0,maximum=65535"`
	// For wireguard: which addresses nodes reach each other by; separate when left out.
	Mode string `json:"Mode,omitempty" jsonschema:"enum=separate,enum=auto,enum=ipv4,enum=ipv6"`
	// For extension: the shell command that runs before the node has a lease. What it prints is the lease's BackendData.
	PreStartupCommand string `json:"PreStartupCommand,omitempty"`
	// For extension: the shell command that runs when the node has a lease, with NETWORK, SUBNET and PUBLIC_IP.
	PostStartupCommand string `json:"PostStartupCommand,omitempty"`
	// For extension: the shell command that runs for each peer, with SUBNET and PUBLIC_IP; its BackendData is on stdin.
	SubnetAddCommand string `json:"SubnetAddCommand,omitempty"`
	// For extension: the shell command that runs for each peer that has gone, likewise.
	SubnetRemoveCommand string `json:"SubnetRemoveCommand,omitempty"`
}

// SegmentSpec is one L2 network of the underlay.
type SegmentSpec struct {
	// A DNS label.
	Name string `json:"name" jsonschema:"required,maxLength=63"`
	// The segment's IPv4 CIDR.
	CIDR netip.Prefix `json:"cidr" jsonschema:"required"`
	// The segment's IPv6 CIDR in a dual-stack lab.
	CIDR6 netip.Prefix `json:"cidr6,omitempty"`
	// The MTU in bytes of the interfaces on the segment that name none; 1500 when left out.
	MTU *int `json:"mtu,omitempty" jsonschema:"minimum=576,maximum=65535"`
	// Where the default route of the nodes on the segment leads. A router that is on the segment and fixes no address takes this one; without a router nothing answers there.
	Gateway netip.Addr `json:"gateway,omitempty"`
	// Whether every node has a copy of the segment to itself, as each machine has its own NAT network in VirtualBox; addresses may then repeat from node to node. False when left out.
	PerNode *bool `json:"perNode,omitempty"`
}

// RouterSpec forwards between segments.
type RouterSpec struct {
	// A DNS label that no node or pod has.
	Name string `json:"name" jsonschema:"required,maxLength=63"`
	// One interface for each segment that it joins.
	Interfaces []InterfaceSpec `json:"interfaces" jsonschema:"required"`
}

// InterfaceSpec is one underlay interface of a node or router.
type InterfaceSpec struct {
	// The interface's name; eth0, eth1 … by position when left out. One of more than 15 bytes is hashed, and stays as the altname.
	Name string `json:"name,omitempty" jsonschema:"maxLength=127"`
	// The segment that the interface is on; may be left out when there is one segment.
	Segment string `json:"segment,omitempty"`
	// The IPv4 address, without a prefix length; the lowest free one of the segment when left out.
	Address netip.Addr `json:"address,omitempty"`
	// The IPv6 address in a dual-stack lab, likewise.
	Address6 netip.Addr `json:"address6,omitempty"`
	// The MAC address; derived from the names of lab, node and interface when left out.
	MAC MAC `json:"mac,omitempty"`
	// The MTU in bytes; the segment's when left out.
	MTU *int `json:"mtu,omitempty" jsonschema:"minimum=576,maximum=65535"`
}

// NodeSpec is one machine, or count alike.
type NodeSpec struct {
	// A DNS label that no other node, router or pod has.
	Name string `json:"name" jsonschema:"required,maxLength=63"`
	// worker when left out. The first control-plane node holds the store.
	Role string `json:"role,omitempty" jsonschema:"enum=control-plane,enum=worker"`
	// Makes the nodes NAME-1 to NAME-COUNT; when left out, one called NAME.
	Count *int `json:"count,omitempty" jsonschema:"minimum=1,maximum=1024"`
	// The node's subnet of the overlay; the i-th of Network for the i-th node, from 0, when left out.
	PodCIDR netip.Prefix `json:"podCIDR,omitempty"`
	// The node's IPv6 subnet of the overlay, likewise.
	PodCIDR6 netip.Prefix `json:"podCIDR6,omitempty"`
	// The underlay interfaces; one called eth0 on the first segment when left out.
	Interfaces []InterfaceSpec `json:"interfaces,omitempty"`
	// Static routes besides those that lead to the gateway and to the routers' segments.
	Routes []RouteSpec `json:"routes,omitempty"`
	// The MAC address of flannel.VNI; the agent's own choice when left out.
	VtepMAC MAC `json:"vtepMAC,omitempty"`
	// The MAC address of cni0; derived when left out.
	BridgeMAC MAC `json:"bridgeMAC,omitempty"`
	// The program under test on this node, key by key in place of spec.agent.
	Agent AgentSpec `json:"agent,omitempty"`
}

// RouteSpec is a static route of a node.
type RouteSpec struct {
	// The destination; the default route when left out, which then replaces the one to the segment's gateway.
	Dst netip.Prefix `json:"dst,omitempty"`
	// The next hop, an address on a segment of the node.
	Via netip.Addr `json:"via" jsonschema:"required"`
	// The interface; the one whose segment holds via when left out.
	Dev string `json:"dev,omitempty"`
}

// PodSpec is one pod.
type PodSpec struct {
	// A DNS label that no other pod, node or router has.
	Name string `json:"name" jsonschema:"required,maxLength=63"`
	// The node that the pod runs on.
	Node string `json:"node" jsonschema:"required"`
	// The IPv4 address, without a prefix length; the lowest free one of the node's podCIDR from its third on when left out.
	Address netip.Addr `json:"address,omitempty"`
	// The IPv6 address in a dual-stack lab, likewise.
	Address6 netip.Addr `json:"address6,omitempty"`
	// The MAC address of the pod's eth0; derived when left out.
	MAC MAC `json:"mac,omitempty"`
	// The name of the veth's end on the node, at most 15 bytes; veth and eight hex digits when left out.
	HostInterface string `json:"hostInterface,omitempty" jsonschema:"maxLength=15"`
	// Ports of the node that lead to the pod.
	Ports []PortSpec `json:"ports,omitempty"`
	// With the runtime containerd, the pod's image; spec.image when left out.
	Image string `json:"image,omitempty"`
	// With the runtime containerd, the program of the image that the pod runs, and its arguments; the image's own when left out.
	Command []string `json:"command,omitempty"`
}

// PortSpec is a port of a pod's node that leads to the pod.
type PortSpec struct {
	// The node's port.
	HostPort int `json:"hostPort" jsonschema:"required,minimum=1,maximum=65535"`
	// The pod's port; the same when left out.
	ContainerPort *int `json:"containerPort,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// tcp when left out.
	Protocol string `json:"protocol,omitempty" jsonschema:"enum=tcp,enum=udp,enum=sctp"`
	// The one address of the node that answers; all of them when left out.
	HostIP netip.Addr `json:"hostIP,omitempty"`
}

// AgentSpec is the program under test on a node.
type AgentSpec struct {
	// The program and its first arguments; flanneld's flags are appended. The bundled overlabd when left out.
	Command []string `json:"command,omitempty"`
	// Further arguments, after the generated ones.
	Args []string `json:"args,omitempty"`
	// The address or name of the interface to use, as flanneld's --iface.
	Iface string `json:"iface,omitempty"`
	// A regular expression for the interface to use, as flanneld's --iface-regex.
	IfaceRegex string `json:"ifaceRegex,omitempty"`
	// The address that peers send to, as flanneld's --public-ip.
	PublicIP netip.Addr `json:"publicIP,omitempty"`
	// Whether what leaves the overlay is masqueraded; true when left out.
	IPMasq *bool `json:"ipMasq,omitempty"`
	// When the program is started again after it has ended by itself; always when left out. on-failure leaves one that ended with code 0.
	Restart string `json:"restart,omitempty" jsonschema:"enum=always,enum=on-failure,enum=never"`
	// Whether no agent runs, and the node is programmed by hand; false when left out. Its pods are wired all the same.
	ByHand *bool `json:"byHand,omitempty"`
}

// StoreSpec is where the agents' leases live.
type StoreSpec struct {
	// etcd when left out.
	Type string `json:"type,omitempty" jsonschema:"enum=etcd"`
	// The node that the store runs on; the first control-plane node, or else the first, when left out.
	Node string `json:"node,omitempty"`
	// The client port; 2379 when left out.
	Port *int `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// The key prefix, as flanneld's --etcd-prefix; /coreos.com/network when left out.
	Prefix string `json:"prefix,omitempty" jsonschema:"pattern=^/"`
}

// CNISpec is how pods are wired.
type CNISpec struct {
	// Whether the files under /var/lib/cni have the form of before dual stack (flannel 0.11), which older articles show; false when left out.
	LegacyRecords *bool `json:"legacyRecords,omitempty"`
	// A CNI network configuration list whose plugins wire the pods, run as executables: its text, or the name of its file as seen from the lab file. The bundled plugin, as a library, when left out.
	Conflist ConflistSpec `json:"conflist,omitempty"`
	// The folders of those plugins, searched in this order and before the bundled ones, overlab-cni and, for it too, flannel; as seen from the lab file.
	PluginDirs []string `json:"pluginDirs,omitempty"`
}
