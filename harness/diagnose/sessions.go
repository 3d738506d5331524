package diagnose

import (
	"context"
	"sync"

	"github.com/overlab/overlab/harness/probe"
)

// cache opens each session once.
type cache struct {
	open Sessions
	mu   sync.Mutex
	made map[string]*cached
}

type cached struct {
	mu      sync.Mutex
	session *probe.Session
}

func newCache(open Sessions) *cache { return &cache{open: open, made: map[string]*cached{}} }

// Session implements Sessions.
func (c *cache) Session(ctx context.Context, name string) (*probe.Session, error) {
	c.mu.Lock()
	one := c.made[name]
	if one == nil {
		one = new(cached)
		c.made[name] = one
	}
	c.mu.Unlock()
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.session != nil {
		return one.session, nil
	}
	s, err := c.open.Session(ctx, name)
	if err == nil {
		one.session = s
	}
	return s, err
}
