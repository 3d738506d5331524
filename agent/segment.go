package agent

import (
	"net/netip"

	"github.com/overlab/overlab/internal/rtnl"
)

// segment tells which addresses are on the underlay interface's own segment:
// those to which the kernel has a route out of that interface without a
// gateway, as flannel decides it (pkg/ip/iface.go, DirectRouting).
type segment struct {
	conn *rtnl.Conn
	// dev is the interface's name.
	dev string
	// known are answers that hold until forget.
	known map[netip.Addr]bool
}

// newSegment opens a socket in the calling thread's network namespace.
func newSegment(dev string) (*segment, error) {
	conn, err := rtnl.Dial()
	if err != nil {
		return nil, err
	}
	return &segment{conn: conn, dev: dev, known: map[netip.Addr]bool{}}, nil
}

// adjacent reports whether an address is on the segment. It is for one
// goroutine at a time.
func (s *segment) adjacent(a netip.Addr) bool {
	answer, ok := s.known[a]
	if !ok {
		answer = s.ask(a)
		s.known[a] = answer
	}
	return answer
}

func (s *segment) ask(a netip.Addr) bool {
	r, err := s.conn.RouteTo(a)
	if err != nil || r.Via.IsValid() {
		return false // unreachable, or behind a gateway
	}
	link, err := s.conn.LinkByName(s.dev)
	return err == nil && r.Dev == link.Index
}

// forget drops the answers: the node's interfaces or routes have changed.
func (s *segment) forget() { clear(s.known) }

func (s *segment) close() error { return s.conn.Close() }
