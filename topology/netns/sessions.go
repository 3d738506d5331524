package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/topology"
)

const (
	// wireguardDevice is the name that flannel gives it.
	wireguardDevice = "flannel-wg"
	// sessionTimeout is how long nodes that know each other may take to begin
	// their sessions: a handshake that is lost is repeated after 5 s. A lab in
	// which they cannot comes up all the same, and the checks say so.
	sessionTimeout = 6 * time.Second
	// greetAfter is when an agent that begins no sessions by itself is helped.
	greetAfter   = 500 * time.Millisecond
	sessionPause = 5 * time.Millisecond
)

// waitPeers waits until every node's WireGuard device knows every other node:
// one route leads to them all, and tells nothing of them. Then it sees to it
// that they have sessions, each begun by one side. Two nodes that both begin at
// the same moment have none for 5 s, and the first checks would find that.
func (l *lab) waitPeers(ctx context.Context) (string, error) {
	nodes := l.plan.Nodes
	known := func(n *topology.Node, d *wgtypes.Device) string {
		for i := range nodes {
			if p := &nodes[i]; p.Name != n.Name && peerOf(d, p.PodCIDR) == nil {
				return p.Name
			}
		}
		return ""
	}
	for i := range nodes {
		missing, err := l.pollDevice(ctx, &nodes[i], known)
		if err != nil {
			return "", fmt.Errorf("node %s does not know node %s as a WireGuard peer: %w; %s", nodes[i].Name, missing, err, l.agents[nodes[i].Name].logTail())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, sessionTimeout)
	defer cancel()
	began, without := time.Now(), 0
	for i := range nodes {
		greeted := false
		open := func(n *topology.Node, d *wgtypes.Device) string {
			silent := silentPeers(d, nodes[i+1:])
			if len(silent) == 0 {
				return ""
			}
			if !greeted && time.Since(began) > greetAfter {
				greeted = true
				greet(silent)
			}
			return silent[0].Name
		}
		if _, err := l.pollDevice(ctx, &nodes[i], open); err != nil {
			without++
		}
	}
	if without > 0 {
		return fmt.Sprintf("%d without all WireGuard sessions", without), nil
	}
	return "WireGuard sessions between all", nil
}

// pollDevice looks at a node's device, in its namespaces, until missing finds
// nothing; where ctx ends before, it returns what was missing last, and why.
func (l *lab) pollDevice(ctx context.Context, n *topology.Node, missing func(*topology.Node, *wgtypes.Device) string) (last string, err error) {
	tick := time.NewTicker(sessionPause)
	defer tick.Stop()
	for {
		err := l.spaces[n.Name].set.Do(func() error {
			c, err := wgctrl.New()
			if err != nil {
				return err
			}
			d, err := c.Device(wireguardDevice)
			if err != nil { // none yet, or one that is being made
				d = &wgtypes.Device{}
			}
			last = missing(n, d)
			return errors.Join(err, c.Close())
		})
		if err == nil && last == "" {
			return "", nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return last, errors.Join(context.Cause(ctx), err)
		}
	}
}

// peerOf returns the peer that gets a subnet's packets.
func peerOf(d *wgtypes.Device, subnet netip.Prefix) *wgtypes.Peer {
	for i := range d.Peers {
		for _, a := range d.Peers[i].AllowedIPs {
			if a.String() == subnet.Masked().String() {
				return &d.Peers[i]
			}
		}
	}
	return nil
}

// silentPeers are the nodes that the device had no handshake with.
func silentPeers(d *wgtypes.Device, nodes []topology.Node) []*topology.Node {
	var silent []*topology.Node
	for i := range nodes {
		if p := peerOf(d, nodes[i].PodCIDR); p == nil || p.LastHandshakeTime.IsZero() {
			silent = append(silent, &nodes[i])
		}
	}
	return silent
}

// greet sends each node a datagram that nobody waits for, from the calling
// thread's network namespace: the first packet begins a session.
func greet(nodes []*topology.Node) {
	const discard = 9 // RFC 863
	for _, n := range nodes {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.PodCIDR.Masked().Addr(), discard)))
		if err != nil {
			continue // the device is not as it ought to be; the checks tell
		}
		_, _ = c.Write([]byte{0}) // likewise
		_ = c.Close()
	}
}
