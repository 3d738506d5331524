package probe

import (
	"context"
	"fmt"
	"net"
)

// A Peer answers a session's requests in its place: at the other end of a
// pipe, or from a record.
type Peer interface {
	// Ask hands over a request of one kind, and fills what answer points to.
	// Both are plain data that JSON can carry.
	Ask(ctx context.Context, kind string, request, answer any) error
	Close() error
}

// The kinds of requests, and what they carry: a Ping and a Pong; an Echo and
// an EchoReply; a Transport and a uint16; nothing and a State; a path and
// bytes; keys of kernel parameters and their values; a name and a WireGuard; a
// folder and its files; a Knock and a Pong; Changes, a Burst, frames, a file, a
// path, a service or a bridge, and nothing.
const (
	kindPing      = "ping"
	kindEcho      = "echo"
	kindEchoPort  = "echo-port"
	kindState     = "state"
	kindReadFile  = "read-file"
	kindSysctls   = "sysctls"
	kindWireGuard = "wireguard"
	kindChange    = "change"
	kindBurst     = "burst"
	kindInject    = "inject"
	kindKnock     = "knock"

	kindFiles        = "files"
	kindWriteFile    = "write-file"
	kindRemoveAll    = "remove-all"
	kindService      = "service"
	kindUnservice    = "unservice"
	kindDeleteBridge = "delete-bridge"
)

// Peer is who answers the session's requests in its place, nil where the
// session measures in this process.
func (s *Session) Peer() Peer { return s.peer }

// Attach makes a session that a peer answers. What needs the namespace itself
// (streams, monitors, further echo servers) is refused with ErrNotLocal.
func Attach(name string, p Peer) *Session {
	return &Session{name: name, local: elsewhere{name}, peer: p}
}

// elsewhere is the namespace of a session that a peer answers.
type elsewhere struct{ name string }

func (e elsewhere) Do(func() error) error { return fmt.Errorf("enter %s: %w", e.name, ErrNotLocal) }

func (e elsewhere) Dial(context.Context, string, string) (net.Conn, error) {
	return nil, fmt.Errorf("dial from %s: %w", e.name, ErrNotLocal)
}

// Listen has every request and its answer told to heard, as they are answered,
// by several goroutines. It is called before the session is used.
func (s *Session) Listen(heard func(ctx context.Context, kind string, request, answer any, err error)) {
	s.heard = heard
}

// tell has a request answered that asks for nothing.
func tell[Q any](ctx context.Context, s *Session, kind string, request Q, here func() error) error {
	_, err := ask(ctx, s, kind, request, func() (struct{}, error) { return struct{}{}, here() })
	return err
}

// ask has a request answered: by the peer where there is one, else here.
func ask[Q, A any](ctx context.Context, s *Session, kind string, request Q, here func() (A, error)) (A, error) {
	var answer A
	var err error
	if s.peer != nil {
		if err = s.peer.Ask(ctx, kind, request, &answer); err != nil {
			err = fmt.Errorf("%s in %s: %w", kind, s.name, err)
		}
	} else {
		answer, err = here()
	}
	if s.heard != nil {
		s.heard(ctx, kind, request, answer, err)
	}
	return answer, err
}
