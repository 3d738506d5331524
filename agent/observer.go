package agent

import (
	"time"

	"github.com/overlab/overlab/agent/datapath"
)

// The reasons for which the loop looks at the kernel.
const (
	// ReasonLease is the node's own lease, ReasonLeases those of all nodes.
	ReasonLease, ReasonLeases = "lease", "leases"
	// ReasonRepair is that others have changed what the agent owns.
	ReasonRepair = "repair"
	// ReasonRetry is an earlier pass that failed.
	ReasonRetry = "retry"
)

// An Observer is told of what an agent does, as metrics are made of it. Its
// methods are called from several goroutines, and must not block.
type Observer interface {
	// Leases tells how many leases the store holds, the own one and
	// reservations included, and how many keys have a value that cannot be
	// read.
	Leases(known, unreadable int)
	// Entries tells what the kernel ought to hold and what it holds. It must
	// not keep the states.
	Entries(want, have datapath.State)
	// Reconciled tells of a pass that found something to change: why it ran (a
	// Reason), how long after it was known that one is due it was done, what it
	// changed, and what was refused.
	Reconciled(why string, took time.Duration, made []datapath.Change, err error)
	// Repaired tells of what was restored beside the datapath: "firewall" or
	// "subnet_file".
	Repaired(what string)
	// Leased tells when the node's lease ends unless it is renewed; the zero
	// time is never.
	Leased(until time.Time)
	// Renewed tells of an attempt to renew the lease.
	Renewed(err error)
}

// nobody is the Observer of an agent that nobody watches.
type nobody struct{}

func (nobody) Leases(int, int)                                            {}
func (nobody) Entries(_, _ datapath.State)                                {}
func (nobody) Reconciled(string, time.Duration, []datapath.Change, error) {}
func (nobody) Repaired(string)                                            {}
func (nobody) Leased(time.Time)                                           {}
func (nobody) Renewed(error)                                              {}
