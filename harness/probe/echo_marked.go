package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// askMarked asks from a socket of its own, which has the source address and the
// mark that the request names.
func (e *echoes) askMarked(ctx context.Context, r Echo) (EchoReply, error) {
	var conn net.PacketConn
	err := e.local.Do(func() error {
		config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
			var err error
			if r.Mark != 0 {
				ctl := raw.Control(func(fd uintptr) {
					err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(r.Mark))
				})
				err = errors.Join(ctl, err)
			}
			return err
		}}
		from := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
		if r.From.IsValid() {
			from = netip.AddrPortFrom(r.From, 0)
		}
		var err error
		conn, err = config.ListenPacket(ctx, "udp4", from.String())
		return err
	})
	if err != nil {
		return EchoReply{}, fmt.Errorf("open a socket from %s with mark %#x: %w", r.From, r.Mark, err)
	}
	defer conn.Close() // the answer is in, or does not come
	began := time.Now()
	buf := make([]byte, 2048)
	for range r.Tries {
		if err := ctx.Err(); err != nil {
			return EchoReply{}, context.Cause(ctx)
		}
		if _, err := conn.WriteTo(r.ID[:], net.UDPAddrFromAddrPort(r.Server)); err != nil {
			return EchoReply{Failure: "sending failed: " + bare(err)}, nil
		}
		if err := conn.SetReadDeadline(time.Now().Add(r.Wait)); err != nil {
			return EchoReply{}, err
		}
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				break // most often the deadline
			}
			if id, reply, ok := parseAnswer(buf[:n]); ok && id == r.ID {
				reply.From, reply.RTT = addrPort(from), time.Since(began)
				return reply, nil
			}
		}
	}
	waited := time.Since(began).Round(time.Millisecond)
	return EchoReply{Failure: fmt.Sprintf("no answer to %d datagrams in %v", r.Tries, waited)}, nil
}
