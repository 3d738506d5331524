package probe

import (
	"context"
	"fmt"
	"time"
)

// kindClock asks for the time at the other end.
const kindClock = "clock"

// clockTries is how often the time is asked: the quickest answer says most.
const clockTries = 4

// Clock returns by how much the clock of the session's machine is ahead of this
// one's, and within what: half of what the quickest of some questions took. Both
// are zero where the session measures in this process. Of two machines the
// times of what passed between them can be compared no better than that.
func (s *Session) Clock(ctx context.Context) (ahead, within time.Duration, err error) {
	if s.peer == nil {
		return 0, 0, nil
	}
	s.clock.Lock()
	defer s.clock.Unlock()
	if s.clock.known {
		return s.clock.ahead, s.clock.within, nil
	}
	for i := range clockTries {
		var there time.Time
		asked := time.Now()
		if err := s.peer.Ask(ctx, kindClock, struct{}{}, &there); err != nil {
			return 0, 0, fmt.Errorf("ask %s for the time: %w", s.name, err)
		}
		half := time.Since(asked) / 2
		if i == 0 || half < within {
			// Of monotonic clocks two machines have nothing in common.
			ahead, within = there.Sub(asked.Add(half).Round(0)), half
		}
	}
	s.clock.known, s.clock.ahead, s.clock.within = true, ahead, within
	return ahead, within, nil
}
