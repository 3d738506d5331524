package probe

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"
)

// kindServeEcho begins a server at the other end of a session, and kindEndEcho
// ends it by its number.
const (
	kindServeEcho = "serve-echo"
	kindEndEcho   = "end-echo"
)

// serving is what ServeEcho asks for.
type serving struct {
	Transport Transport `json:"transport"`
	Port      uint16    `json:"port"`
}

// servers are those that a session holds for its other end, by number.
type servers struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]io.Closer
}

func (v *servers) keep(c io.Closer) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open == nil {
		v.open = map[uint64]io.Closer{}
	}
	v.last++
	v.open[v.last] = c
	return v.last
}

// end closes a server; one that is closed already is none.
func (v *servers) end(id uint64) error {
	v.mu.Lock()
	c := v.open[id]
	delete(v.open, id)
	v.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// serveFar has the other end of the session serve.
func (s *Session) serveFar(t Transport, port uint16) (io.Closer, error) {
	var id uint64
	if err := s.peer.Ask(context.Background(), kindServeEcho, serving{t, port}, &id); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", kindServeEcho, s.name, err)
	}
	return farServer{s.peer, id}, nil
}

// farServer is a server at the other end.
type farServer struct {
	peer Peer
	id   uint64
}

// Close implements io.Closer.
func (f farServer) Close() error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f.peer.Ask(ctx, kindEndEcho, f.id, &struct{}{})
}
