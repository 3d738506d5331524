package probe

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// WireGuard is a WireGuard device, of the kernel's or a process's: both are
// configured alike. It holds no secret.
type WireGuard struct {
	Dev string `json:"dev"`
	// PublicKey is the device's own, base64, empty where it has none.
	PublicKey  string `json:"publicKey,omitempty"`
	ListenPort int    `json:"listenPort"`
	// FirewallMark is on what the device sends, 0 for none.
	FirewallMark int             `json:"firewallMark,omitempty"`
	Peers        []WireGuardPeer `json:"peers"`
}

// WireGuardPeer is one peer of a device.
type WireGuardPeer struct {
	PublicKey  string         `json:"publicKey"`
	Endpoint   netip.AddrPort `json:"endpoint,omitzero"`
	AllowedIPs []netip.Prefix `json:"allowedIPs"`
	// PresharedKey tells one pre-shared key from another: see Fingerprint.
	PresharedKey string `json:"presharedKey,omitempty"`
	// Keepalive is the interval of what is sent to stay reachable, 0 for never.
	Keepalive time.Duration `json:"keepalive,omitempty"`
	// LastHandshake is the zero time where there was none.
	LastHandshake time.Time `json:"lastHandshake,omitzero"`
	// Received and Sent are in bytes.
	Received int64 `json:"received"`
	Sent     int64 `json:"sent"`
}

// Fingerprint tells one secret from another without telling it; that of no
// bytes is empty.
func Fingerprint(secret []byte) string {
	if len(secret) == 0 {
		return ""
	}
	sum := sha256.Sum256(secret)
	return "sha256:" + hex.EncodeToString(sum[:6])
}

// WireGuard reads a WireGuard device; nil if there is none of that name. Its
// peers are in the order of their keys.
func (s *Session) WireGuard(ctx context.Context, dev string) (*WireGuard, error) {
	return ask(ctx, s, kindWireGuard, dev, func() (*WireGuard, error) {
		found := make(chan *wgtypes.Device, 1)
		err := s.control(ctx, func(c *wgctrl.Client) error {
			d, err := c.Device(dev)
			found <- d
			return err
		})
		switch {
		case errors.Is(err, os.ErrNotExist):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("read the WireGuard device %s of %s: %w", dev, s.name, err)
		}
		return readWireGuard(<-found), nil
	})
}

// wireguardPatience is how long a device may take to answer: one that a process
// keeps does not while that is stopped.
const wireguardPatience = 3 * time.Second

// control talks to whatever configures WireGuard devices in the namespace. The
// library knows no deadline: what hangs is left to itself.
func (s *Session) control(ctx context.Context, do func(*wgctrl.Client) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wireguardPatience, fmt.Errorf("no answer in %v", wireguardPatience))
	defer cancel()
	if err := ctx.Err(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		done <- s.local.Do(func() (err error) {
			c, err := wgctrl.New()
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Close()) }()
			return do(c)
		})
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func readWireGuard(d *wgtypes.Device) *WireGuard {
	w := &WireGuard{Dev: d.Name, PublicKey: keyText(d.PublicKey), ListenPort: d.ListenPort, FirewallMark: d.FirewallMark, Peers: []WireGuardPeer{}}
	if d.PrivateKey == (wgtypes.Key{}) && d.PublicKey == d.PrivateKey.PublicKey() {
		w.PublicKey = ""
	}
	for _, p := range d.Peers {
		peer := WireGuardPeer{
			PublicKey: keyText(p.PublicKey), Keepalive: p.PersistentKeepaliveInterval,
			LastHandshake: p.LastHandshakeTime, Received: p.ReceiveBytes, Sent: p.TransmitBytes,
		}
		if p.PresharedKey != (wgtypes.Key{}) {
			peer.PresharedKey = Fingerprint(p.PresharedKey[:])
		}
		if p.Endpoint != nil {
			at := p.Endpoint.AddrPort()
			peer.Endpoint = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		}
		for _, a := range p.AllowedIPs {
			peer.AllowedIPs = append(peer.AllowedIPs, prefix(&a))
		}
		w.Peers = append(w.Peers, peer)
	}
	slices.SortFunc(w.Peers, func(a, b WireGuardPeer) int { return cmp.Compare(a.PublicKey, b.PublicKey) })
	return w
}

func keyText(k wgtypes.Key) string {
	if k == (wgtypes.Key{}) {
		return ""
	}
	return k.String()
}

// WireGuardChange alters a WireGuard device, as `wg set` would.
type WireGuardChange struct {
	Dev string `json:"dev"`
	// ListenPort is set where it is not 0.
	ListenPort int `json:"listenPort,omitempty"`
	// Peer is the public key of the peer that is altered, or made; empty for
	// none. Remove removes it.
	Peer   string `json:"peer,omitempty"`
	Remove bool   `json:"remove,omitempty"`
	// Endpoint and AllowedIPs are set where they are given.
	Endpoint   netip.AddrPort `json:"endpoint,omitzero"`
	AllowedIPs []netip.Prefix `json:"allowedIPs,omitempty"`
}

// String is the change in the words of wg(8).
func (c WireGuardChange) String() string {
	words := []string{"wg set", c.Dev}
	if c.ListenPort != 0 {
		words = append(words, fmt.Sprintf("listen-port %d", c.ListenPort))
	}
	if c.Peer != "" {
		words = append(words, "peer "+c.Peer)
	}
	if c.Remove {
		words = append(words, "remove")
	}
	if c.Endpoint.IsValid() {
		words = append(words, "endpoint "+c.Endpoint.String())
	}
	if len(c.AllowedIPs) > 0 {
		words = append(words, "allowed-ips "+prefixes(c.AllowedIPs))
	}
	return strings.Join(words, " ")
}

func prefixes(all []netip.Prefix) string {
	words := make([]string, len(all))
	for i, p := range all {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}

// config is what the device is told.
func (c WireGuardChange) config() (wgtypes.Config, error) {
	var out wgtypes.Config
	if c.ListenPort != 0 {
		out.ListenPort = &c.ListenPort
	}
	if c.Peer == "" {
		return out, nil
	}
	key, err := wgtypes.ParseKey(c.Peer)
	if err != nil {
		return out, fmt.Errorf("the peer's key %q: %w", c.Peer, err)
	}
	peer := wgtypes.PeerConfig{PublicKey: key, Remove: c.Remove, ReplaceAllowedIPs: len(c.AllowedIPs) > 0}
	if c.Endpoint.IsValid() {
		peer.Endpoint = net.UDPAddrFromAddrPort(c.Endpoint)
	}
	for _, a := range c.AllowedIPs {
		peer.AllowedIPs = append(peer.AllowedIPs, net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())})
	}
	out.Peers = []wgtypes.PeerConfig{peer}
	return out, nil
}

// SetWireGuard alters a device. It asks for nothing but the kernel's or the
// process's own way to be configured; wg(8) need not be there.
func (s *Session) SetWireGuard(ctx context.Context, c WireGuardChange) error {
	config, err := c.config()
	if err == nil {
		err = s.control(ctx, func(client *wgctrl.Client) error { return client.ConfigureDevice(c.Dev, config) })
	}
	if err != nil {
		return fmt.Errorf("%s in %s: %w", c, s.name, err)
	}
	return nil
}
