package relay

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/forwarder"
)

// IPIPKind is the forwarder's kind that NewIPIP makes.
const IPIPKind = "ipip"

// IPIPOptions are those of a relay in IP.
type IPIPOptions struct {
	// Address is the node's own.
	Address netip.Addr `json:"address"`
}

// NewIPIP makes a relay of IPv4 packets in IPv4 (RFC 2003), as the kernel's ipip
// device sends and takes them: the outer header has the inner TTL, DF and no
// DSCP. options are IPIPOptions.
func NewIPIP(device int, options json.RawMessage, log *slog.Logger) (forwarder.Engine, error) {
	return newRelay(device, func() (wire, error) {
		var o IPIPOptions
		if err := json.Unmarshal(options, &o); err != nil {
			return nil, fmt.Errorf("read the options of the forwarder: %w", err)
		}
		return listenIPIP(o)
	}, log)
}

// batch is how many packets one call sends.
const batch = 64

// ipipWire is a raw socket of protocol 4. The kernel writes the outer header.
type ipipWire struct {
	conn    *net.IPConn
	batched *ipv4.PacketConn

	out, in []ipv4.Message
	to      net.IPAddr
	control []byte // TTL and TOS of what is sent
}

func listenIPIP(o IPIPOptions) (*ipipWire, error) {
	conn, err := net.ListenIP("ip4:4", &net.IPAddr{IP: o.Address.AsSlice()})
	if err != nil {
		return nil, fmt.Errorf("open a raw socket of protocol 4: %w", err)
	}
	w := &ipipWire{conn: conn, batched: ipv4.NewPacketConn(conn), out: make([]ipv4.Message, batch), in: make([]ipv4.Message, slots)}
	w.control = make([]byte, 2*unix.CmsgSpace(4))
	for i, typ := range []int32{unix.IP_TTL, unix.IP_TOS} {
		header := (*unix.Cmsghdr)(unsafe.Pointer(&w.control[i*unix.CmsgSpace(4)]))
		header.Level, header.Type = unix.SOL_IP, typ
		header.SetLen(unix.CmsgLen(4))
	}
	for i := range w.out {
		w.out[i] = ipv4.Message{Buffers: make([][]byte, 1), OOB: w.control, Addr: &w.to}
	}
	for i := range w.in {
		w.in[i] = ipv4.Message{Buffers: make([][]byte, 1)}
	}
	raw, err := conn.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			growBuffers(int(fd))
			// A packet above the path's MTU is refused, for its sender to be told.
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO)
		})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set DF on a raw socket: %w", err), conn.Close())
	}
	return w, nil
}

// hop: as the kernel's device, the wire is the node's one hop, and the node's
// forwarding has counted it.
func (*ipipWire) hop() bool { return false }

func (w *ipipWire) close() error { return w.conn.Close() }

func (w *ipipWire) send(all []byte, size int, node netip.Addr) error {
	w.put(0, int(packet(all).ttl()))
	w.put(1, int(outerECN(all[1])))
	address := node.As4()
	w.to.IP = append(w.to.IP[:0], address[:]...)
	for len(all) > 0 {
		n := 0
		for ; n < len(w.out) && len(all) > 0; n++ {
			piece := all[:min(size, len(all))]
			w.out[n].Buffers[0] = piece
			all = all[len(piece):]
		}
		if err := w.write(w.out[:n]); err != nil {
			if errors.Is(err, unix.EMSGSIZE) {
				return &tooBig{pathMTU(node) - ipv4HeaderLen}
			}
			return err
		}
	}
	return nil
}

// put sets the value of a control message.
func (w *ipipWire) put(i, value int) {
	binary.NativeEndian.PutUint32(w.control[i*unix.CmsgSpace(4)+unix.CmsgLen(0):], uint32(value))
}

func (w *ipipWire) write(messages []ipv4.Message) error {
	for len(messages) > 0 {
		n, err := w.batched.WriteBatch(messages, 0)
		if err != nil {
			return err
		}
		messages = messages[n:]
	}
	return nil
}

// Values of the ECN field (RFC 3168, section 5).
const (
	ecnMask = 3
	notECT  = 0
	ect0    = 2
	ce      = 3
)

// outerECN is the outer DSCP and ECN for an inner one, by the kernel's rule
// (INET_ECN_encapsulate of net/inet_ecn.h): no DSCP, and congestion that was met
// before the tunnel is not told of twice.
func outerECN(inner byte) byte {
	if inner&ecnMask == ce {
		return ect0
	}
	return inner & ecnMask
}

// takeECN hands congestion that the outer packet has met on to the inner one
// (RFC 6040, section 4.2); false for one that must be dropped, since its sender
// would not understand.
func takeECN(outer byte, p packet) bool {
	if outer&ecnMask != ce || p[1]&ecnMask == ce {
		return true
	}
	if p[1]&ecnMask == notECT {
		return false
	}
	p[1] |= ce
	p.seal()
	return true
}

// receive takes whole packets with their outer headers.
func (w *ipipWire) receive(buf []byte, spans []span) ([]span, error) {
	for i := range w.in {
		w.in[i].Buffers[0] = buf[vnetLen+i*largest : vnetLen+(i+1)*largest]
	}
	n, err := w.batched.ReadBatch(w.in, 0)
	if err != nil {
		return spans, fmt.Errorf("receive from other nodes: %w", err)
	}
	for i, m := range w.in[:n] {
		at := vnetLen + i*largest
		outer, ok := parse(buf[at : at+m.N])
		if !ok || outer[9] != protoIPIP {
			continue
		}
		if inner, ok := parse(outer.payload()); ok && takeECN(outer[1], inner) {
			spans = append(spans, span{at + outer.headerLen(), at + outer.headerLen() + len(inner)})
		}
	}
	return spans, nil
}

// leastMTU is what every path takes (RFC 791).
const leastMTU = 68

// pathMTU is what the kernel knows of the path to a node.
func pathMTU(node netip.Addr) int {
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(node, 9)))
	if err != nil {
		return leastMTU + ipv4HeaderLen
	}
	defer conn.Close() // nothing was sent
	mtu := leastMTU + ipv4HeaderLen
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			if v, err := unix.GetsockoptInt(int(fd), unix.SOL_IP, unix.IP_MTU); err == nil {
				mtu = v
			}
		})
	}
	return mtu
}
