package labtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/topology"
)

// wireUDP gives every node a TUN device and a proxy in this process, which
// carries one packet a datagram as flannel's does.
func (l *Lab) wireUDP() error {
	for i := range l.plan.Nodes {
		n := &l.plan.Nodes[i]
		if err := l.spaces[n.Name].Do(func() error { return l.makeProxy(n) }); err != nil {
			return fmt.Errorf("proxy on node %s: %w", n.Name, err)
		}
	}
	return nil
}

func (l *Lab) makeProxy(n *topology.Node) error {
	const name = "flannel0"
	if err := tuntap.Create(name); err != nil {
		return err
	}
	fd, err := tuntap.Attach(name)
	if err != nil {
		return err
	}
	device, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	l.closers = append(l.closers, device.Close)
	at := netip.AddrPortFrom(n.PublicIP(), uint16(l.plan.Network.Backend.Port))
	wire, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return err
	}
	l.closers = append(l.closers, wire.Close)
	p := &proxy{plan: l.plan, device: device, wire: wire}
	go p.outward()
	go p.inward()
	links, err := rtnl.Dial()
	if err != nil {
		return err
	}
	link, err := links.LinkByName(name)
	if err != nil {
		return errors.Join(err, links.Close())
	}
	var b rtnl.Batch
	b.SetLink(rtnl.Link{Index: link.Index, MTU: l.plan.OverlayMTU(n), Up: true})
	b.AddAddr(link.Index, netip.PrefixFrom(n.PodCIDR.Addr(), 32))
	b.AddRoute(rtnl.Route{Dst: l.plan.Network.Network, Dev: link.Index})
	return errors.Join(links.Do(&b), links.Close())
}

// proxy is one node's. It is as simple as can be.
type proxy struct {
	plan   *topology.Plan
	device tun.Device
	wire   *net.UDPConn
}

// headroom is what the device writes before a packet.
const headroom = 10

func (p *proxy) outward() {
	bufs, sizes := make([][]byte, p.device.BatchSize()), make([]int, p.device.BatchSize())
	for i := range bufs {
		bufs[i] = make([]byte, headroom+65535)
	}
	for {
		n, err := p.device.Read(bufs, sizes, headroom)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		for i := range n {
			packet := bufs[i][headroom : headroom+sizes[i]]
			if to, ok := p.node(packet); ok && hop(packet) {
				_, _ = p.wire.WriteToUDPAddrPort(packet, to) // lost, as on a wire
			}
		}
	}
}

func (p *proxy) node(packet []byte) (netip.AddrPort, bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return netip.AddrPort{}, false
	}
	dst := netip.AddrFrom4([4]byte(packet[16:20]))
	for i := range p.plan.Nodes {
		if n := &p.plan.Nodes[i]; n.PodCIDR.Contains(dst) {
			return netip.AddrPortFrom(n.PublicIP(), uint16(p.plan.Network.Backend.Port)), true
		}
	}
	return netip.AddrPort{}, false
}

func (p *proxy) inward() {
	buf := make([]byte, headroom+65535)
	for {
		n, _, err := p.wire.ReadFromUDPAddrPort(buf[headroom:])
		if err != nil {
			return
		}
		if n >= 20 && hop(buf[headroom:]) {
			_, _ = p.device.Write([][]byte{buf[:headroom+n]}, headroom) // lost, as on a wire
		}
	}
}

// hop takes one off the TTL, and writes the header's checksum anew.
func hop(packet []byte) bool {
	if packet[8] <= 1 {
		return false
	}
	packet[8]--
	packet[10], packet[11] = 0, 0
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(packet[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(packet[10:], ^uint16(sum&0xffff+sum>>16))
	return true
}
