package relay

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/forwarder"
)

// UDPKind is the forwarder's kind that NewUDP makes.
const UDPKind = "udp"

// UDPOptions are those of a relay over UDP.
type UDPOptions struct {
	// Address and Port are the node's own; Port is every peer's, too.
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
}

// NewUDP makes a relay of raw IPv4 packets in UDP datagrams, flannel's udp
// backend (pkg/backend/udp/proxy_amd64.c). options are UDPOptions.
func NewUDP(device int, options json.RawMessage, log *slog.Logger) (forwarder.Engine, error) {
	return newRelay(device, func() (wire, error) {
		var o UDPOptions
		if err := json.Unmarshal(options, &o); err != nil {
			return nil, fmt.Errorf("read the options of the forwarder: %w", err)
		}
		return listenUDP(o)
	}, log)
}

const (
	// maxSegments is how many datagrams one call may send (UDP_MAX_SEGMENTS of
	// linux/udp.h; 128 in newer kernels), maxDatagrams how many bytes.
	maxSegments  = 64
	maxDatagrams = 65507
	// socketBuffer in bytes is some milliseconds of a fast network.
	socketBuffer = 8 << 20
)

// udpWire is a UDP socket.
type udpWire struct {
	conn    *net.UDPConn
	port    uint16
	segment bool   // the kernel cuts what is sent (UDP_SEGMENT, since 4.18)
	control []byte // the message that says how
	read    []byte // the messages of what was received
}

func listenUDP(o UDPOptions) (*udpWire, error) {
	w := &udpWire{port: o.Port, read: make([]byte, 128)}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { w.setUp(int(fd)) })
	}}
	at := netip.AddrPortFrom(o.Address, o.Port)
	conn, err := config.ListenPacket(context.Background(), "udp4", at.String())
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("%w (is another agent running?)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for other nodes' packets: %w", err)
	}
	w.conn = conn.(*net.UDPConn)
	w.control = make([]byte, unix.CmsgSpace(2))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&w.control[0]))
	header.Level, header.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	header.SetLen(unix.CmsgLen(2))
	return w, nil
}

// setUp asks for what makes it fast; the socket works without.
func (w *udpWire) setUp(fd int) {
	growBuffers(fd)
	_, err := unix.GetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	w.segment = err == nil
	_ = unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1) // since 5.0
}

// growBuffers asks for more than the administrator's limit, and takes the limit
// where that is not allowed.
func growBuffers(fd int) {
	for forced, limited := range map[int]int{unix.SO_RCVBUFFORCE: unix.SO_RCVBUF, unix.SO_SNDBUFFORCE: unix.SO_SNDBUF} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, forced, socketBuffer) != nil {
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, limited, socketBuffer)
		}
	}
}

func (*udpWire) hop() bool { return true }

func (w *udpWire) close() error { return w.conn.Close() }

func (w *udpWire) send(all []byte, size int, node netip.Addr) error {
	to := netip.AddrPortFrom(node, w.port)
	most := size
	if w.segment {
		most = size * max(1, min(maxSegments, maxDatagrams/size))
	}
	for len(all) > 0 {
		piece := all[:min(most, len(all))]
		if err := w.sendPiece(piece, size, to); err != nil {
			return err
		}
		all = all[len(piece):]
	}
	return nil
}

// sendPiece sends as many datagrams as one call may.
func (w *udpWire) sendPiece(piece []byte, size int, to netip.AddrPort) error {
	if len(piece) <= size {
		_, err := w.conn.WriteToUDPAddrPort(piece, to)
		return err
	}
	binary.NativeEndian.PutUint16(w.control[unix.CmsgLen(0):], uint16(size))
	_, _, err := w.conn.WriteMsgUDPAddrPort(piece, w.control, to)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EIO) {
		return err
	}
	// The path's MTU is less than that of the interface, or the interface
	// cannot sum: one by one, the kernel does both.
	for len(piece) > 0 {
		one := piece[:min(size, len(piece))]
		if _, err := w.conn.WriteToUDPAddrPort(one, to); err != nil {
			return err
		}
		piece = piece[len(one):]
	}
	return nil
}

func (w *udpWire) receive(buf []byte, spans []span) ([]span, error) {
	n, control, _, _, err := w.conn.ReadMsgUDPAddrPort(buf[vnetLen:vnetLen+largest], w.read)
	if err != nil {
		return spans, fmt.Errorf("receive from other nodes: %w", err)
	}
	size := groSize(w.read[:control])
	if size == 0 {
		size = n
	}
	for from := 0; from < n; from += size {
		spans = append(spans, span{vnetLen + from, vnetLen + min(from+size, n)})
	}
	return spans, nil
}

// groSize finds the length of the datagrams that were received as one; 0 for a
// single one.
func groSize(control []byte) int {
	for len(control) > 0 {
		header, data, rest, err := unix.ParseOneSocketControlMessage(control)
		if err != nil {
			return 0
		}
		if header.Level == unix.SOL_UDP && header.Type == unix.UDP_GRO && len(data) >= 4 {
			return int(binary.NativeEndian.Uint32(data))
		}
		control = rest
	}
	return 0
}
