package probe

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// A Monitor tells until when a namespace's state was wrong: it looks at the
// state whenever the kernel notifies of a change. It is subscribed before the
// change that it is to follow, so that none is missed.
type Monitor struct {
	session *Session
	l       *rtnl.Listener
	changed chan struct{}
}

// Monitor subscribes to the namespace's links, addresses, routes, neighbours
// and forwarding entries. The caller closes it.
func (s *Session) Monitor() (*Monitor, error) {
	m := &Monitor{session: s, changed: make(chan struct{}, 1)}
	err := s.local.Do(func() (err error) {
		m.l, err = rtnl.Listen(unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("watch the kernel in %s: %w", s.name, err)
	}
	go m.wait()
	return m, nil
}

// Close ends the subscription.
func (m *Monitor) Close() error { return m.l.Close() }

// wait turns notifications into signals. Which they were, and whether some were
// lost, does not matter: each is followed by a look at everything.
func (m *Monitor) wait() {
	for m.l.Wait() == nil {
		_ = m.l.Drain(func(rtnl.Message) error { return nil })
		select {
		case m.changed <- struct{}{}:
		default:
		}
	}
}

// Until looks at the state now, and again with every notification, until wrong
// answers with nothing. It returns when the state was seen to be right, which
// is later than when it became so, by one dump. The error says what was wrong
// when ctx ended.
func (m *Monitor) Until(ctx context.Context, wrong func(*State) string) (time.Time, error) {
	for {
		select {
		case <-m.changed: // what it tells of is in the dump that follows
		default:
		}
		st, err := m.session.dump(ctx)
		if err != nil {
			return time.Time{}, err
		}
		seen, what := time.Now(), wrong(st)
		if what == "" {
			return seen, nil
		}
		select {
		case <-m.changed:
		case <-ctx.Done():
			return time.Time{}, fmt.Errorf("%s: %s: %w", m.session.name, what, context.Cause(ctx))
		}
	}
}
