// Package probe measures from inside a namespace: pings with the TTL as it
// was received, path MTU, echo servers that tell which address they saw, and
// dumps of the kernel's network state.
//
// Requests and answers are plain data. A Session is opened once a namespace
// and serves every measurement there; it is safe for concurrent use.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/topology"
)

// ErrNotLocal says that a namespace's kernel is not this machine's, or may
// not be entered from here.
var ErrNotLocal = errors.New("the namespace is not on this machine")

// A Session measures inside one namespace.
type Session struct {
	name  string
	local topology.Local
	pings *pinger
	// pings6 is nil where the kernel has no IPv6.
	pings6 *pinger
	state  *dumper
	echo   *echoes
	flows  *flows
	// held is what the session's other end has asked for and not ended.
	held holdings
	// space is the network namespace itself, for whom others ask about it.
	space *os.File
	// peer, where there is one, answers in the place of all of these.
	peer  Peer
	heard func(ctx context.Context, kind string, request, answer any, err error)
	// clock is what Clock has found.
	clock struct {
		sync.Mutex
		known         bool
		ahead, within time.Duration
	}
}

// Open opens a session. The error wraps ErrNotLocal where the namespace
// cannot be entered from this process.
func Open(ctx context.Context, ns topology.Namespace) (*Session, error) {
	local, ok := ns.(topology.Local)
	if !ok {
		return nil, fmt.Errorf("open probe session in %s: %w", ns.Name(), ErrNotLocal)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open probe session in %s: %w", ns.Name(), err)
	}
	s := &Session{name: ns.Name(), local: local}
	// One entry into the namespace opens every socket; from then on any
	// thread may use them.
	err := local.Do(func() error {
		var err error
		if s.space, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if s.pings, err = newPinger(icmp4); err != nil {
			return err
		}
		if s.pings6, err = newPinger(icmp6); err != nil && !errors.Is(err, unix.EAFNOSUPPORT) {
			return err
		}
		if s.state, err = newDumper(); err != nil {
			return err
		}
		if s.echo, err = newEchoes(local); err != nil {
			return err
		}
		s.flows, err = newFlows()
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open probe session in %s: %w", s.name, err), s.Close())
	}
	s.pings.start()
	if s.pings6 != nil {
		s.pings6.start()
	}
	s.echo.start()
	s.flows.start()
	return s, nil
}

// Name returns the namespace's name.
func (s *Session) Name() string { return s.name }

// Close ends the session, its servers and what still waits for an answer.
func (s *Session) Close() error {
	errs := []error{s.held.close()}
	if s.space != nil {
		errs = append(errs, s.space.Close())
	}
	if s.pings != nil {
		errs = append(errs, s.pings.close())
	}
	if s.pings6 != nil {
		errs = append(errs, s.pings6.close())
	}
	if s.state != nil {
		s.state.close()
	}
	if s.echo != nil {
		errs = append(errs, s.echo.close())
	}
	if s.flows != nil {
		errs = append(errs, s.flows.close())
	}
	if s.peer != nil {
		errs = append(errs, s.peer.Close())
	}
	return errors.Join(errs...)
}

// maxFile bounds what ReadFile returns: it is for small configuration files.
const maxFile = 1 << 20

// ReadFile reads a file as the namespace sees it, its own mounts included; at
// most 1 MiB of it.
func (s *Session) ReadFile(ctx context.Context, path string) ([]byte, error) {
	return ask(ctx, s, kindReadFile, path, func() ([]byte, error) { return s.readFile(ctx, path) })
}

func (s *Session) readFile(ctx context.Context, path string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var data []byte
	err := s.local.Do(func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		data, err = io.ReadAll(io.LimitReader(f, maxFile))
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("read file in %s: %w", s.name, err)
	}
	return data, nil
}
