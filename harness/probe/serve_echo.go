package probe

import (
	"context"
	"fmt"
	"io"
)

const kindServeEcho = "serve-echo"

// serving is what ServeEcho asks for.
type serving struct {
	Transport Transport `json:"transport"`
	Port      uint16    `json:"port"`
}

// serveFar has the other end of the session serve.
func (s *Session) serveFar(t Transport, port uint16) (io.Closer, error) {
	var id uint64
	if err := s.peer.Ask(context.Background(), kindServeEcho, serving{t, port}, &id); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", kindServeEcho, s.name, err)
	}
	return far{s.peer, id}, nil
}
