// Package wireguard is flannel's wireguard backend: one WireGuard device, one
// route through it to the whole overlay, and in the device a peer for every
// other node, which may send from, and gets what is for, its subnet.
//
// The device is the kernel's where the kernel makes one. Elsewhere it is a TUN
// device and a process that speaks the same protocol (see agent/forwarder).
// Both are configured alike, and `wg show` shows both.
package wireguard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/agent/lease"
)

const (
	// Type is the backend's name in net-conf.json and in leases.
	Type = "wireguard"
	// Device is the name that flannel gives the device
	// (pkg/backend/wireguard/wireguard.go).
	Device = "flannel-wg"
	// kernelKind is the kernel's driver, userKind that of the device whose
	// packets a process moves.
	kernelKind, userKind = "wireguard", "tun"
	// overhead in bytes, as flannel counts it: an outer IPv6 header 40, though
	// over IPv4 it is 20, UDP 8, the transport header 16 and the tag 16
	// (WireGuard, section 5.4.6).
	overhead = 80
	// defaultPort is the UDP port of a configuration that names none.
	defaultPort = 51820
	// maxKeepalive is the longest interval, in seconds, that a device takes.
	maxKeepalive = 65535
)

// config is the Backend object (flannel, pkg/backend/wireguard/wireguard.go).
type config struct {
	ListenPort int
	// ListenPortV6 is the port of the IPv6 device.
	ListenPortV6 int
	MTU          int
	// PSK is a pre-shared key of all nodes, base64.
	PSK string
	// PersistentKeepaliveInterval in seconds; 0 is never.
	PersistentKeepaliveInterval int
	Mode                        string
}

// leaseData is the BackendData of a lease.
type leaseData struct {
	PublicKey string
	// Port is the node's ListenPort; 0 in leases of older flannels, which took
	// it for granted that all nodes have the same.
	Port uint16
}

// WireGuard is one node's part of an encrypted overlay.
type WireGuard struct {
	config   *lease.Config
	underlay backend.Underlay
	link     datapath.Link
	// wanted is what the device must be, less the peers and, before Prepare,
	// less the private key.
	wanted settings
	psk    wgtypes.Key
	// keepalive is that of every peer.
	keepalive time.Duration
	keyFile   string
	// makes reports whether the kernel makes devices of a kind.
	makes func(kind string) bool
	// dial opens a connection to whatever configures devices.
	dial func() (control, error)
	// disturbed says that the device was changed under its sessions.
	disturbed bool
	// process is the device where the kernel makes none.
	process *forwarder.Client
	// traces are of the peers that the device had at the last look.
	traces map[wgtypes.Key]trace
}

// settings are those of the device itself.
type settings struct {
	key  wgtypes.Key
	port int
}

// Options are what the backend needs of its host.
type Options struct {
	// KeyFile is where the node's private key is, or will be.
	KeyFile string
	// Forwarders starts the process that is the device where the kernel makes
	// none.
	Forwarders forwarder.Launcher
}

// New returns what makes the backend from net-conf.json.
func New(o Options) backend.New {
	return func(c *lease.Config, u backend.Underlay) (backend.Backend, error) {
		cfg, err := readConfig(c)
		if err != nil {
			return nil, err
		}
		if cfg.MTU == 0 {
			cfg.MTU = u.MTU
		}
		mtu := min(cfg.MTU, u.MTU) - overhead
		if mtu < 68 { // RFC 791
			return nil, fmt.Errorf("MTU %d of %s (net-conf.json: %d) leaves %d bytes for pods, fewer than IPv4's 68", u.MTU, u.Name, cfg.MTU, mtu)
		}
		w := &WireGuard{
			config: c, underlay: u, keyFile: o.KeyFile, makes: datapath.Makes, dial: dialDevices,
			link:      datapath.Link{Name: Device, Kind: kernelKind, MTU: mtu, Up: true},
			wanted:    settings{port: cfg.ListenPort},
			keepalive: time.Duration(cfg.PersistentKeepaliveInterval) * time.Second,
			traces:    map[wgtypes.Key]trace{},
		}
		if cfg.PSK != "" {
			w.psk, _ = wgtypes.ParseKey(cfg.PSK) // readConfig has tried
		}
		w.process, err = o.Forwarders.NewClient(Type, Device, struct{}{})
		return w, err
	}
}

// readConfig reads the Backend object and reports all that is wrong with it.
func readConfig(c *lease.Config) (config, error) {
	cfg := config{ListenPort: defaultPort, ListenPortV6: defaultPort + 1, Mode: "separate"}
	if err := json.Unmarshal(c.Backend, &cfg); err != nil {
		return cfg, fmt.Errorf("read the wireguard backend's configuration: %w", err)
	}
	var errs []error
	refuse := func(when bool, format string, a ...any) {
		if when {
			errs = append(errs, fmt.Errorf("wireguard: "+format, a...))
		}
	}
	refuse(c.EnableIPv6, "IPv6 (EnableIPv6) over wireguard is not in this build")
	for _, p := range []struct {
		name string
		port int
	}{{"ListenPort", cfg.ListenPort}, {"ListenPortV6", cfg.ListenPortV6}} {
		refuse(p.port < 1 || p.port > 65535, "%s %d is not a UDP port that peers can be told of: 1 to 65535", p.name, p.port)
	}
	k := cfg.PersistentKeepaliveInterval
	refuse(k < 0 || k > maxKeepalive, "PersistentKeepaliveInterval %d is not a number of seconds from 0 (never) to %d", k, maxKeepalive)
	if cfg.PSK != "" {
		_, err := wgtypes.ParseKey(cfg.PSK) // its error may show a part of the key
		refuse(err != nil, "PSK is not 32 bytes in base64, as `wg genpsk` prints them")
	}
	switch cfg.Mode {
	case "separate", "auto", "ipv4": // alike where there is no IPv6
	case "ipv6":
		refuse(true, "Mode ipv6 asks for tunnels over IPv6, which are not in this build; leave Mode out")
	default:
		refuse(true, "Mode %q is none of separate, auto, ipv4, ipv6", cfg.Mode)
	}
	return cfg, errors.Join(errs...)
}

// Type implements backend.Backend.
func (w *WireGuard) Type() string { return Type }

// MTU implements backend.Backend.
func (w *WireGuard) MTU() int { return w.link.MTU }

// Scope implements backend.Backend.
func (w *WireGuard) Scope() datapath.Scope {
	return datapath.Scope{Devices: []string{Device}, Underlays: []string{w.underlay.Name}}
}

// Adopt implements backend.Backend: it chooses a TUN device where the kernel
// makes none of its own. What else must outlive the agent is in the key file.
func (w *WireGuard) Adopt(have datapath.State) {
	if l, _ := have.Link(Device); l.Kind != kernelKind && !w.makes(kernelKind) {
		w.link.Kind = userKind
	}
}

// Data implements backend.Backend.
func (w *WireGuard) Data() json.RawMessage {
	raw, _ := json.Marshal(leaseData{PublicKey: w.wanted.key.PublicKey().String(), Port: uint16(w.wanted.port)}) // it always can be
	return raw
}

// Device implements backend.Backend.
func (w *WireGuard) Device() datapath.State {
	s := datapath.NewState()
	s.Links.Add(w.link)
	return s
}

// Desired implements backend.Backend. Which peer a packet is for, the device
// decides, and the peers are Follow's.
func (w *WireGuard) Desired(own lease.Lease, all []lease.Lease) (datapath.State, []string) {
	s := w.Device()
	s.Addrs.Add(datapath.Addr{Dev: Device, Prefix: netip.PrefixFrom(own.Key.Subnet.Addr(), 32)})
	s.Routes.Add(datapath.Route{Dst: w.config.Network, Dev: Device, LinkScope: true})
	_, problems := w.peers(own, all)
	return s, problems
}
