package oracle

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// wireguardPeers is what a node's device must know: its own port and key, and
// for each other node a peer that may send from, and gets what is for, that
// node's subnet (cryptokey routing; WireGuard, section 2). The keys are the
// leases', since nobody else knows them; where a lease has none, a peer is known
// by its subnet. The pre-shared key is told by its fingerprint.
func (c *cluster) wireguardPeers(o overlay, n *topology.Node) []Fact {
	b, dev := c.plan.Network.Backend, o.wireguard
	own := c.leaseOf(o, n)
	device := wgDevice(probe.WireGuard{Dev: dev, PublicKey: own.PublicKey, ListenPort: b.ListenPort})
	if own.PublicKey == "" {
		device = device.without("public-key")
	}
	facts := []Fact{device.forPeer("", "the tunnel")}
	for _, p := range c.peers(n) {
		theirs := c.leaseOf(o, p)
		port := theirs.Port
		if port == 0 { // of older flannels, which took one port for granted
			port = b.ListenPort
		}
		peer := probe.WireGuardPeer{
			PublicKey: theirs.PublicKey, Endpoint: netip.AddrPortFrom(o.public(p), uint16(port)), AllowedIPs: []netip.Prefix{o.subnet(p)},
		}
		if psk, err := base64.StdEncoding.DecodeString(b.PSK); err == nil {
			peer.PresharedKey = probe.Fingerprint(psk)
		}
		f := wgPeer(dev, peer)
		if b.PersistentKeepaliveInterval != 0 {
			f = f.with(word("persistent-keepalive", itoa(b.PersistentKeepaliveInterval)))
		}
		if theirs.PublicKey == "" {
			f = f.unknown("peer")
			f.ID = ""
		}
		facts = append(facts, f.forPeer(p.Name, p.Name+"'s tunnel"))
	}
	return facts
}

// leaseOf is a node's lease, the zero one where it has none or nobody could read
// it.
func (c *cluster) leaseOf(o overlay, n *topology.Node) lease.Lease {
	i := slices.IndexFunc(c.leases, func(l lease.Lease) bool { return l.Subnet == o.subnet(n) || l.Subnet6 == o.subnet(n) })
	if i < 0 {
		return lease.Lease{}
	}
	return c.leases[i]
}

// foundWireGuard makes the facts of a device as it is.
func foundWireGuard(w *probe.WireGuard) []Fact {
	facts := []Fact{wgDevice(*w)}
	for _, p := range w.Peers {
		f := wgPeer(w.Dev, p)
		if p.Keepalive != 0 {
			f = f.with(word("persistent-keepalive", itoa(int(p.Keepalive.Seconds()))))
		}
		facts = append(facts, f)
	}
	return facts
}

// wgDevice makes the fact of a device.
func wgDevice(w probe.WireGuard) Fact {
	mark := ""
	if w.FirewallMark != 0 {
		mark = "0x" + strconv.FormatInt(int64(w.FirewallMark), 16)
	}
	return Fact{Kind: KindWireGuard, ID: w.Dev, Dev: w.Dev, Fields: []Field{
		bare("interface", w.Dev), word("public-key", w.PublicKey), word("listen-port", itoa(w.ListenPort)), word("fwmark", mark),
	}}
}

// wgPeer makes the fact of a peer. One of another key that is allowed the same
// addresses is in its place.
func wgPeer(dev string, p probe.WireGuardPeer) Fact {
	allowed := make([]string, len(p.AllowedIPs))
	for i, a := range p.AllowedIPs {
		allowed[i] = a.String()
	}
	slices.Sort(allowed)
	endpoint := ""
	if p.Endpoint.IsValid() {
		endpoint = p.Endpoint.String()
	}
	f := Fact{Kind: KindWireGuard, ID: dev + " " + p.PublicKey, Dev: dev, Fields: []Field{
		bare("interface", dev), word("peer", p.PublicKey), word("endpoint", endpoint),
		word("allowed-ips", strings.Join(allowed, ",")), word("preshared-key", p.PresharedKey),
	}}
	if len(allowed) > 0 {
		f.Alt = dev + " " + strings.Join(allowed, ",")
	}
	return f
}

// mendWireGuard is what makes a device or a peer as it must be; what is secret
// only the agent can put there.
func mendWireGuard(w Fact, changed []Change) string {
	set := "wg set " + w.Dev
	if peer, is := w.field("peer"); is {
		if peer == unknown {
			return ""
		}
		set += " peer " + peer
	}
	said := len(set)
	for _, x := range changed {
		switch {
		case x.Name == "public-key" || x.Name == "preshared-key" || x.Name == "peer":
			return ""
		case x.Name == "fwmark":
			set += " fwmark 0"
		case x.Want != "":
			set += " " + x.Name + " " + x.Want
		}
	}
	if len(set) == said {
		return ""
	}
	return set
}

// mendPeer makes a peer that is missing.
func mendPeer(w Fact) string {
	if _, is := w.field("peer"); !is || w.value("preshared-key") != "" {
		return ""
	}
	var all []Change
	for _, name := range []string{"endpoint", "allowed-ips", "persistent-keepalive"} {
		all = append(all, Change{Name: name, Want: w.value(name)})
	}
	return mendWireGuard(w, all)
}
