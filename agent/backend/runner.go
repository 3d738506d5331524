package backend

import (
	"context"

	"github.com/overlab/overlab/agent/lease"
)

// Runner is what a Backend also is that does its work by other means than the
// wanted state of the kernel, such as commands.
type Runner interface {
	// Prepare is called once, before Data and before the node has a lease. Its
	// error ends the agent, and leaves no lease.
	Prepare(ctx context.Context) error
	// Follow makes the node as the leases say. It is called with every change
	// of them, and again a while after it has failed, one call at a time; all
	// may hold the own lease and reservations. It may take long. The node is
	// not ready until it succeeds.
	Follow(ctx context.Context, own lease.Lease, all []lease.Lease) error
}

// Loser is what a Runner also is where what Follow has made can be lost without
// a change of the leases, as a process is that ends.
type Loser interface {
	// Lost receives when that has happened: Follow is called again at once, and
	// the node is not ready until it succeeds.
	Lost() <-chan struct{}
}
