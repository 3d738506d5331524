package netns

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/topology"
)

// Interface indices that the provider chooses, so that one batch can create a
// link and use it. Links that come later get the kernel's next free ones.
const (
	loIndex        = 1
	firstPortIndex = 1000 // the underlay's bridge ports
)

// underlay is the builder of the namespaces' links, one batch a namespace.
type underlay struct {
	plan     *topology.Plan
	space    *space
	segments map[string]int // bridge index
	nextPort int
	batch    rtnl.Batch
}

// newUnderlay makes the underlay's namespace with a bridge for each segment.
// It is a namespace of its own, so that no firewall of a node or of the host
// sees what crosses the wire.
func newUnderlay(p *topology.Plan) (*underlay, error) {
	s, err := newSpace(underlayName, "", 0, kernel{}.configure)
	if err != nil {
		return nil, err
	}
	u := &underlay{plan: p, space: s, segments: map[string]int{}, nextPort: firstPortIndex}
	u.batch.SetLink(rtnl.Link{Index: loIndex, Up: true})
	for i, seg := range p.Segments {
		index := s.first + i
		u.segments[seg.Name] = index
		u.batch.AddBridge(rtnl.Link{Name: seg.Bridge, Index: index, MTU: seg.MTU, Up: true})
	}
	return u, nil
}

// plug adds a veth pair for each interface: one end on its segment's bridge,
// the other directly inside the namespace to, as its first interfaces.
func (u *underlay) plug(to *space, interfaces []topology.Interface) {
	for i, nic := range interfaces {
		port := rtnl.Link{
			Name: nic.Port, Index: u.nextPort, MTU: nic.MTU,
			Master: u.segments[nic.Segment], Up: true,
		}
		u.nextPort++
		u.batch.AddVeth(port, rtnl.Link{
			Name: nic.Name, Index: to.first + i, MTU: nic.MTU,
			MAC: nic.MAC.HardwareAddr(), NetNS: to.set.Net,
		})
	}
}

// connect sends the underlay's batch.
func (u *underlay) connect() error {
	if err := u.space.links.Do(&u.batch); err != nil {
		return fmt.Errorf("build the underlay: %w", err)
	}
	return nil
}

// address brings a node's or router's interfaces up and gives them their
// addresses and routes.
func address(s *space, interfaces []topology.Interface, routes []topology.Route) error {
	var b rtnl.Batch
	index := map[string]int{}
	b.SetLink(rtnl.Link{Index: loIndex, Up: true})
	for i, nic := range interfaces {
		index[nic.Name] = s.first + i
		b.SetLink(rtnl.Link{Index: s.first + i, Name: "", Up: true})
		if nic.AltName != "" {
			b.AddAltName(s.first+i, nic.AltName)
		}
		b.AddAddr(s.first+i, nic.Address)
		if nic.Address6.IsValid() {
			b.AddAddr(s.first+i, nic.Address6)
		}
	}
	for _, r := range routes {
		b.AddRoute(rtnl.Route{Dst: r.Dst, Via: r.Via, Dev: index[r.Dev]})
	}
	if err := s.links.Do(&b); err != nil {
		return fmt.Errorf("address %s: %w", s.name, err)
	}
	return nil
}

// fixVTEP creates the node's VTEP with the MAC that the spec fixes. Agents
// that speak flannel keep a compatible device that they find, and its MAC.
func fixVTEP(p *topology.Plan, n *topology.Node, s *space) error {
	if n.VtepMAC.IsZero() || p.Network.Backend.Type != "vxlan" {
		return nil
	}
	dev := s.first
	for i, nic := range n.Interfaces {
		if nic.Name == n.Agent.Underlay {
			dev = s.first + i
		}
	}
	var b rtnl.Batch
	b.AddVxlan(
		rtnl.Link{Name: fmt.Sprintf("flannel.%d", p.Network.Backend.VNI), Index: s.first + len(n.Interfaces), MAC: n.VtepMAC.HardwareAddr(), MTU: p.OverlayMTU(n)},
		rtnl.Vxlan{VNI: p.Network.Backend.VNI, Port: p.Network.Backend.Port, Local: n.PublicIP(), Dev: dev, Learning: p.Network.Backend.Learning, GBP: p.Network.Backend.GBP},
	)
	if err := s.links.Do(&b); err != nil {
		return fmt.Errorf("fix the VTEP of node %s: %w", n.Name, err)
	}
	return nil
}

// manyNodes is how many nodes may find each other's MACs by ARP. One limit,
// net.ipv4.neigh.default.gc_thresh3 of the host (1024 as a rule), counts the
// dynamic neighbours of every namespace together, and this many nodes have 240.
const manyNodes = 16

// fixNeighbours gives a node permanent neighbour entries for all others on its
// segments; permanent entries do not count against the limit.
func fixNeighbours(p *topology.Plan, n *topology.Node, s *space) error {
	var b rtnl.Batch
	for i, nic := range n.Interfaces {
		for j := range p.Nodes {
			for _, peer := range p.Nodes[j].Interfaces {
				if p.Nodes[j].Name == n.Name || peer.Segment != nic.Segment {
					continue
				}
				b.AddNeigh(rtnl.Neigh{Dev: s.first + i, IP: peer.Address.Addr(), MAC: peer.MAC.HardwareAddr()})
				if peer.Address6.IsValid() {
					b.AddNeigh(rtnl.Neigh{Dev: s.first + i, IP: peer.Address6.Addr(), MAC: peer.MAC.HardwareAddr()})
				}
			}
		}
	}
	if err := s.links.Do(&b); err != nil {
		return fmt.Errorf("fix the underlay neighbours of node %s: %w", n.Name, err)
	}
	return nil
}

// linkKind is a kind of link that labs are made of.
type linkKind struct {
	// name is the kernel's word for it, and its module's name.
	name, option string
	// try creates a link of the kind.
	try func(*rtnl.Conn) error
}

// linkKinds are the kinds that a lab of the backend needs.
func linkKinds(backend string) []linkKind {
	create := func(add func(*rtnl.Batch)) func(*rtnl.Conn) error {
		return func(links *rtnl.Conn) error {
			var b rtnl.Batch
			add(&b)
			return links.Do(&b)
		}
	}
	kinds := []linkKind{
		{"bridge", "CONFIG_BRIDGE", create(func(b *rtnl.Batch) { b.AddBridge(rtnl.Link{Name: "bridge"}) })},
		{"veth", "CONFIG_VETH", create(func(b *rtnl.Batch) { b.AddVeth(rtnl.Link{Name: "veth"}, rtnl.Link{Name: "peer"}) })},
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	switch backend {
	case "vxlan":
		kinds = append(kinds, linkKind{"vxlan", "CONFIG_VXLAN", create(func(b *rtnl.Batch) {
			b.AddVxlan(rtnl.Link{Name: "vxlan"}, rtnl.Vxlan{VNI: 1, Port: 8472, Local: loopback})
		})})
	case "udp":
		kinds = append(kinds, linkKind{"tun", "CONFIG_TUN", func(*rtnl.Conn) error { return tuntap.Usable() }})
	case "ipip":
		kinds = append(kinds, linkKind{"ipip", "CONFIG_NET_IPIP", orTun(create(func(b *rtnl.Batch) {
			b.AddIPIP(rtnl.Link{Name: "ipip"}, loopback)
		}))})
	case "wireguard":
		kinds = append(kinds, linkKind{"wireguard", "CONFIG_WIREGUARD", orTun(create(func(b *rtnl.Batch) {
			b.AddKind(rtnl.Link{Name: "wireguard"}, "wireguard")
		}))})
	case "ipsec":
		kinds = append(kinds, linkKind{"esp4", "CONFIG_INET_ESP and CONFIG_CRYPTO_GCM", tryESP})
	}
	return kinds
}

// orTun is for a kind in whose place the agent takes a TUN device where the
// kernel makes none.
func orTun(try func(*rtnl.Conn) error) func(*rtnl.Conn) error {
	return func(links *rtnl.Conn) error {
		err := try(links)
		if !errors.Is(err, unix.EOPNOTSUPP) {
			return err
		}
		if tun := tuntap.Usable(); tun != nil {
			return fmt.Errorf("%w; and none in userspace in its place: %w", err, tun)
		}
		return nil
	}
}

// probeKinds creates one link of each kind in a namespace that serves nothing
// else, so that a kernel that lacks one is named before anything is built. The
// namespace lives as long as the lab: deleting a link takes the kernel up to
// 30 ms, more than the lab's whole underlay.
func probeKinds(kinds []linkKind) error {
	s, err := newSpace("probe", "", 0, func() error { return nil })
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		if err := kind.try(s.links); err != nil {
			return &missingFeature{kind: kind.name, option: kind.option, err: err}
		}
	}
	return nil
}

// tryESP makes an association of IPsec as the backend's are, of addresses for
// documentation (RFC 5737). It is the supervisor's namespace that has it, in
// which no packet is.
func tryESP(*rtnl.Conn) error {
	conn, err := rtnl.DialXFRM()
	if err != nil {
		return err
	}
	probe := rtnl.SA{Src: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 2}), SPI: 256, Key: make([]byte, 20), Window: 32}
	var b rtnl.Batch
	b.AddSA(probe)
	err = conn.Do(&b)
	if err == nil {
		b.DelSA(probe)
		err = conn.Do(&b)
	}
	return errors.Join(err, conn.Close())
}

// missingFeature is a kind of link that the running kernel does not make.
type missingFeature struct {
	kind, option string
	err          error
}

func (m *missingFeature) Error() string {
	var uts unix.Utsname
	release := "?"
	if unix.Uname(&uts) == nil {
		release = unix.ByteSliceToString(uts.Release[:])
	}
	what := "makes no links of type " + m.kind
	if m.kind == "esp4" {
		what = "encrypts no ESP packets with AES-GCM"
	}
	return fmt.Sprintf("kernel %s %s (%v): load the module with `sudo modprobe %s`, or use a kernel built with %s",
		release, what, m.err, m.kind, m.option)
}

func (m *missingFeature) Unwrap() error { return m.err }
