package probe

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// PathMTU is the largest packet that reaches a destination unfragmented.
type PathMTU struct {
	// MTU in bytes of the IP packet; 0 where not even the smallest passed.
	MTU int `json:"mtu"`
	// Named is who named the MTU: an address, or unset where it was the
	// namespace's own kernel.
	Named netip.Addr `json:"named,omitzero"`
	// BlackHole says that packets above MTU vanish without an error, so that
	// it was found by search.
	BlackHole bool `json:"blackHole,omitempty"`
	// Probes counts the sizes that were tried.
	Probes int `json:"probes"`
}

// String says what was found, and how.
func (m *PathMTU) String() string {
	switch {
	case m.BlackHole:
		return fmt.Sprintf("%d bytes, and more vanishes", m.MTU)
	case m.Named.IsValid():
		return fmt.Sprintf("%d bytes, named by %s", m.MTU, m.Named)
	}
	return fmt.Sprintf("%d bytes, named by its own kernel", m.MTU)
}

// PathMTU finds the path MTU towards dst with don't-fragment pings of at most
// limit bytes (65535 if zero): it believes errors that name an MTU and
// searches where there are none. wait is how long each ping may take.
func (s *Session) PathMTU(ctx context.Context, dst netip.Addr, limit int, wait time.Duration) (PathMTU, error) {
	if limit == 0 {
		limit = maxSize
	}
	var m PathMTU
	passes, fails, size := 0, limit+1, limit
	for size > passes && size < fails {
		m.Probes++
		pong, err := s.Ping(ctx, Ping{Dst: dst, Size: size, DF: true, Wait: wait, Tries: 2})
		if err != nil {
			return m, err
		}
		named, by := pong.namedMTU()
		switch {
		case len(pong.Replies) > 0:
			passes = size
		case named > passes && named < size:
			fails, m.Named, m.BlackHole = named+1, by, false
			size = named
			continue
		default:
			fails, m.BlackHole = size, true
		}
		size = max((passes+fails)/2, icmpOf(dst).smallest())
	}
	m.MTU = passes
	return m, nil
}

// namedMTU returns the MTU that an error named, and whose error it was.
func (p *Pong) namedMTU() (int, netip.Addr) {
	switch {
	case p.Refused != nil:
		return p.Refused.MTU, netip.Addr{}
	case p.Error != nil:
		return p.Error.MTU, p.Error.From
	}
	return 0, netip.Addr{}
}
