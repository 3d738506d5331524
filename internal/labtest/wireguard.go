package labtest

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/topology"
)

// wireWireGuard gives every node a WireGuard device that this process is, as a
// kernel's would need a kernel that has it.
func (l *Lab) wireWireGuard() error {
	keys := map[string]wgtypes.Key{}
	for _, n := range l.plan.Nodes {
		key, err := wgtypes.GeneratePrivateKey()
		if err != nil {
			return err
		}
		keys[n.Name] = key
	}
	var devices []*device.Device
	for i := range l.plan.Nodes {
		n := &l.plan.Nodes[i]
		err := l.spaces[n.Name].Do(func() error {
			d, err := l.makeWireGuard(n, keys)
			devices = append(devices, d)
			return err
		})
		if err != nil {
			return fmt.Errorf("WireGuard on node %s: %w", n.Name, err)
		}
	}
	for i, d := range devices {
		for _, peer := range l.plan.Nodes[i+1:] {
			if err := handshake(d, keys[peer.Name].PublicKey()); err != nil {
				return fmt.Errorf("WireGuard from node %s to %s: %w", l.plan.Nodes[i].Name, peer.Name, err)
			}
		}
	}
	return nil
}

// handshake begins a session and waits for it. Two nodes that begin one at the
// same moment would get none for 5 s.
func handshake(d *device.Device, key wgtypes.Key) error {
	const keepalive = "public_key=%x\nupdate_only=true\npersistent_keepalive_interval=%d\n"
	if err := d.IpcSet(fmt.Sprintf(keepalive+keepalive, key[:], 1, key[:], 0)); err != nil {
		return err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		text, err := d.IpcGet()
		if err != nil {
			return err
		}
		_, peer, _ := strings.Cut(text, fmt.Sprintf("public_key=%x\n", key[:]))
		peer, _, _ = strings.Cut(peer, "public_key=")
		if !strings.Contains(peer, "last_handshake_time_sec=0\n") {
			return nil
		}
	}
	return errors.New("there is no handshake")
}

func (l *Lab) makeWireGuard(n *topology.Node, keys map[string]wgtypes.Key) (*device.Device, error) {
	const name = "flannel-wg"
	if err := tuntap.Create(name); err != nil {
		return nil, err
	}
	fd, err := tuntap.Attach(name)
	if err != nil {
		return nil, err
	}
	packets, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, err
	}
	d := device.NewDevice(packets, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	l.closers = append(l.closers, func() error {
		d.Close()
		return nil
	})
	if err := errors.Join(d.IpcSet(l.wireGuardConfig(n, keys)), d.Up()); err != nil {
		return nil, err
	}
	links, err := rtnl.Dial()
	if err != nil {
		return nil, err
	}
	link, err := links.LinkByName(name)
	if err != nil {
		return nil, errors.Join(err, links.Close())
	}
	var b rtnl.Batch
	b.SetLink(rtnl.Link{Index: link.Index, MTU: l.plan.OverlayMTU(n), Up: true})
	b.AddAddr(link.Index, netip.PrefixFrom(n.PodCIDR.Addr(), 32))
	b.AddRoute(rtnl.Route{Dst: l.plan.Network.Network, Dev: link.Index, LinkScope: true})
	return d, errors.Join(links.Do(&b), links.Close())
}

// wireGuardConfig is the node's in wg(8)'s protocol.
func (l *Lab) wireGuardConfig(n *topology.Node, keys map[string]wgtypes.Key) string {
	var s strings.Builder
	own, port := keys[n.Name], l.plan.Network.Backend.ListenPort
	fmt.Fprintf(&s, "private_key=%x\nlisten_port=%d\n", own[:], port)
	for _, peer := range l.plan.Nodes {
		if peer.Name != n.Name {
			key := keys[peer.Name].PublicKey()
			fmt.Fprintf(&s, "public_key=%x\nendpoint=%s:%d\nallowed_ip=%s\n", key[:], peer.PublicIP(), port, peer.PodCIDR)
		}
	}
	return s.String()
}
