package podtools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// ping sends ICMP echo requests to an IPv4 address, one a second, and shows
// each reply with its TTL; it fails where one is missing.
func ping(ctx context.Context, out io.Writer, args []string) error {
	flags := pflag.NewFlagSet("ping", pflag.ContinueOnError)
	count := flags.IntP("count", "c", 0, "")
	wait := flags.IntP("wait", "W", 1, "")
	if err := flags.Parse(args); err != nil || flags.NArg() != 1 {
		return errors.New("this is overlab's own, which knows `ping [-c COUNT] [-W SECONDS] ADDRESS` alone")
	}
	to, err := netip.ParseAddr(flags.Arg(0))
	if err != nil || !to.Is4() {
		return fmt.Errorf("%s is no IPv4 address, and this ping of overlab's own knows no others", flags.Arg(0))
	}
	conn, err := icmp.ListenPacket("ip4:icmp", "0.0.0.0")
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer conn.Close()
	if err := conn.IPv4PacketConn().SetControlMessage(ipv4.FlagTTL, true); err != nil {
		return fmt.Errorf("ask for the TTL of replies: %w", err)
	}
	sent, received := 0, 0
	for ; (*count == 0 || sent < *count) && ctx.Err() == nil; sent++ {
		if sent > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		line, err := echo(conn, to, sent, time.Duration(*wait)*time.Second)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		if err == nil {
			received++
			fmt.Fprintln(out, line)
		}
	}
	fmt.Fprintf(out, "%d packets transmitted, %d packets received\n", sent, received)
	if received < sent {
		return fmt.Errorf("%d of %d requests to %s had no reply", sent-received, sent, to)
	}
	return nil
}

// echo sends one request and describes its reply.
func echo(conn *icmp.PacketConn, to netip.Addr, seq int, wait time.Duration) (string, error) {
	id := os.Getpid() & 0xffff
	request, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: seq, Data: make([]byte, 56)}}).Marshal(nil)
	if err != nil {
		return "", fmt.Errorf("make a request: %w", err)
	}
	began := time.Now()
	if _, err := conn.WriteTo(request, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return "", fmt.Errorf("send a request to %s: %w", to, err)
	}
	if err := conn.SetReadDeadline(began.Add(wait)); err != nil {
		return "", fmt.Errorf("wait for a reply: %w", err)
	}
	buf := make([]byte, 1500)
	for {
		n, control, from, err := conn.IPv4PacketConn().ReadFrom(buf)
		if err != nil {
			return "", fmt.Errorf("wait for a reply: %w", err)
		}
		m, err := icmp.ParseMessage(ipv4.ICMPTypeEcho.Protocol(), buf[:n])
		if err != nil {
			continue // somebody else's
		}
		reply, ok := m.Body.(*icmp.Echo)
		if !ok || m.Type != ipv4.ICMPTypeEchoReply || reply.ID != id || reply.Seq != seq {
			continue
		}
		ttl := 0
		if control != nil {
			ttl = control.TTL
		}
		return fmt.Sprintf("%d bytes from %s: seq=%d ttl=%d time=%.3f ms", n, from, seq, ttl, float64(time.Since(began).Microseconds())/1000), nil
	}
}
