// Package vxlan is flannel's vxlan backend: one VXLAN device, and for every
// peer a neighbour (the peer's subnet address has the peer's VTEP MAC), a
// forwarding entry (that MAC is behind the peer's PublicIP) and a route (the
// peer's subnet is behind the peer's subnet address). Nothing is learned or
// flooded.
//
// With DirectRouting a peer on the node's own segment has a plain route by its
// PublicIP, and no neighbour and no forwarding entry; who that is follows the
// node's routes and addresses as they change.
//
// IPv6 has a device, and all of this, of its own: flannel-v6.VNI, whose outer
// packets are IPv6, too. The two devices and the pods have one MTU, that of the
// larger outer header: flannel gives the first device 20 bytes more, which in
// subnet.env promises pods packets that the second cannot carry.
package vxlan

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

const (
	// Type is the backend's name in net-conf.json and in leases.
	Type = "vxlan"
	// overhead in bytes: outer IPv4 20, UDP 8, VXLAN 8 (RFC 7348, section 5),
	// inner Ethernet 14; overhead6 with an outer IPv6 header, 40.
	overhead  = 50
	overhead6 = 70
	// kernelPort is the destination port of a device that names none.
	kernelPort = 8472
	// maxName is the longest name of a network interface.
	maxName = 15
)

// config is the Backend object (flannel, pkg/backend/vxlan/vxlan.go).
type config struct {
	VNI           int
	Port          int
	MTU           int
	GBP           bool
	Learning      bool
	DirectRouting bool
}

// leaseData is the BackendData of a lease.
type leaseData struct {
	VNI     int
	VtepMAC string
}

// VXLAN is one node's part of a VXLAN overlay.
type VXLAN struct {
	network  *lease.Config
	underlay backend.Underlay
	// links are the devices, one for each family of the network.
	links map[lease.Family]*datapath.Link
	// bare are the routes of peers on the segment; none without DirectRouting.
	bare datapath.BareRoutes
}

var (
	_ backend.DataV6 = (*VXLAN)(nil)
	_ backend.Tunnel = (*VXLAN)(nil)
)

// deviceName is the name of a family's device.
func deviceName(f lease.Family, vni int) string {
	if f == lease.IPv4 {
		return fmt.Sprintf("flannel.%d", vni)
	}
	return fmt.Sprintf("flannel-v6.%d", vni)
}

// New checks the configuration.
func New(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
	cfg := config{VNI: 1}
	if err := json.Unmarshal(c.Backend, &cfg); err != nil {
		return nil, fmt.Errorf("read the vxlan backend's configuration: %w", err)
	}
	if cfg.MTU == 0 {
		cfg.MTU = u.MTU
	}
	over, least, why := overhead, 68, "IPv4's 68" // RFC 791
	if c.EnableIPv6 {
		over, least, why = overhead6, 1280, "IPv6's 1280" // RFC 8200, section 5
	}
	// The kernel holds a device to its underlay's MTU, whatever was asked.
	mtu := min(cfg.MTU, u.MTU) - over
	switch {
	case cfg.VNI < 0 || cfg.VNI >= 1<<24:
		return nil, fmt.Errorf("VNI %d is not a 24-bit number", cfg.VNI)
	case cfg.Port < 0 || cfg.Port > 65535:
		return nil, fmt.Errorf("port %d is not a UDP port", cfg.Port)
	case mtu < least:
		return nil, fmt.Errorf("MTU %d of %s (net-conf.json: %d) leaves %d bytes for pods, fewer than %s", u.MTU, u.Name, cfg.MTU, mtu, why)
	}
	if cfg.Port == 0 {
		cfg.Port = kernelPort
	}
	v := &VXLAN{network: c, underlay: u, links: map[lease.Family]*datapath.Link{}}
	for _, f := range c.Families() {
		name := deviceName(f, cfg.VNI)
		if len(name) > maxName {
			return nil, fmt.Errorf("VNI %d: the device's name %s would be longer than %d characters", cfg.VNI, name, maxName)
		}
		v.links[f] = &datapath.Link{
			Name: name, Kind: "vxlan", MAC: datapath.RandomMAC(), MTU: mtu, Up: true, Underlay: u.Name,
			Local: u.Public(f), VNI: cfg.VNI, Port: cfg.Port, Learning: cfg.Learning, GBP: cfg.GBP,
		}
	}
	if cfg.DirectRouting {
		v.bare = backend.BareRoutes(c, u)
	}
	return v, nil
}

// dynamicPorts are those that RFC 7348, section 5, recommends as source ports.
var dynamicPorts = [2]uint16{49152, 65535}

// NewHardened is New, with a device whose packets are as RFC 7348, section 5,
// recommends: source ports that are dynamic ones, and over IPv4 no outer UDP
// checksum. Flannel leaves both to the kernel, whose range of local ports begins
// lower, and which computes the checksum.
func NewHardened(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
	b, err := New(c, u)
	if err != nil {
		return nil, err
	}
	v := b.(*VXLAN)
	for f, link := range v.links {
		link.SourcePorts, link.NoChecksum = dynamicPorts, f == lease.IPv4
	}
	return v, nil
}

// TunnelPort implements backend.Tunnel.
func (v *VXLAN) TunnelPort() uint16 { return uint16(v.links[v.network.Families()[0]].Port) }

// Type implements backend.Backend.
func (v *VXLAN) Type() string { return Type }

// MTU implements backend.Backend.
func (v *VXLAN) MTU() int { return v.links[v.network.Families()[0]].MTU }

// Scope implements backend.Backend.
func (v *VXLAN) Scope() datapath.Scope {
	s := datapath.Scope{
		Underlays: []string{v.underlay.Name}, Bare: v.bare,
		IPv6: v.network.EnableIPv6, Contested: backend.Contested(v.network),
	}
	for _, f := range v.network.Families() {
		s.Devices = append(s.Devices, v.links[f].Name)
	}
	return s
}

// Adopt keeps the MAC addresses of devices that are there, compatible or not:
// the peers know them.
func (v *VXLAN) Adopt(have datapath.State) {
	for _, link := range v.links {
		if l, ok := have.Link(link.Name); ok {
			if mac, err := datapath.ParseMAC(l.MAC.String()); err == nil {
				link.MAC = mac
			}
		}
	}
}

// Recall keeps the MAC addresses that peers have in their tables.
func (v *VXLAN) Recall(last lease.Attrs) {
	if last.BackendType != Type {
		return
	}
	for f, raw := range map[lease.Family]json.RawMessage{lease.IPv4: last.BackendData, lease.IPv6: last.BackendV6Data} {
		var data leaseData
		link, ok := v.links[f]
		if !ok || json.Unmarshal(raw, &data) != nil || data.VNI != link.VNI {
			continue
		}
		if mac, err := datapath.ParseMAC(data.VtepMAC); err == nil {
			link.MAC = mac
			v.links[f] = link
		}
	}
}

// Data implements backend.Backend; there is none in a network of IPv6 alone.
func (v *VXLAN) Data() json.RawMessage { return v.data(lease.IPv4) }

// DataV6 implements backend.DataV6.
func (v *VXLAN) DataV6() json.RawMessage { return v.data(lease.IPv6) }

func (v *VXLAN) data(f lease.Family) json.RawMessage {
	link, ok := v.links[f]
	if !ok {
		return nil
	}
	raw, _ := json.Marshal(leaseData{VNI: link.VNI, VtepMAC: link.MAC.String()}) // it always can be
	return raw
}

// Device implements backend.Backend.
func (v *VXLAN) Device() datapath.State {
	s := datapath.NewState()
	for _, link := range v.links {
		s.Links.Add(*link)
	}
	return s
}

// Desired implements backend.Backend.
func (v *VXLAN) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	s := v.Device()
	var problems []string
	for _, f := range v.network.Families() {
		problems = append(problems, v.desired(f, s, own, all)...)
	}
	return s, problems
}

// desired adds what one family needs.
func (v *VXLAN) desired(f lease.Family, s datapath.State, own lease.Lease, all []lease.Lease) []string {
	link, subnet := v.links[f], own.Key.Of(f)
	dev := link.Name
	s.Addrs.Add(datapath.Addr{Dev: dev, Prefix: netip.PrefixFrom(subnet.Addr(), subnet.Addr().BitLen())})
	// One MAC has one place in the forwarding database.
	holders := map[datapath.MAC]netip.Prefix{link.MAC: subnet}
	macs := map[lease.Key]datapath.MAC{}
	peers, problems := backend.PeersOf(f, v.network, Type, v.underlay, own, all, func(l lease.Lease) (err error) {
		macs[l.Key], err = vtepMAC(f, l)
		return err
	}, func(l lease.Lease) error {
		mac := macs[l.Key]
		if holder, taken := holders[mac]; taken {
			return fmt.Errorf("VtepMAC %s is also that of %s: the nodes were cloned, or one took the other's device", mac, holder)
		}
		holders[mac] = l.Key.Of(f)
		return nil
	})
	for _, l := range peers {
		mac, dst := macs[l.Key], l.Key.Of(f)
		if v.direct(f, l) {
			s.Routes.Add(datapath.Route{Dst: dst, Via: l.Attrs.Public(f), Dev: link.Underlay})
			continue
		}
		via := dst.Addr()
		s.Neighs[datapath.NeighKey{Dev: dev, IP: via}] = mac
		s.FDB.Add(datapath.FDB{Dev: dev, MAC: mac, Dst: l.Attrs.Public(f)})
		s.Routes.Add(datapath.Route{Dst: dst, Via: via, Dev: dev, Onlink: true})
	}
	return problems
}

// direct reports whether a peer's packets need no tunnel.
func (v *VXLAN) direct(f lease.Family, l lease.Lease) bool {
	return v.bare.Dev != "" && v.bare.Covers(l.Key.Of(f)) && v.underlay.Adjacent(l.Attrs.Public(f))
}

// vtepMAC reads the address of another node's VTEP from its lease.
func vtepMAC(f lease.Family, l lease.Lease) (datapath.MAC, error) {
	var data leaseData
	field := "BackendData"
	if f == lease.IPv6 {
		field = "BackendV6Data"
	}
	if err := json.Unmarshal(l.Attrs.Data(f), &data); err != nil {
		return datapath.MAC{}, fmt.Errorf("%s %q: %w", field, l.Attrs.Data(f), err)
	}
	mac, err := datapath.ParseMAC(data.VtepMAC)
	if err != nil {
		return datapath.MAC{}, fmt.Errorf("VtepMAC: %w", err)
	}
	return mac, nil
}
