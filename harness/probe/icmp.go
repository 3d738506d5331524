package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// icmp is what differs between ICMP (RFC 792) and ICMPv6 (RFC 4443), and their
// sockets.
type icmp struct {
	domain, protocol int
	// header is the length of the IP header in bytes, in what is sent and in
	// what an error quotes.
	header         int
	request, reply uint8
	// wanted are the types that a session reads besides replies: errors.
	wanted []uint8
	// tooBig is the error that names an MTU.
	tooBig ICMPError
	// level is that of the socket options and ancillary data named below.
	level                              int
	discover, probe, forget, errors    int
	sendTTL, receiveTTL, receivedTTL   int
	packetInfo, packetInfoAt, infoSize int
}

var (
	icmp4 = &icmp{
		domain: unix.AF_INET, protocol: unix.IPPROTO_ICMP, header: 20, request: 8, reply: 0,
		// Unreachable, redirect, time exceeded, parameter problem.
		wanted: []uint8{3, 5, 11, 12}, tooBig: ICMPError{Type: 3, Code: 4},
		level: unix.IPPROTO_IP, discover: unix.IP_MTU_DISCOVER, probe: unix.IP_PMTUDISC_PROBE, forget: unix.IP_PMTUDISC_DONT,
		errors: unix.IP_RECVERR, sendTTL: unix.IP_TTL,
		packetInfo: unix.IP_PKTINFO, packetInfoAt: 4, infoSize: unix.SizeofInet4Pktinfo,
	}
	icmp6 = &icmp{
		domain: unix.AF_INET6, protocol: unix.IPPROTO_ICMPV6, header: 40, request: 128, reply: 129,
		// Unreachable, packet too big, time exceeded, parameter problem.
		wanted: []uint8{1, 2, 3, 4}, tooBig: ICMPError{Type: 2},
		level: unix.IPPROTO_IPV6, discover: unix.IPV6_MTU_DISCOVER, probe: unix.IPV6_PMTUDISC_PROBE, forget: unix.IPV6_PMTUDISC_DONT,
		errors: unix.IPV6_RECVERR, sendTTL: unix.IPV6_HOPLIMIT, receiveTTL: unix.IPV6_RECVHOPLIMIT, receivedTTL: unix.IPV6_HOPLIMIT,
		packetInfo: unix.IPV6_PKTINFO, packetInfoAt: 0, infoSize: unix.SizeofInet6Pktinfo,
	}
)

// icmpOf returns the protocol of an address's family.
func icmpOf(a netip.Addr) *icmp {
	if a.Is4() {
		return icmp4
	}
	return icmp6
}

// smallest is the length in bytes of the shortest ping's packet.
func (f *icmp) smallest() int { return f.header + icmpHeader + idSize }

// usual is that of ping's, with 56 bytes of data.
func (f *icmp) usual() int { return f.header + icmpHeader + 56 }

// setUp prepares a socket; only is for one that sends alone, and never in
// fragments.
func (f *icmp) setUp(s *rawSocket, only bool) error {
	if only {
		return errors.Join(
			s.filter(f, nil),
			// The kernel's route cache may hold a smaller MTU from an earlier
			// probe; a measurement must not depend on it.
			s.option(f.level, f.discover, f.probe),
			s.option(f.level, f.errors, 1),
			f.dontFragment(s),
		)
	}
	err := errors.Join(s.filter(f, append([]uint8{f.reply}, f.wanted...)), s.option(f.level, f.discover, f.forget))
	if f.receiveTTL != 0 { // an IPv4 socket hands over the header itself
		err = errors.Join(err, s.option(f.level, f.receiveTTL, 1))
	}
	return err
}

// dontFragment: with IPv6 the sender's own kernel would fragment.
func (f *icmp) dontFragment(s *rawSocket) error {
	if f == icmp4 {
		return nil
	}
	return s.option(f.level, unix.IPV6_DONTFRAG, 1)
}

// filter lets only some types through.
func (s *rawSocket) filter(f *icmp, types []uint8) error {
	// A set bit blocks in ICMP_FILTER (linux/icmp.h) of 32 bits, and in
	// ICMPV6_FILTER (linux/icmpv6.h) of 256.
	const icmpFilter, icmpv6Filter = 1, 1
	var blocked [8]uint32
	for i := range blocked {
		blocked[i] = ^uint32(0)
	}
	for _, t := range types {
		blocked[t/32] &^= 1 << (t % 32)
	}
	if f == icmp4 {
		return s.option(unix.SOL_RAW, icmpFilter, int(int32(blocked[0])))
	}
	var err error
	if e := s.conn.Control(func(fd uintptr) {
		err = unix.SetsockoptICMPv6Filter(int(fd), unix.SOL_ICMPV6, icmpv6Filter, &unix.ICMPv6Filter{Data: blocked})
	}); e != nil {
		return e
	}
	if err != nil {
		return fmt.Errorf("set the filter of the raw ICMPv6 socket: %w", err)
	}
	return nil
}

// address returns the form in which a socket takes an address.
func (f *icmp) address(a netip.Addr) unix.Sockaddr {
	if f == icmp4 {
		return &unix.SockaddrInet4{Addr: a.As4()}
	}
	return &unix.SockaddrInet6{Addr: a.As16()}
}

// received is a message as a socket hands it over.
type received struct {
	from netip.Addr
	ttl  int
	// size is that of the whole packet in bytes.
	size int
	icmp []byte
}

// parse reads what a socket received: b with the ancillary data oob.
func (f *icmp) parse(b, oob []byte, from unix.Sockaddr) (r received, ok bool) {
	if f == icmp4 {
		ip, rest, ok := splitIPv4(b)
		if !ok {
			return r, false
		}
		return received{from: netip.AddrFrom4([4]byte(ip[12:16])), ttl: int(ip[8]), size: len(b), icmp: rest}, true
	}
	sender, ok := from.(*unix.SockaddrInet6)
	if !ok {
		return r, false
	}
	r = received{from: netip.AddrFrom16(sender.Addr), size: f.header + len(b), icmp: b}
	msgs, err := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Level == int32(f.level) && m.Header.Type == int32(f.receivedTTL) && len(m.Data) >= 4 {
			r.ttl = int(binary.NativeEndian.Uint32(m.Data))
		}
	}
	return r, err == nil
}

// quoted returns the ICMP message of the packet that an error quotes.
func (f *icmp) quoted(b []byte) ([]byte, bool) {
	if f == icmp4 {
		_, rest, ok := splitIPv4(b)
		return rest, ok
	}
	if len(b) < f.header || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 {
		return nil, false
	}
	return b[f.header:], true
}

// mtu reads the MTU that an error names.
func (f *icmp) mtu(msg []byte) int {
	if f == icmp4 {
		return int(binary.BigEndian.Uint16(msg[6:])) // RFC 1191
	}
	return int(binary.BigEndian.Uint32(msg[4:])) // RFC 4443, section 3.2
}

// splitIPv4 separates an IPv4 header from what follows it.
func splitIPv4(b []byte) (header, rest []byte, ok bool) {
	if len(b) < icmp4.header || b[0]>>4 != 4 {
		return nil, nil, false
	}
	n := int(b[0]&15) * 4
	if n < icmp4.header || n > len(b) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}
