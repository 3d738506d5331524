package agent

import (
	"context"
	"time"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/underlay"
)

// introduce asks a store that knows its nodes what it knows of this one, and
// waits until it has given it a subnet. The length of that counts for what the
// backend owns, not the one that the configuration would allocate by.
func (a *Agent) introduce(ctx context.Context, config *lease.Config) (lease.Self, error) {
	r, ok := a.Store.(lease.Registry)
	if !ok {
		return lease.Self{}, nil
	}
	retry := backoff{first: 20 * time.Millisecond, last: 2 * time.Second}
	said := ""
	for {
		self, err := r.Self(ctx, config)
		if err == nil {
			if self.Key.Subnet.IsValid() {
				config.SubnetLen = self.Key.Subnet.Bits()
			}
			a.Log.Info("the store has assigned a subnet", "subnet", self.Key)
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

// instructed replaces the addresses of the flags by those that the store tells
// the node to use, as flannel does.
func instructed(o underlay.Options, self lease.Self) underlay.Options {
	if self.PublicIP.IsValid() {
		o.PublicIP = self.PublicIP
	}
	return o
}
