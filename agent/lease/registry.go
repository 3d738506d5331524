package lease

import (
	"context"
	"net/netip"
)

// Self is what a store knows of a node that has no lease yet.
type Self struct {
	// Key are the subnets that the store has assigned to the node.
	Key Key
	// PublicIP and PublicIPv6 are the addresses that the node is to use for its
	// overlay; unset where the node chooses.
	PublicIP, PublicIPv6 netip.Addr
	// Shown and ShownV6 are the addresses that the store publishes in place of
	// those which the node uses; unset where it publishes the latter.
	Shown, ShownV6 netip.Addr
	// Attrs are what the node published last; the zero value where that is
	// nothing, or cannot be read.
	Attrs Attrs
}

// A Registry is a Store that knows its nodes, and assigns their subnets, before
// they ask for a lease.
type Registry interface {
	// Self returns what is known of this node. Its error says what the store
	// still lacks, or what of it contradicts the network's configuration.
	Self(ctx context.Context, c *Config) (Self, error)
}

// An Announcer is a Store that tells others than the peers when a node's pods
// can be reached, such as a scheduler.
type Announcer interface {
	// Announce says so of this node. To say it again changes nothing.
	Announce(ctx context.Context) error
}
