package agent

import (
	"context"
	"time"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/underlay"
)

// introduce asks the store for this node, and waits until it has given it a
// subnet.
func (a *Agent) introduce(ctx context.Context, config *lease.Config) (lease.Self, error) {
	retry := backoff{first: 20 * time.Millisecond, last: 2 * time.Second}
	said := ""
	for {
		self, err := a.self(ctx, config)
		if err == nil {
			return self, nil
		}
		if ctx.Err() != nil {
			return self, ctx.Err()
		}
		a.status.set(topicLease, err)
		if err.Error() != said {
			said = err.Error()
			a.Log.Warn("the node has no subnet yet; trying again", "err", err)
		}
		if !retry.wait(ctx) {
			return self, ctx.Err()
		}
	}
}

// self asks a store that knows its nodes what it knows of this one. The length
// of its subnets counts for what the backend owns, not the one that the
// configuration would allocate by.
func (a *Agent) self(ctx context.Context, config *lease.Config) (lease.Self, error) {
	r, ok := a.Store.(lease.Registry)
	if !ok {
		return lease.Self{}, nil
	}
	self, err := r.Self(ctx, config)
	if err != nil {
		return self, err
	}
	if self.Key.Subnet.IsValid() {
		config.SubnetLen = self.Key.Subnet.Bits()
	}
	if self.Key.Subnet6.IsValid() {
		config.IPv6SubnetLen = self.Key.Subnet6.Bits()
	}
	a.Log.Info("the store has assigned a subnet", "subnet", self.Key)
	return self, nil
}

// instructed replaces the addresses of the flags by those that the store tells
// the node to use, as flannel does.
func instructed(o underlay.Options, self lease.Self) underlay.Options {
	if self.PublicIP.IsValid() {
		o.PublicIP = self.PublicIP
	}
	if self.PublicIPv6.IsValid() {
		o.PublicIPv6 = self.PublicIPv6
	}
	return o
}
