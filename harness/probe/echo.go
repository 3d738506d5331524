package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/topology"
)

// Transport is the protocol of an echo.
type Transport string

// The transports.
const (
	UDP Transport = "udp"
	TCP Transport = "tcp"
)

// Echo asks an echo server of another session which address it sees.
type Echo struct {
	Transport Transport `json:"transport"`
	// Server is where the other session's server listens.
	Server netip.AddrPort `json:"server"`
	// ID marks the payload, in both directions; a fresh one if unset.
	ID uuid.UUID `json:"id,omitzero"`
	// From is the source address, and Mark the firewall mark (SO_MARK) of a UDP
	// echo; unset leaves them to the kernel.
	From netip.Addr `json:"from,omitzero"`
	Mark uint32     `json:"mark,omitempty"`
	// Wait is how long each try may take, 400 ms if zero; a datagram that
	// got no answer is sent again, up to Tries times, 3 if zero.
	Wait  time.Duration `json:"wait,omitempty"`
	Tries int           `json:"tries,omitempty"`
}

// EchoReply is what became of an Echo.
type EchoReply struct {
	ID uuid.UUID `json:"id"`
	// Seen is the client's address and port as the server saw them; invalid
	// when no answer came.
	Seen netip.AddrPort `json:"seen,omitzero"`
	// From is the address that the answer came from, as the client saw it.
	From netip.AddrPort `json:"from,omitzero"`
	RTT  time.Duration  `json:"rtt,omitempty"`
	// Failure says why no answer came.
	Failure string `json:"failure,omitempty"`
}

func (r *EchoReply) String() string {
	if r.Failure != "" {
		return r.Failure
	}
	return fmt.Sprintf("seen as %s, answered by %s", r.Seen.Addr(), r.From.Addr())
}

// echoes are a session's echo servers and its UDP client.
//
// The exchange: the client sends 16 bytes of identifier; the server answers
// with the same 16 bytes and the client's address as netip.AddrPort marshals
// it to binary (4 or 16 bytes of address, 2 of port, little endian).
type echoes struct {
	local  topology.Local
	server net.PacketConn
	client *net.UDPConn
	tcp    net.Listener
	// sockets are those of the three that are open.
	sockets []io.Closer

	mu      sync.Mutex
	waiting map[uuid.UUID]chan EchoReply
	conns   map[net.Conn]struct{}
	closed  bool
}

// newEchoes opens the sockets in the calling thread's namespace: each serves
// both families, where the kernel has both.
func newEchoes(local topology.Local) (*echoes, error) {
	e := &echoes{local: local, waiting: map[uuid.UUID]chan EchoReply{}, conns: map[net.Conn]struct{}{}}
	var err error
	if e.server, err = net.ListenPacket("udp", ":0"); err != nil {
		return nil, fmt.Errorf("open UDP echo server: %w", err)
	}
	e.sockets = append(e.sockets, e.server)
	if e.tcp, err = net.Listen("tcp", ":0"); err != nil {
		return nil, errors.Join(fmt.Errorf("open TCP echo server: %w", err), e.close())
	}
	e.sockets = append(e.sockets, e.tcp)
	if e.client, err = net.ListenUDP("udp", nil); err != nil {
		return nil, errors.Join(fmt.Errorf("open UDP echo client: %w", err), e.close())
	}
	e.sockets = append(e.sockets, e.client)
	return e, nil
}

func (e *echoes) start() {
	go serveUDP(e.server)
	go e.serveTCP(e.tcp)
	go e.receive()
}

func (e *echoes) close() error {
	e.mu.Lock()
	e.closed = true
	for c := range e.conns {
		_ = c.Close() // the servers' own connections: nobody waits for them
	}
	e.mu.Unlock()
	var errs []error
	for _, c := range e.sockets {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// EchoPort returns the port on which the session answers echoes of a
// transport, on every address of its namespace.
func (s *Session) EchoPort(t Transport) (uint16, error) {
	return ask(context.Background(), s, kindEchoPort, t, func() (uint16, error) { return s.echoPort(t) })
}

func (s *Session) echoPort(t Transport) (uint16, error) {
	switch t {
	case UDP:
		return s.echo.server.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	case TCP:
		return s.echo.tcp.Addr().(*net.TCPAddr).AddrPort().Port(), nil
	}
	return 0, fmt.Errorf("echo in %s: unknown transport %q", s.name, t)
}

// ServeEcho answers echoes of a transport at a port besides, on every IPv4
// address of the namespace, until the returned server is closed. The error
// wraps syscall.EADDRINUSE where something else has the port.
func (s *Session) ServeEcho(t Transport, port uint16) (io.Closer, error) {
	if s.peer != nil {
		return s.serveFar(t, port)
	}
	return s.serveEcho(t, port)
}

func (s *Session) serveEcho(t Transport, port uint16) (io.Closer, error) {
	at := fmt.Sprintf(":%d", port)
	var server io.Closer
	err := s.local.Do(func() error {
		switch t {
		case UDP:
			conn, err := net.ListenPacket("udp4", at)
			if err != nil {
				return err
			}
			go serveUDP(conn)
			server = conn
		case TCP:
			listener, err := net.Listen("tcp4", at)
			if err != nil {
				return err
			}
			go s.echo.serveTCP(listener)
			server = listener
		default:
			return fmt.Errorf("unknown transport %q", t)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("serve echoes in %s at port %d/%s: %w", s.name, port, t, err)
	}
	return server, nil
}

// Echo asks a server which address it sees. That no answer comes is no error:
// the reply says so.
func (s *Session) Echo(ctx context.Context, r Echo) (EchoReply, error) {
	if r.ID == (uuid.UUID{}) {
		r.ID = uuid.New()
	}
	if r.Wait == 0 {
		r.Wait = defaultWait
	}
	if r.Tries == 0 {
		r.Tries = defaultTries
	}
	return ask(ctx, s, kindEcho, r, func() (EchoReply, error) { return s.askEcho(ctx, r) })
}

func (s *Session) askEcho(ctx context.Context, r Echo) (EchoReply, error) {
	var reply EchoReply
	var err error
	switch r.Transport {
	case UDP:
		if r.From.IsValid() || r.Mark != 0 {
			reply, err = s.echo.askMarked(ctx, r)
		} else {
			reply, err = s.echo.askUDP(ctx, r)
		}
	case TCP:
		reply, err = s.echo.askTCP(ctx, r)
	default:
		err = fmt.Errorf("unknown transport %q", r.Transport)
	}
	reply.ID = r.ID
	if err != nil {
		return reply, fmt.Errorf("echo from %s: %w", s.name, err)
	}
	return reply, nil
}

func (e *echoes) askUDP(ctx context.Context, r Echo) (EchoReply, error) {
	answer := make(chan EchoReply, r.Tries)
	e.mu.Lock()
	e.waiting[r.ID] = answer
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		delete(e.waiting, r.ID)
		e.mu.Unlock()
	}()
	timer := time.NewTimer(r.Wait)
	defer timer.Stop()
	began := time.Now()
	for range r.Tries {
		timer.Reset(r.Wait)
		if _, err := e.client.WriteToUDPAddrPort(r.ID[:], r.Server); err != nil {
			if errors.Is(err, net.ErrClosed) {
				return EchoReply{}, err
			}
			return EchoReply{Failure: "sending failed: " + bare(err)}, nil
		}
		select {
		case reply := <-answer:
			reply.RTT = time.Since(began)
			return reply, nil
		case <-timer.C:
		case <-ctx.Done():
			return EchoReply{}, context.Cause(ctx)
		}
	}
	waited := time.Since(began).Round(time.Millisecond)
	return EchoReply{Failure: fmt.Sprintf("no answer to %d datagrams in %v", r.Tries, waited)}, nil
}

// askTCP makes one connection; TCP itself sends again what is lost.
func (e *echoes) askTCP(ctx context.Context, r Echo) (EchoReply, error) {
	limit := r.Wait * time.Duration(r.Tries)
	began := time.Now()
	dialing, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := e.local.Dial(dialing, "tcp", r.Server.String())
	if err != nil {
		if ctx.Err() != nil {
			return EchoReply{}, context.Cause(ctx)
		}
		return EchoReply{Failure: "connecting failed: " + bare(err)}, nil
	}
	defer conn.Close() // what was read is all that matters
	reply, err := converse(conn, r.ID, began.Add(limit))
	if err != nil {
		return EchoReply{Failure: "connected, but the exchange failed: " + bare(err)}, nil
	}
	reply.RTT = time.Since(began)
	return reply, nil
}

func converse(conn net.Conn, id uuid.UUID, deadline time.Time) (EchoReply, error) {
	if err := conn.SetDeadline(deadline); err != nil {
		return EchoReply{}, err
	}
	if _, err := conn.Write(id[:]); err != nil {
		return EchoReply{}, err
	}
	b, err := io.ReadAll(io.LimitReader(conn, 64))
	if err != nil {
		return EchoReply{}, err
	}
	got, reply, ok := parseAnswer(b)
	if !ok || got != id {
		return EchoReply{}, fmt.Errorf("%d bytes that are no answer", len(b))
	}
	reply.From = addrPort(conn.RemoteAddr())
	return reply, nil
}

// bare returns an error without the addresses that the caller names anyway.
func bare(err error) string {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}

func serveUDP(server net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := server.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < len(uuid.UUID{}) {
			continue
		}
		answer := marshalAnswer(uuid.UUID(buf[:16]), addrPort(from))
		_, _ = server.WriteTo(answer, from) // the client asks again
	}
}

func (e *echoes) receive() {
	buf := make([]byte, 2048)
	for {
		n, from, err := e.client.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		id, reply, ok := parseAnswer(buf[:n])
		if !ok {
			continue
		}
		reply.From = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		e.mu.Lock()
		if waiting := e.waiting[id]; waiting != nil {
			select {
			case waiting <- reply:
			default: // answers to more than was asked
			}
		}
		e.mu.Unlock()
	}
}

func (e *echoes) serveTCP(server net.Listener) {
	for {
		conn, err := server.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		e.mu.Lock()
		closed := e.closed
		e.conns[conn] = struct{}{}
		e.mu.Unlock()
		if closed {
			_ = conn.Close()
			return
		}
		go e.serveConn(conn)
	}
}

// idle ends a server's connection whose client has gone.
const idle = 10 * time.Second

func (e *echoes) serveConn(conn net.Conn) {
	defer func() {
		_ = conn.Close() // the client has its answer, or will time out
		e.mu.Lock()
		delete(e.conns, conn)
		e.mu.Unlock()
	}()
	var id uuid.UUID
	if conn.SetDeadline(time.Now().Add(idle)) != nil {
		return
	}
	if _, err := io.ReadFull(conn, id[:]); err != nil {
		return
	}
	_, _ = conn.Write(marshalAnswer(id, addrPort(conn.RemoteAddr())))
}

func marshalAnswer(id uuid.UUID, seen netip.AddrPort) []byte {
	b, err := seen.MarshalBinary()
	if err != nil { // it cannot fail without a zone of more than 2^16 bytes
		return nil
	}
	return append(id[:], b...)
}

func parseAnswer(b []byte) (id uuid.UUID, reply EchoReply, ok bool) {
	if len(b) <= len(id) {
		return id, reply, false
	}
	id = uuid.UUID(b[:len(id)])
	return id, reply, reply.Seen.UnmarshalBinary(b[len(id):]) == nil
}

func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.UDPAddr:
		ap = a.AddrPort()
	case *net.TCPAddr:
		ap = a.AddrPort()
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
