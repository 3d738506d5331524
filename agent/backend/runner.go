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

// Foreteller is what a Runner also is that can say what it would do.
type Foreteller interface {
	Runner
	// Foresee is called in place of Prepare, and changes nothing: Data is then
	// as it would be.
	Foresee() error
	// Foretell returns what Prepare and Follow would do, as shell commands, and
	// does none of it.
	Foretell(own lease.Lease, all []lease.Lease) ([]string, error)
}

// Loser is what a Runner also is where what Follow has made can be lost without
// a change of the leases, as a process is that ends.
type Loser interface {
	// Lost receives when that has happened: Follow is called again at once, and
	// the node is not ready until it succeeds.
	Lost() <-chan struct{}
}

// Verifier is what a Runner also is whose work others can undo without anybody
// being told of it.
type Verifier interface {
	Runner
	// Verify says in what the node is not as Follow makes it for these leases,
	// and changes nothing. It must be quick: it is called every half second, and
	// whenever somebody asks whether the node is ready.
	Verify(ctx context.Context, own lease.Lease, all []lease.Lease) error
	// Disturbed tells that one of the backend's devices was changed and has been
	// repaired. It is called before Verify, which says no if that lost anything
	// which Follow makes.
	Disturbed()
}
