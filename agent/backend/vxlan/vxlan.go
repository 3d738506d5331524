// Package vxlan is flannel's vxlan backend: one VXLAN device, and for every
// peer a neighbour (the peer's subnet address has the peer's VTEP MAC), a
// forwarding entry (that MAC is behind the peer's PublicIP) and a route (the
// peer's subnet is behind the peer's subnet address). Nothing is learned or
// flooded.
//
// With DirectRouting a peer on the node's own segment has a plain route by its
// PublicIP, and no neighbour and no forwarding entry; who that is follows the
// node's routes and addresses as they change.
package vxlan

import (
	"encoding/json"
	"errors"
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
	// inner Ethernet 14.
	overhead = 50
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
	link     datapath.Link
	underlay backend.Underlay
	// bare are the routes of peers on the segment; none without DirectRouting.
	bare datapath.BareRoutes
}

// New checks the configuration.
func New(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
	cfg := config{VNI: 1}
	if err := json.Unmarshal(c.Backend, &cfg); err != nil {
		return nil, fmt.Errorf("read the vxlan backend's configuration: %w", err)
	}
	name := fmt.Sprintf("flannel.%d", cfg.VNI)
	if cfg.MTU == 0 {
		cfg.MTU = u.MTU
	}
	// The kernel holds the device to its underlay's MTU, whatever was asked.
	mtu := min(cfg.MTU, u.MTU) - overhead
	switch {
	case c.EnableIPv6:
		return nil, errors.New("IPv6 (EnableIPv6) over vxlan is not in this build")
	case cfg.VNI < 0 || cfg.VNI >= 1<<24:
		return nil, fmt.Errorf("VNI %d is not a 24-bit number", cfg.VNI)
	case len(name) > maxName:
		return nil, fmt.Errorf("VNI %d: the device's name %s would be longer than %d characters", cfg.VNI, name, maxName)
	case cfg.Port < 0 || cfg.Port > 65535:
		return nil, fmt.Errorf("port %d is not a UDP port", cfg.Port)
	case mtu < 68: // RFC 791
		return nil, fmt.Errorf("MTU %d of %s (net-conf.json: %d) leaves %d bytes for pods, fewer than IPv4's 68", u.MTU, u.Name, cfg.MTU, mtu)
	}
	if cfg.Port == 0 {
		cfg.Port = kernelPort
	}
	v := &VXLAN{
		network: c, underlay: u,
		link: datapath.Link{
			Name: name, Kind: "vxlan", MAC: datapath.RandomMAC(), MTU: mtu, Up: true, Underlay: u.Name,
			Local: u.PublicIP, VNI: cfg.VNI, Port: cfg.Port, Learning: cfg.Learning, GBP: cfg.GBP,
		},
	}
	if cfg.DirectRouting {
		v.bare = datapath.BareRoutes{Dev: u.Name, Network: c.Network, Len: c.SubnetLen}
	}
	return v, nil
}

// Type implements backend.Backend.
func (v *VXLAN) Type() string { return Type }

// MTU implements backend.Backend.
func (v *VXLAN) MTU() int { return v.link.MTU }

// Scope implements backend.Backend.
func (v *VXLAN) Scope() datapath.Scope {
	return datapath.Scope{Devices: []string{v.link.Name}, Underlays: []string{v.link.Underlay}, Bare: v.bare}
}

// Adopt keeps the MAC address of a device that is there, compatible or not:
// the peers know it.
func (v *VXLAN) Adopt(have datapath.State) {
	if l, ok := have.Link(v.link.Name); ok {
		if mac, err := datapath.ParseMAC(l.MAC.String()); err == nil {
			v.link.MAC = mac
		}
	}
}

// Recall keeps the MAC address that peers have in their tables.
func (v *VXLAN) Recall(last lease.Attrs) {
	var data leaseData
	if last.BackendType != Type || json.Unmarshal(last.BackendData, &data) != nil || data.VNI != v.link.VNI {
		return
	}
	if mac, err := datapath.ParseMAC(data.VtepMAC); err == nil {
		v.link.MAC = mac
	}
}

// Data implements backend.Backend.
func (v *VXLAN) Data() json.RawMessage {
	raw, _ := json.Marshal(leaseData{VNI: v.link.VNI, VtepMAC: v.link.MAC.String()}) // it always can be
	return raw
}

// Device implements backend.Backend.
func (v *VXLAN) Device() datapath.State {
	s := datapath.NewState()
	s.Links.Add(v.link)
	return s
}

// Desired implements backend.Backend.
func (v *VXLAN) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	dev := v.link.Name
	s := v.Device()
	s.Addrs.Add(datapath.Addr{Dev: dev, Prefix: netip.PrefixFrom(own.Key.Subnet.Addr(), 32)})
	// One MAC has one place in the forwarding database.
	holders := map[datapath.MAC]netip.Prefix{v.link.MAC: own.Key.Subnet}
	macs := map[lease.Key]datapath.MAC{}
	peers, problems := backend.Peers(v.network, Type, v.underlay, own, all, func(l lease.Lease) (err error) {
		macs[l.Key], err = vtepMAC(l)
		return err
	}, func(l lease.Lease) error {
		mac := macs[l.Key]
		if holder, taken := holders[mac]; taken {
			return fmt.Errorf("VtepMAC %s is also that of %s: the nodes were cloned, or one took the other's device", mac, holder)
		}
		holders[mac] = l.Key.Subnet
		return nil
	})
	for _, l := range peers {
		mac := macs[l.Key]
		if v.direct(l) {
			s.Routes.Add(datapath.Route{Dst: l.Key.Subnet, Via: l.Attrs.PublicIP, Dev: v.link.Underlay})
			continue
		}
		via := l.Key.Subnet.Addr()
		s.Neighs[datapath.NeighKey{Dev: dev, IP: via}] = mac
		s.FDB.Add(datapath.FDB{Dev: dev, MAC: mac, Dst: l.Attrs.PublicIP})
		s.Routes.Add(datapath.Route{Dst: l.Key.Subnet, Via: via, Dev: dev, Onlink: true})
	}
	return s, problems
}

// direct reports whether a peer's packets need no tunnel.
func (v *VXLAN) direct(l lease.Lease) bool {
	return v.bare.Dev != "" && v.bare.Covers(l.Key.Subnet) && v.underlay.Adjacent(l.Attrs.PublicIP)
}

// vtepMAC reads the address of another node's VTEP from its lease.
func vtepMAC(l lease.Lease) (datapath.MAC, error) {
	var data leaseData
	if err := json.Unmarshal(l.Attrs.BackendData, &data); err != nil {
		return datapath.MAC{}, fmt.Errorf("BackendData %q: %w", l.Attrs.BackendData, err)
	}
	mac, err := datapath.ParseMAC(data.VtepMAC)
	if err != nil {
		return datapath.MAC{}, fmt.Errorf("VtepMAC: %w", err)
	}
	return mac, nil
}
