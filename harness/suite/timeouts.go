package suite

import "time"

// Timeouts is the one table of how long things may take. Nothing waits for
// the whole of it: all waiting is polling.
type Timeouts struct {
	// Reply is how long one request's answer may take, and Tries how often a
	// request is sent before it counts as unanswered.
	Reply time.Duration
	Tries int
	// Sentinel is how long a capture may take to see its own end.
	Sentinel time.Duration
	// Store is how long reading the leases may take.
	Store time.Duration
	// Restart is how long an agent may take to end and be ready again.
	Restart time.Duration
	// Machine is how long a node's machine may take to restart, and its pods to
	// come back.
	Machine time.Duration
	// Converge is how long the lab may take to follow a change.
	Converge time.Duration
	// Outage is for how long checks take away what the lab must do without.
	Outage time.Duration
	// Check is how long one check may take in all, an outage left out.
	Check time.Duration
}

// DefaultTimeouts suit an idle machine with room to spare.
func DefaultTimeouts() Timeouts {
	return Timeouts{
		Reply: 400 * time.Millisecond, Tries: 3,
		Sentinel: 2 * time.Second,
		Store:    5 * time.Second,
		Restart:  10 * time.Second,
		Machine:  45 * time.Second,
		Converge: 5 * time.Second,
		Outage:   2 * time.Second,
		Check:    60 * time.Second,
	}
}

// Scale returns the table with every duration multiplied, for slow machines;
// an outage is no longer there.
func (t Timeouts) Scale(by float64) Timeouts {
	for _, d := range []*time.Duration{&t.Reply, &t.Sentinel, &t.Store, &t.Restart, &t.Machine, &t.Converge, &t.Check} {
		*d = time.Duration(float64(*d) * by)
	}
	return t
}
