package probe

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// kindEnd ends, by its number, what a session holds for its other end.
const kindEnd = "end"

// holdings are what a session holds for its other end, by number: echo servers,
// watches of files.
type holdings struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]io.Closer
}

func (v *holdings) keep(c io.Closer) uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open == nil {
		v.open = map[uint64]io.Closer{}
	}
	v.last++
	v.open[v.last] = c
	return v.last
}

// of returns what has the number, nil where that has been ended.
func (v *holdings) of(id uint64) io.Closer {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.open[id]
}

// end closes what has the number; what is closed already is none.
func (v *holdings) end(id uint64) error {
	v.mu.Lock()
	c := v.open[id]
	delete(v.open, id)
	v.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.Close()
}

// close ends all of it.
func (v *holdings) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for id, c := range v.open {
		errs = append(errs, c.Close())
		delete(v.open, id)
	}
	return errors.Join(errs...)
}

// far is something that the other end of a session holds.
type far struct {
	peer Peer
	id   uint64
}

// Close implements io.Closer.
func (f far) Close() error {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return f.peer.Ask(ctx, kindEnd, f.id, &struct{}{})
}
