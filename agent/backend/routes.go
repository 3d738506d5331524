package backend

import (
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

// BareRoutes says which routes out of the underlay interface belong to a
// backend that leads packets to other nodes' pods without a tunnel.
func BareRoutes(c *lease.Config, u Underlay) datapath.BareRoutes {
	return datapath.BareRoutes{
		Dev: u.Name, Network: c.Network, Len: c.SubnetLen, Network6: c.IPv6Network, Len6: c.IPv6SubnetLen,
	}
}

// Contested are the destinations for which a backend looks for rivals of its
// IPv6 routes: all nodes' subnets.
func Contested(c *lease.Config) datapath.Destinations {
	return datapath.Destinations{Network: c.IPv6Network, Len: c.IPv6SubnetLen}
}
