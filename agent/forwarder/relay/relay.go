// Package relay is the forwarder of the backends udp and ipip: it carries IPv4
// packets between a TUN device and other nodes, whole in UDP datagrams as
// flannel's udp backend does, or in IP (RFC 2003).
//
// It is fast because the kernel is spoken to in large pieces: the device hands
// over what a pod sends in up to 64 KiB, to be cut here, and a run of datagrams
// is one system call in both directions (UDP_SEGMENT, UDP_GRO). On the wire
// every packet is a datagram of its own, so a peer that knows nothing of this
// notices nothing.
package relay

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Relay is a forwarder.Engine.
type Relay struct {
	device *os.File
	wire   wire
	icmp   *reporter
	log    *slog.Logger
	peers  atomic.Pointer[table]
	closed atomic.Bool

	complaint sync.Mutex
	said      time.Time
}

// wire is how packets get to other nodes.
type wire interface {
	// send sends packets, back to back, of size bytes each but the last.
	send(all []byte, size int, node netip.Addr) error
	// receive waits for packets, puts them into buf from vnetLen on, and
	// appends where they are.
	receive(buf []byte, spans []span) ([]span, error)
	// hop reports whether passing the wire takes one off the TTL, at each end.
	hop() bool
	close() error
}

// span is the place of a packet in a buffer.
type span struct{ from, to int }

// tooBig is the error of a wire for packets that the path to a node does not
// take.
type tooBig struct{ mtu int }

func (t *tooBig) Error() string { return fmt.Sprintf("the path takes packets of %d bytes", t.mtu) }

const (
	// largest is the length of the largest packet.
	largest = 65535
	// slots is how many of them a buffer for what is received has room for.
	slots = 16
)

// newRelay takes over the device, also where it fails.
func newRelay(device int, open func() (wire, error), log *slog.Logger) (*Relay, error) {
	// Segmentation and checksums are left to us, if the kernel can; the device
	// is the same without.
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4
	if unix.IoctlSetInt(device, unix.TUNSETOFFLOAD, offloads|unix.TUN_F_USO4|unix.TUN_F_USO6) != nil { // USO since 6.2
		_ = unix.IoctlSetInt(device, unix.TUNSETOFFLOAD, offloads)
	}
	w, err := open()
	if err != nil {
		return nil, errors.Join(err, unix.Close(device))
	}
	icmp, err := newReporter()
	if err != nil {
		return nil, errors.Join(err, w.close(), unix.Close(device))
	}
	return &Relay{device: os.NewFile(uintptr(device), "tun"), wire: w, icmp: icmp, log: log}, nil
}

// Update implements forwarder.Engine; peers are Peers.
func (r *Relay) Update(peers json.RawMessage) error {
	t, err := readTable(peers)
	if err == nil {
		r.peers.Store(t)
	}
	return err
}

// Run implements forwarder.Engine.
func (r *Relay) Run() error {
	ended := make(chan error, 2)
	go func() { ended <- r.outward() }()
	go func() { ended <- r.inward() }()
	err := <-ended
	if !r.closed.Load() {
		err = errors.Join(err, r.Close())
	} else {
		err = nil
	}
	<-ended // the other follows, for want of what was closed
	return errors.Join(err, r.icmp.close())
}

// Close implements forwarder.Engine.
func (r *Relay) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	return errors.Join(r.device.Close(), r.wire.close())
}

// outward carries packets from the device to the wire.
func (r *Relay) outward() error {
	in, out := make([]byte, vnetLen+largest), make([]byte, 3*largest)
	for {
		n, err := r.device.Read(in)
		if err != nil {
			return fmt.Errorf("read from the device: %w", err)
		}
		if n > vnetLen {
			r.send(readVnet(in), in[vnetLen:n], out)
		}
	}
}

func (r *Relay) send(v vnet, b, out []byte) {
	p, ok := parse(b)
	t := r.peers.Load()
	if !ok || t == nil {
		return // IPv6 of the kernel's own, or nobody is known yet
	}
	node, known := t.node(p.dst())
	switch {
	case !known:
		r.icmp.report(t.own.Addr(), netUnreachable, 0, p)
		return
	case r.wire.hop() && p.ttl() <= 1:
		r.icmp.report(t.own.Addr(), timeExceeded, 0, p)
		return
	case r.wire.hop():
		p.hop()
	}
	all, size, err := segment(out, p, v)
	if err == nil {
		err = r.wire.send(all, size, node)
	}
	var big *tooBig
	switch {
	case errors.As(err, &big):
		if p.dontFragment() {
			r.icmp.report(t.own.Addr(), fragmentationNeeded, big.mtu, p)
		}
	case err != nil:
		r.complain("a packet could not be sent", node, err)
	}
}

// inward carries packets from the wire to the device.
func (r *Relay) inward() error {
	buf := make([]byte, vnetLen+slots*largest)
	var spans []span
	joined := coalescer{buf: buf, write: r.deliver}
	for {
		var err error
		if spans, err = r.wire.receive(buf, spans[:0]); err != nil {
			return err
		}
		for _, s := range spans {
			if n, ok := r.accept(buf[s.from:s.to]); ok {
				err = errors.Join(err, joined.add(s.from, s.from+n))
			}
		}
		if err = errors.Join(err, joined.flush()); err != nil {
			return err
		}
	}
}

// accept reports whether a packet may pass to the node, and its length.
//
// It must be for the node's own subnet. Flannel passes on whatever comes, and so
// anybody who reaches the port may send packets from within the node to
// anywhere; no agent sends a packet to the wrong node, so nothing is lost. Where
// the datagram comes from is not asked: a node may publish another address
// than it sends from.
func (r *Relay) accept(b []byte) (n int, ok bool) {
	p, ok := parse(b)
	t := r.peers.Load()
	if !ok || t == nil || !t.own.Contains(p.dst()) {
		return 0, false
	}
	if r.wire.hop() {
		if p.ttl() <= 1 {
			r.icmp.report(t.own.Addr(), timeExceeded, 0, p)
			return 0, false
		}
		p.hop()
	}
	return len(p), true
}

// deliver writes to the device.
func (r *Relay) deliver(b []byte) error {
	_, err := r.device.Write(b)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADFD):
		return fmt.Errorf("write to the device: %w", err)
	case errors.Is(err, unix.EIO): // it is down
		return nil
	}
	r.complain("the device has refused a packet", netip.Addr{}, err)
	return nil
}

// complaintPause is the least time between two lines in the log about packets.
const complaintPause = 10 * time.Second

// complain tells the log of one packet that was lost, and not of every.
func (r *Relay) complain(what string, node netip.Addr, err error) {
	r.complaint.Lock()
	defer r.complaint.Unlock()
	if now := time.Now(); now.Sub(r.said) > complaintPause && !errors.Is(err, net.ErrClosed) {
		r.said = now
		r.log.Warn(what, "node", node, "err", err)
	}
}
