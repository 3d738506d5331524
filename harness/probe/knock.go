package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Knock asks for what answers at a port.
type Knock struct {
	// Protocol is tcp or udp: one SYN is sent, or one datagram.
	Protocol string     `json:"protocol"`
	Dst      netip.Addr `json:"dst"`
	Port     int        `json:"port"`
	// Size in bytes of the datagram's whole IP packet, 84 if zero; a SYN has
	// 44 over IPv4 and 64 over IPv6.
	Size int `json:"size,omitempty"`
	// DF sets the don't-fragment bit.
	DF bool `json:"df,omitempty"`
	// TTL, or hop limit; 0 is the kernel's default.
	TTL int `json:"ttl,omitempty"`
	// ID marks it: it is the datagram's payload, and Seq of a SYN is from it.
	ID uuid.UUID `json:"id"`
	// Wait is how long an answer may take, 400 ms if zero.
	Wait time.Duration `json:"wait,omitempty"`
}

// Seq is the sequence number of a SYN, and SourcePort that of both.
func (k *Knock) Seq() uint32 { return binary.BigEndian.Uint32(k.ID[:]) }

// SourcePort is below the ephemeral ports of Linux, so that no connection of
// the namespace's own has it.
func (k *Knock) SourcePort() uint16 {
	const first, count = 20000, 12000
	return first + binary.BigEndian.Uint16(k.ID[10:])%count
}

// SYNSize is the length in bytes of the IP packet of a SYN to an address.
func SYNSize(dst netip.Addr) int { return icmpOf(dst).header + synSize }

// headers of IP and of what it carries.
func (k *Knock) headers() (ip, all int) {
	ip = icmpOf(k.Dst).header
	if k.Protocol == "tcp" {
		return ip, ip + synSize
	}
	return ip, ip + udpHeader
}

const (
	udpHeader = 8
	tcpHeader = 20
	// synSize is that with the option of the segment's size, as any has it.
	synSize = tcpHeader + 4
)

func (k *Knock) defaults() error {
	if k.Size == 0 {
		k.Size = 84
	}
	ip, all := k.headers()
	if k.Protocol == "tcp" {
		k.Size = all
	}
	if k.Wait == 0 {
		k.Wait = defaultWait
	}
	switch {
	case k.Protocol != "tcp" && k.Protocol != "udp":
		return fmt.Errorf("knock by %q: it is tcp or udp", k.Protocol)
	case !k.Dst.IsValid() || k.Dst.Is4In6() || k.Dst.IsMulticast() || k.Dst.Zone() != "":
		return fmt.Errorf("knock at %s: not the address of one machine", k.Dst)
	case k.Port < 1 || k.Port > 65535:
		return fmt.Errorf("knock at port %d: it must be 1 to 65535", k.Port)
	case k.Protocol == "udp" && (k.Size < all+idSize || k.Size > maxSize):
		return fmt.Errorf("knock with a packet of %d bytes: it must have %d to %d", k.Size, ip+udpHeader+idSize, maxSize)
	case k.TTL < 0 || k.TTL > 255:
		return fmt.Errorf("knock with TTL %d: it must be 0 to 255", k.TTL)
	}
	return nil
}

// Knock sends one SYN or datagram and waits for its answer: a SYN-ACK, an RST,
// a datagram, or the destination's ICMP port unreachable are replies, and say
// what they are; ICMP errors of others are errors of the Pong. A SYN-ACK is
// answered by the namespace's kernel, which knows no such connection, by RST.
func (s *Session) Knock(ctx context.Context, k Knock) (Pong, error) {
	if err := k.defaults(); err != nil {
		return Pong{}, fmt.Errorf("knock from %s: %w", s.name, err)
	}
	return ask(ctx, s, kindKnock, k, func() (pong Pong, err error) {
		err = s.local.Do(func() (err error) {
			pong, err = k.knock(ctx)
			return err
		})
		if err != nil {
			return pong, fmt.Errorf("knock from %s: %w", s.name, err)
		}
		return pong, nil
	})
}

// knock is for a thread in the namespace.
func (k *Knock) knock(ctx context.Context) (pong Pong, err error) {
	pong.ID = k.ID
	f := icmpOf(k.Dst)
	kind, protocol := unix.SOCK_DGRAM, unix.IPPROTO_UDP
	if k.Protocol == "tcp" {
		kind, protocol = unix.SOCK_RAW, unix.IPPROTO_TCP
	}
	fd, err := unix.Socket(f.domain, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return pong, fmt.Errorf("open socket: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := k.options(fd, f); err != nil {
		return pong, err
	}
	// A raw socket's port is none.
	to, local := netip.AddrPortFrom(k.Dst, uint16(k.Port)), k.SourcePort()
	if k.Protocol == "tcp" {
		to, local = netip.AddrPortFrom(k.Dst, 0), 0
	}
	if err := unix.Bind(fd, socketAddress(netip.AddrPortFrom(unspecified(k.Dst), local))); err != nil {
		return pong, fmt.Errorf("bind port %d: %w", local, err)
	}
	sent := time.Now()
	err = unix.Connect(fd, socketAddress(to))
	if err == nil {
		var message []byte
		if message, err = k.message(fd); err == nil {
			err = unix.Sendto(fd, message, unix.MSG_NOSIGNAL, nil)
		}
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		pong.Refused = &Refusal{Errno: unix.ErrnoName(errno)}
		return pong, nil
	}
	if err != nil {
		return pong, err
	}
	pong.Sent = 1
	for {
		left := time.Until(sent.Add(k.Wait))
		if left <= 0 {
			pong.Waited = time.Since(sent)
			return pong, nil
		}
		if err := ctx.Err(); err != nil {
			return pong, err
		}
		// Not long, so that the end of ctx is seen.
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, int(min(left, 50*time.Millisecond)/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) {
			return pong, fmt.Errorf("wait for an answer: %w", err)
		}
		if k.failed(fd, f, &pong, sent) || k.answered(fd, &pong, sent) {
			return pong, nil
		}
	}
}

// options of the socket.
func (k *Knock) options(fd int, f *icmp) error {
	var errs []error
	set := func(level, name, value int) {
		if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
			errs = append(errs, fmt.Errorf("set option %d of the socket: %w", name, err))
		}
	}
	set(f.level, f.errors, 1)
	mode := f.forget
	if k.DF {
		mode = f.probe
	}
	set(f.level, f.discover, mode)
	if k.TTL != 0 && f == icmp4 {
		set(unix.IPPROTO_IP, unix.IP_TTL, k.TTL)
	} else if k.TTL != 0 {
		set(unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, k.TTL)
	}
	return errors.Join(errs...)
}

// message is the payload of the socket: a SYN with its header, or data.
func (k *Knock) message(fd int) ([]byte, error) {
	if k.Protocol == "udp" {
		_, all := k.headers()
		data := make([]byte, k.Size-all)
		copy(data, k.ID[:])
		for i := idSize; i < len(data); i++ {
			data[i] = byte(i)
		}
		return data, nil
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("find the source address: %w", err)
	}
	return k.syn(addressOf(own)), nil
}

// syn builds the segment of RFC 9293 section 3.1, with the option that tells
// the greatest segment.
func (k *Knock) syn(src netip.Addr) []byte {
	const flagSYN, window, mss = 0x02, 64240, 1400
	b := make([]byte, synSize)
	binary.BigEndian.PutUint16(b, k.SourcePort())
	binary.BigEndian.PutUint16(b[2:], uint16(k.Port))
	binary.BigEndian.PutUint32(b[4:], k.Seq())
	b[12], b[13] = synSize/4<<4, flagSYN
	binary.BigEndian.PutUint16(b[14:], window)
	b[20], b[21] = 2, 4
	binary.BigEndian.PutUint16(b[22:], mss)
	pseudo := append(src.AsSlice(), k.Dst.AsSlice()...)
	pseudo = append(pseudo, 0, unix.IPPROTO_TCP, 0, synSize)
	binary.BigEndian.PutUint16(b[16:], checksum(append(pseudo, b...)))
	return b
}

// failed reads the ICMP errors that have come. That the port is unreachable,
// said by the destination, is an answer.
func (k *Knock) failed(fd int, f *icmp, pong *Pong, sent time.Time) bool {
	// struct sock_extended_err of linux/errqueue.h, and the sender behind it.
	const origin, typ, code, info, size = 4, 5, 6, 8, 16
	const originICMP, originICMP6 = 2, 3
	oob := make([]byte, 512)
	for {
		_, n, _, _, err := unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err != nil {
			return false
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			continue
		}
		for _, m := range msgs {
			d := m.Data
			if m.Header.Level != int32(f.level) || m.Header.Type != int32(f.errors) || len(d) < size || d[origin] != originICMP && d[origin] != originICMP6 {
				continue
			}
			e := ICMPError{Type: d[typ], Code: d[code], From: offender(d[size:], f)}
			if e.Type == f.tooBig.Type && e.Code == f.tooBig.Code {
				e.MTU = int(binary.NativeEndian.Uint32(d[info:]))
			}
			unreachable := ICMPError{From: k.Dst, Type: 3, Code: 3}
			if f == icmp6 {
				unreachable.Type, unreachable.Code = 1, 4
			}
			if e == unreachable {
				pong.Replies = []Reply{{From: k.Dst, What: "ICMP port unreachable", RTT: time.Since(sent)}}
			} else {
				pong.Error = &e
			}
			return true
		}
	}
}

// offender reads a struct sockaddr_in or sockaddr_in6.
func offender(b []byte, f *icmp) netip.Addr {
	const at4, at6 = 4, 8
	if f == icmp4 && len(b) >= at4+4 {
		return netip.AddrFrom4([4]byte(b[at4:]))
	}
	if f == icmp6 && len(b) >= at6+16 {
		return netip.AddrFrom16([16]byte(b[at6:]))
	}
	return netip.Addr{}
}

// answered reads what has come until it is the answer.
func (k *Knock) answered(fd int, pong *Pong, sent time.Time) bool {
	buf := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT)
		if err != nil {
			return false // also an ICMP error, which is in the other queue
		}
		r := Reply{From: k.Dst, RTT: time.Since(sent)}
		if k.Protocol == "udp" {
			_, all := k.headers()
			r.What, r.Size = "a datagram", all+n
			pong.Replies = []Reply{r}
			return true
		}
		segment := buf[:n]
		if k.Dst.Is4() {
			header, rest, ok := splitIPv4(segment)
			if !ok {
				continue
			}
			r.TTL, r.Size, segment = int(header[8]), n, rest
		} else {
			r.Size = n + icmp6.header
		}
		if r.What = k.reply(segment); r.What != "" {
			pong.Replies = []Reply{r}
			return true
		}
	}
}

// reply names a segment that answers the SYN; empty is another.
func (k *Knock) reply(segment []byte) string {
	const flagSYN, flagRST, flagACK = 0x02, 0x04, 0x10
	if len(segment) < tcpHeader || binary.BigEndian.Uint16(segment) != uint16(k.Port) ||
		binary.BigEndian.Uint16(segment[2:]) != k.SourcePort() || binary.BigEndian.Uint32(segment[8:]) != k.Seq()+1 {
		return ""
	}
	switch flags := segment[13]; {
	case flags&flagRST != 0:
		return "RST"
	case flags&(flagSYN|flagACK) == flagSYN|flagACK:
		return "SYN-ACK"
	}
	return ""
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func socketAddress(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

func addressOf(s unix.Sockaddr) netip.Addr {
	switch s := s.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(s.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(s.Addr)
	}
	return netip.Addr{}
}
