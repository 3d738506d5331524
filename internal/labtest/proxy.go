package labtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/overlab/overlab/internal/rtnl"
	"github.com/overlab/overlab/internal/tuntap"
	"github.com/overlab/overlab/topology"
)

// wireProxies gives every node a TUN device and a proxy in this process, which
// carries one packet a datagram, as flannel's does, or one in IP.
func (l *Lab) wireProxies() error {
	for i := range l.plan.Nodes {
		n := &l.plan.Nodes[i]
		if err := l.spaces[n.Name].Do(func() error { return l.makeProxy(n) }); err != nil {
			return fmt.Errorf("proxy on node %s: %w", n.Name, err)
		}
	}
	return nil
}

func (l *Lab) makeProxy(n *topology.Node) error {
	name := "flannel0"
	if l.plan.Network.Backend.Type == "ipip" {
		name = "flannel.ipip"
	}
	device, err := attach(name)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, device.Close)
	wire, err := l.listen(n.PublicIP())
	if err != nil {
		return err
	}
	l.closers = append(l.closers, wire.Close)
	p := &proxy{plan: l.plan, device: device, wire: wire}
	go p.outward()
	go p.inward()
	return l.wireTUN(n, name)
}

func attach(name string) (tun.Device, error) {
	if err := tuntap.Create(name); err != nil {
		return nil, err
	}
	fd, err := tuntap.Attach(name)
	if err != nil {
		return nil, err
	}
	device, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return device, nil
}

// wireTUN gives the device its address and its routes: of udp one for all, of
// ipip one for each peer.
func (l *Lab) wireTUN(n *topology.Node, name string) error {
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
	if l.plan.Network.Backend.Type == "udp" {
		b.AddRoute(rtnl.Route{Dst: l.plan.Network.Network, Dev: link.Index})
		return errors.Join(links.Do(&b), links.Close())
	}
	for i := range l.plan.Nodes {
		if peer := &l.plan.Nodes[i]; peer.Name != n.Name {
			b.AddRoute(rtnl.Route{Dst: peer.PodCIDR, Via: peer.PublicIP(), Dev: link.Index, Onlink: true})
		}
	}
	return errors.Join(links.Do(&b), links.Close())
}

// wire carries packets between nodes.
type wire interface {
	io.Closer
	// hop reports whether to pass a proxy takes one off the TTL.
	hop() bool
	send(packet []byte, to netip.Addr) error
	receive(buf []byte) (int, error)
}

func (l *Lab) listen(at netip.Addr) (wire, error) {
	if l.plan.Network.Backend.Type == "ipip" {
		c, err := net.ListenIP("ip4:4", &net.IPAddr{IP: at.AsSlice()})
		if err != nil {
			return nil, err
		}
		return &ipWire{c, ipv4.NewConn(c)}, nil
	}
	port := uint16(l.plan.Network.Backend.Port)
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, port)))
	if err != nil {
		return nil, err
	}
	return &udpWire{c, port}, nil
}

// udpWire is a UDP socket, of one port on all nodes.
type udpWire struct {
	*net.UDPConn
	port uint16
}

func (*udpWire) hop() bool { return true }

func (w *udpWire) send(packet []byte, to netip.Addr) error {
	_, err := w.WriteToUDPAddrPort(packet, netip.AddrPortFrom(to, w.port))
	return err
}

func (w *udpWire) receive(buf []byte) (int, error) {
	n, _, err := w.ReadFromUDPAddrPort(buf)
	return n, err
}

// ipWire is a raw socket of protocol 4.
type ipWire struct {
	*net.IPConn
	options *ipv4.Conn
}

func (*ipWire) hop() bool { return false }

// send gives the outer header the inner TTL, as the kernel's device does.
func (w *ipWire) send(packet []byte, to netip.Addr) error {
	if err := w.options.SetTTL(int(packet[8])); err != nil {
		return err
	}
	_, err := w.WriteToIP(packet, &net.IPAddr{IP: to.AsSlice()})
	return err
}

func (w *ipWire) receive(buf []byte) (int, error) {
	n, _, err := w.ReadFromIP(buf) // without the outer header
	return n, err
}

// proxy is one node's. It is as simple as can be.
type proxy struct {
	plan   *topology.Plan
	device tun.Device
	wire   wire
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
			if to, ok := p.node(packet); ok && p.pass(packet) {
				_ = p.wire.send(packet, to) // lost, as on a wire
			}
		}
	}
}

// node is the address of the one that a packet is for.
func (p *proxy) node(packet []byte) (netip.Addr, bool) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return netip.Addr{}, false
	}
	dst := netip.AddrFrom4([4]byte(packet[16:20]))
	for i := range p.plan.Nodes {
		if n := &p.plan.Nodes[i]; n.PodCIDR.Contains(dst) {
			return n.PublicIP(), true
		}
	}
	return netip.Addr{}, false
}

func (p *proxy) inward() {
	buf := make([]byte, headroom+65535)
	for {
		n, err := p.wire.receive(buf[headroom:])
		if err != nil {
			return
		}
		if n >= 20 && p.pass(buf[headroom:]) {
			_, _ = p.device.Write([][]byte{buf[:headroom+n]}, headroom) // lost, as on a wire
		}
	}
}

// pass takes one off the TTL, where the wire asks for it, and writes the
// header's checksum anew; false for a packet that may go no further.
func (p *proxy) pass(packet []byte) bool {
	if !p.wire.hop() {
		return true
	}
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
