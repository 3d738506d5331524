package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol between a session and `overlab probe`: JSON, one message a line.
// The session sends calls, in any number at once; each is answered by a reply
// of the same ID, in any order. A call of kind cancel ends the one of its ID.
type (
	call struct {
		ID      uint64          `json:"id"`
		Kind    string          `json:"kind"`
		Request json.RawMessage `json:"request,omitempty"`
	}
	reply struct {
		ID     uint64          `json:"id"`
		Answer json.RawMessage `json:"answer,omitempty"`
		Error  string          `json:"error,omitempty"`
		// Is are the names of errors that Error is one of, as knownErrors has them.
		Is []string `json:"is,omitempty"`
	}
)

const (
	kindCancel = "cancel"
	// kindHello is the first call; its answer is wireVersion.
	kindHello = "hello"
	// wireVersion is the version of it all.
	wireVersion = "overlab/probe/v1alpha1"
)

// knownErrors are those that who asks tells apart, by their names on the wire.
func knownErrors() map[string]error {
	return map[string]error{"not-exist": fs.ErrNotExist, "address-in-use": unix.EADDRINUSE}
}

// farError is an error of the other end.
type farError struct {
	text string
	is   []error
}

func (e *farError) Error() string   { return e.text }
func (e *farError) Unwrap() []error { return e.is }

// A Handler answers calls of one kind: it reads the request and returns the
// answer, which may be there beside an error.
type Handler func(context.Context, *Session, json.RawMessage) (any, error)

// handlers answer each kind of call by a session's method. A new kind is one
// line.
func handlers() map[string]Handler {
	return map[string]Handler{
		kindHello: handler(func(context.Context, *Session, struct{}) (string, error) { return wireVersion, nil }),
		kindPing:  handler(func(ctx context.Context, s *Session, p Ping) (Pong, error) { return s.Ping(ctx, p) }),
		kindEcho:  handler(func(ctx context.Context, s *Session, e Echo) (EchoReply, error) { return s.Echo(ctx, e) }),
		kindEchoPort: handler(func(_ context.Context, s *Session, t Transport) (uint16, error) {
			return s.EchoPort(t)
		}),
		kindState: handler(func(ctx context.Context, s *Session, _ struct{}) (*State, error) { return s.State(ctx) }),
		kindReadFile: handler(func(ctx context.Context, s *Session, path string) ([]byte, error) {
			return s.ReadFile(ctx, path)
		}),
		kindSysctls: handler(func(ctx context.Context, s *Session, keys []string) (map[string]string, error) {
			return s.Sysctls(ctx, keys...)
		}),
		kindWireGuard: handler(func(ctx context.Context, s *Session, dev string) (*WireGuard, error) {
			return s.WireGuard(ctx, dev)
		}),
		kindChange: handler(func(ctx context.Context, s *Session, changes []Change) (struct{}, error) {
			return struct{}{}, s.Change(ctx, changes...)
		}),
		kindBurst: handler(func(ctx context.Context, s *Session, b Burst) (struct{}, error) {
			return struct{}{}, s.Burst(ctx, b)
		}),
		kindInject: handler(func(ctx context.Context, s *Session, i injection) (struct{}, error) {
			return struct{}{}, s.Inject(ctx, i.Interface, i.Frames...)
		}),
		kindClock: handler(func(context.Context, *Session, struct{}) (time.Time, error) { return time.Now(), nil }),
		kindObstacles: handler(func(ctx context.Context, s *Session, _ struct{}) ([]Obstacle, error) {
			return s.Obstacles(ctx)
		}),
		kindServeEcho: handler(func(_ context.Context, s *Session, v serving) (uint64, error) {
			server, err := s.serveEcho(v.Transport, v.Port)
			if err != nil {
				return 0, err
			}
			return s.held.keep(server), nil
		}),
		kindWatchFile: handler(func(_ context.Context, s *Session, path string) (uint64, error) {
			w, err := s.watchFile(path)
			if err != nil {
				return 0, err
			}
			return s.held.keep(w), nil
		}),
		kindWriting: handler(func(_ context.Context, s *Session, id uint64) (Writing, error) {
			w, ok := s.held.of(id).(*FileWatch)
			if !ok {
				return Writing{}, fmt.Errorf("there is no watch %d", id)
			}
			return w.Written()
		}),
		kindEnd: handler(func(_ context.Context, s *Session, id uint64) (struct{}, error) {
			return struct{}{}, s.held.end(id)
		}),
		kindKnock: handler(func(ctx context.Context, s *Session, k Knock) (Pong, error) { return s.Knock(ctx, k) }),
		kindFiles: handler(func(ctx context.Context, s *Session, folder string) (map[string]string, error) {
			return s.Files(ctx, folder)
		}),
		kindWriteFile: handler(func(ctx context.Context, s *Session, f file) (struct{}, error) {
			return struct{}{}, s.WriteFile(ctx, f.Path, f.Data)
		}),
		kindRemoveAll: handler(func(ctx context.Context, s *Session, path string) (struct{}, error) {
			return struct{}{}, s.RemoveAll(ctx, path)
		}),
		kindService: handler(func(ctx context.Context, s *Session, v service) (struct{}, error) {
			return struct{}{}, s.Service(ctx, v.Address, v.Pod)
		}),
		kindUnservice: handler(func(ctx context.Context, s *Session, _ struct{}) (struct{}, error) {
			return struct{}{}, s.Unservice(ctx)
		}),
		kindDeleteBridge: handler(func(ctx context.Context, s *Session, name string) (struct{}, error) {
			return struct{}{}, s.DeleteBridge(ctx, name)
		}),
	}
}

// HandlerOf makes a Handler of a function, whose request and answer are plain
// data that JSON can carry.
func HandlerOf[Q, A any](do func(context.Context, Q) (A, error)) Handler {
	return handler(func(ctx context.Context, _ *Session, q Q) (A, error) { return do(ctx, q) })
}

// handler reads a request of its type and has it answered.
func handler[Q, A any](do func(context.Context, *Session, Q) (A, error)) Handler {
	return func(ctx context.Context, s *Session, request json.RawMessage) (any, error) {
		var q Q
		if err := json.Unmarshal(request, &q); err != nil {
			return nil, fmt.Errorf("read the request: %w", err)
		}
		return do(ctx, s, q)
	}
}

// Hop is one step of a traceroute.
type Hop struct {
	TTL int `json:"ttl"`
	// From is who answered; invalid if nobody did.
	From netip.Addr `json:"from,omitzero"`
	Pong Pong       `json:"pong"`
}

// Traceroute pings a destination with growing TTL until it answers, an error
// other than exceeded time comes, or most hops were tried, 30 if zero. p says
// how to ping; its TTL is not used.
func (s *Session) Traceroute(ctx context.Context, p Ping, most int) ([]Hop, error) {
	if most == 0 {
		most = 30
	}
	var hops []Hop
	for ttl := 1; ttl <= most; ttl++ {
		p.TTL, p.Count = ttl, 1
		pong, err := s.Ping(ctx, p)
		if err != nil {
			return hops, err
		}
		h := Hop{TTL: ttl, Pong: pong}
		switch {
		case len(pong.Replies) > 0:
			h.From = pong.Replies[0].From
			return append(hops, h), nil
		case pong.Error != nil:
			h.From = pong.Error.From
			if !pong.Error.exceeded() {
				return append(hops, h), nil
			}
		case pong.Refused != nil:
			return append(hops, h), nil
		}
		hops = append(hops, h)
	}
	return hops, nil
}

// exceeded reports whether the TTL or hop limit has run out on the way (RFC
// 792; RFC 4443 section 3.3).
func (e *ICMPError) exceeded() bool {
	return e.Code == 0 && (e.From.Is4() && e.Type == 11 || e.From.Is6() && e.Type == 3)
}
