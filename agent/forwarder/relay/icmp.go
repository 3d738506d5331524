package relay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ICMP errors that a relay sends: type in the upper byte, code in the lower.
const (
	netUnreachable      = 0x0300
	fragmentationNeeded = 0x0304
	timeExceeded        = 0x0b00
)

const (
	// errorLen bounds an ICMP error with what it quotes (RFC 1812, section
	// 4.3.2.3).
	errorLen = 576
	// errorRate and errorBurst bound how many are sent (section 4.3.2.8).
	errorRate  = 1000 // a second
	errorBurst = 100
	errorTTL   = 64
)

// reporter sends ICMP errors about packets that cannot go on, to whoever has
// sent them.
//
// Flannel writes them to the device, where the kernel drops them: their source
// is an address of the node's own, which no packet from outside may have
// (accept_local). A raw socket sends them as the node's own packets instead.
type reporter struct {
	fd int

	mu      sync.Mutex
	credit  float64
	settled time.Time
}

func newReporter() (*reporter, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("open a raw socket for ICMP errors: %w", err)
	}
	return &reporter{fd: fd, credit: errorBurst, settled: time.Now()}, nil
}

func (r *reporter) close() error { return unix.Close(r.fd) }

// report sends an error about p from the address. mtu is that of a
// fragmentationNeeded. It never answers what must not be answered, nor too
// often; one that cannot be sent is lost, as ICMP may be.
func (r *reporter) report(from netip.Addr, kind uint16, mtu int, p packet) {
	if !reportable(p) || !r.allowed(time.Now()) {
		return
	}
	var buf [errorLen]byte
	e := icmpError(buf[:], from, kind, mtu, p)
	_ = unix.Sendto(r.fd, e, unix.MSG_DONTWAIT, &unix.SockaddrInet4{Addr: [4]byte(e[16:20])})
}

// icmpError writes the error as a whole packet.
func icmpError(buf []byte, from netip.Addr, kind uint16, mtu int, p packet) packet {
	const header = ipv4HeaderLen + 8
	e := packet(buf[:header+copy(buf[header:], p)])
	e[0], e[8], e[9] = 0x45, errorTTL, protoICMP
	e[1] = 0xc0 // precedence 6 (RFC 1812, section 4.3.2.5)
	e.setLen()
	src := from.As4()
	copy(e[12:], src[:])
	copy(e[16:], p[12:16])
	e.seal()
	m := e[ipv4HeaderLen:]
	binary.BigEndian.PutUint16(m, kind)
	binary.BigEndian.PutUint16(m[6:], uint16(mtu)) // RFC 1191
	putSum(m[2:], ^fold(sum(m, 0)))
	return e
}

// reportable reports whether an ICMP error may be sent about a packet (RFC
// 1812, section 4.3.2.7).
func reportable(p packet) bool {
	if p.laterFragment() || !single(p.src()) || !single(p.dst()) {
		return false
	}
	if p[9] != protoICMP {
		return true
	}
	body := p.payload()
	if len(body) == 0 {
		return false
	}
	switch body[0] {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18: // queries and their answers
		return true
	}
	return false
}

// single reports whether an address is that of one interface.
func single(a netip.Addr) bool {
	return (a.IsGlobalUnicast() || a.IsLinkLocalUnicast()) && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) && a.As4()[0] < 240
}

// allowed keeps the rate.
func (r *reporter) allowed(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.credit = min(errorBurst, r.credit+now.Sub(r.settled).Seconds()*errorRate)
	r.settled = now
	if r.credit < 1 {
		return false
	}
	r.credit--
	return true
}
