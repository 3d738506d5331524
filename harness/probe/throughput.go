package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"
)

// Throughput sends TCP to another session's namespace, at an address that it
// has there, for a time. It returns the bits a second that were received.
func (s *Session) Throughput(ctx context.Context, to *Session, at netip.Addr, during time.Duration) (float64, error) {
	rate, err := s.throughput(ctx, to, at, during)
	if err != nil {
		return 0, fmt.Errorf("throughput from %s to %s %s: %w", s.name, to.name, at, err)
	}
	return rate, nil
}

func (s *Session) throughput(ctx context.Context, to *Session, at netip.Addr, during time.Duration) (float64, error) {
	var listener net.Listener
	err := to.local.Do(func() error {
		var err error
		listener, err = net.Listen("tcp4", ":0")
		return err
	})
	if err != nil {
		return 0, err
	}
	defer listener.Close() // it has served its one connection
	port := listener.Addr().(*net.TCPAddr).AddrPort().Port()
	type received struct {
		bytes int64
		took  time.Duration
		err   error
	}
	done := make(chan received, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			done <- received{err: err}
			return
		}
		defer conn.Close() // everything was read
		began := time.Now()
		n, err := io.Copy(io.Discard, conn)
		done <- received{n, time.Since(began), err}
	}()
	dialing, cancel := context.WithTimeout(ctx, during+defaultWait)
	defer cancel()
	conn, err := s.local.Dial(dialing, "tcp4", netip.AddrPortFrom(at, port).String())
	if err != nil {
		return 0, err
	}
	until := time.Now().Add(during)
	err = conn.SetWriteDeadline(until.Add(defaultWait))
	for chunk := make([]byte, 128<<10); err == nil && time.Now().Before(until); {
		if err = ctx.Err(); err == nil {
			_, err = conn.Write(chunk)
		}
	}
	if err := errors.Join(err, conn.Close()); err != nil {
		return 0, err
	}
	select {
	case r := <-done:
		return float64(8*r.bytes) / r.took.Seconds(), r.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}
