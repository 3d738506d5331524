package wireguard

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// silence is how long a peer may be sent to without an answer before it is
// doubted, as the protocol itself does: whoever gets data answers within 10 s,
// and its sender waits 5 s more (KEEPALIVE_TIMEOUT and REKEY_TIMEOUT;
// WireGuard, section 6.5).
const silence = 15 * time.Second

// trace is what is remembered of a peer from one look at the device to the
// next.
type trace struct {
	// told is the endpoint that the device was told last.
	told netip.AddrPort
	// received and sent are the peer's counters in bytes, at since: when it
	// was last heard of, or not yet sent to.
	received, sent int64
	since          time.Time
}

// next is the trace after another look.
func (t trace) next(now time.Time, p *wgtypes.Peer) trace {
	if p.ReceiveBytes != t.received || p.TransmitBytes == t.sent {
		t.received, t.sent, t.since = p.ReceiveBytes, p.TransmitBytes, now
	}
	return t
}

// change is what has to be configured, and how wg(8) would be told of it.
type change struct {
	config   wgtypes.Config
	commands []string
	// fresh are the peers that the device does not know. Where its own settings
	// change, the known ones have lost their sessions or its address.
	fresh, unsettled []wgtypes.Key
}

// settingsChange is what makes a device's own settings as they must be. A mark
// on its packets would be somebody else's, and could route them elsewhere.
func (w *WireGuard) settingsChange(have *wgtypes.Device) change {
	var c change
	if have.PrivateKey != w.wanted.key { // no session of another one's is worth keeping
		c.config.PrivateKey, c.config.ReplacePeers = &w.wanted.key, true
		c.commands = append(c.commands, fmt.Sprintf("wg set %s private-key %s", Device, w.keyFile))
	}
	if have.ListenPort != w.wanted.port {
		c.config.ListenPort = &w.wanted.port
		c.commands = append(c.commands, fmt.Sprintf("wg set %s listen-port %d", Device, w.wanted.port))
	}
	if have.FirewallMark != 0 {
		none := 0
		c.config.FirewallMark = &none
		c.commands = append(c.commands, fmt.Sprintf("wg set %s fwmark 0", Device))
	}
	return c
}

// peersChange adds what makes the peers as they must be. What is right is not
// touched, so that sessions go on.
func (w *WireGuard) peersChange(c *change, want map[wgtypes.Key]peer, have *wgtypes.Device, now time.Time) {
	present := map[wgtypes.Key]*wgtypes.Peer{}
	for i := 0; i < len(have.Peers) && !c.config.ReplacePeers; i++ {
		present[have.Peers[i].PublicKey] = &have.Peers[i]
	}
	unsettled := len(c.commands) > 0
	for _, key := range sortedKeys(present) {
		if _, ok := want[key]; !ok {
			c.config.Peers = append(c.config.Peers, wgtypes.PeerConfig{PublicKey: key, Remove: true})
			c.commands = append(c.commands, fmt.Sprintf("wg set %s peer %s remove", Device, key))
			delete(w.traces, key)
		}
	}
	for _, key := range sortedKeys(want) {
		var one wgtypes.PeerConfig
		var words []string
		if p := present[key]; p == nil {
			one, words = w.newPeer(want[key])
			c.fresh = append(c.fresh, key)
		} else {
			w.traces[key] = w.traces[key].next(now, p)
			if unsettled {
				c.unsettled = append(c.unsettled, key)
			}
			one, words = w.peerChange(want[key], p, now)
		}
		if len(words) == 0 {
			continue
		}
		one.PublicKey = key
		c.config.Peers = append(c.config.Peers, one)
		c.commands = append(c.commands, fmt.Sprintf("wg set %s peer %s %s", Device, key, strings.Join(words, " ")))
	}
}

// newPeer is the whole of a peer that the device does not know.
func (w *WireGuard) newPeer(want peer) (wgtypes.PeerConfig, []string) {
	c := wgtypes.PeerConfig{
		PresharedKey: &w.psk, PersistentKeepaliveInterval: &w.keepalive, ReplaceAllowedIPs: true,
		Endpoint: net.UDPAddrFromAddrPort(want.endpoint), AllowedIPs: []net.IPNet{ipNet(want.subnet)},
	}
	words := []string{"endpoint " + want.endpoint.String(), "allowed-ips " + want.subnet.String()}
	if w.psk != (wgtypes.Key{}) {
		words = append(words, "preshared-key …")
	}
	if w.keepalive != 0 {
		words = append(words, keepaliveWord(w.keepalive))
	}
	return c, words
}

// peerChange is what a peer that the device knows must have otherwise; without
// words it is nothing.
func (w *WireGuard) peerChange(want peer, have *wgtypes.Peer, now time.Time) (wgtypes.PeerConfig, []string) {
	c := wgtypes.PeerConfig{UpdateOnly: true}
	var words []string
	if w.misplaced(want, have, now) {
		c.Endpoint = net.UDPAddrFromAddrPort(want.endpoint)
		words = append(words, "endpoint "+want.endpoint.String())
	}
	if !sameSubnet(have.AllowedIPs, want.subnet) {
		c.ReplaceAllowedIPs, c.AllowedIPs = true, []net.IPNet{ipNet(want.subnet)}
		words = append(words, "allowed-ips "+want.subnet.String())
	}
	if have.PresharedKey != w.psk {
		c.PresharedKey = &w.psk
		words = append(words, "preshared-key …")
	}
	if have.PersistentKeepaliveInterval != w.keepalive {
		c.PersistentKeepaliveInterval = &w.keepalive
		words = append(words, keepaliveWord(w.keepalive))
	}
	return c, words
}

// misplaced reports whether a peer's endpoint must be set to that of its lease.
// A device follows a peer to wherever its authentic packets come from, and
// knows better than the lease; but not where the lease has changed since the
// device was told, nor where the peer does not answer there.
func (w *WireGuard) misplaced(want peer, have *wgtypes.Peer, now time.Time) bool {
	t := w.traces[have.PublicKey]
	switch {
	case have.Endpoint == nil:
		return true
	case unmap(have.Endpoint.AddrPort()) == want.endpoint:
		return false
	case t.told.IsValid() && t.told != want.endpoint:
		return true
	}
	return now.Sub(t.since) > silence
}

// done remembers where the device has been told that the peers are.
func (w *WireGuard) done(want map[wgtypes.Key]peer) {
	for key, p := range want {
		t := w.traces[key]
		t.told = p.endpoint
		w.traces[key] = t
	}
}

func keepaliveWord(d time.Duration) string {
	return fmt.Sprintf("persistent-keepalive %d", int(d.Seconds()))
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// sameSubnet reports whether a peer's allowed addresses are exactly the subnet.
func sameSubnet(allowed []net.IPNet, subnet netip.Prefix) bool {
	if len(allowed) != 1 {
		return false
	}
	addr, ok := netip.AddrFromSlice(allowed[0].IP)
	ones, _ := allowed[0].Mask.Size()
	return ok && netip.PrefixFrom(addr.Unmap(), ones) == subnet
}

func sortedKeys[V any](m map[wgtypes.Key]V) []wgtypes.Key {
	return slices.SortedFunc(maps.Keys(m), func(a, b wgtypes.Key) int { return cmp.Compare(a.String(), b.String()) })
}
