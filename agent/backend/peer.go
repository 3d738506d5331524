package backend

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/agent/lease"
)

// Peers returns the leases of other nodes that a backend can serve, and
// problems, one line each, for those that it cannot. typ is the backend's own
// BackendType. Where that is empty, a lease cannot be told from a reservation,
// and both are served, as flannel does it: either says which node's the subnet
// is. check is what it asks of a lease besides, and accept is asked
// last, of one that will otherwise be served; both may be nil.
//
// Each must be inside the Network and overlap no other: a subnet from elsewhere
// could be that of the underlay, and its route would replace the node's own.
func Peers(c *lease.Config, typ string, u Underlay, own lease.Lease, all []lease.Lease, check, accept func(lease.Lease) error) (peers []lease.Lease, problems []string) {
	subnets := lease.NewSubnets(c)
	_ = subnets.Take(own.Key.Subnet) // the first, and of this Network
	for _, l := range lease.OrdinaryFirst(c, all) {
		if l.Key == own.Key || l.Attrs.BackendType == "" && typ != "" || !l.Key.Subnet.IsValid() {
			continue // ours, a reservation, or IPv6 alone
		}
		err := reachable(l.Attrs, typ, u)
		if err == nil && check != nil {
			err = check(l)
		}
		if err == nil {
			err = subnets.Take(l.Key.Subnet)
		}
		if err == nil && accept != nil {
			err = accept(l)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("lease %s: %v", l.Key, err))
			continue
		}
		peers = append(peers, l)
	}
	return peers, problems
}

// reachable checks what says how a node is reached.
func reachable(a lease.Attrs, typ string, u Underlay) error {
	ip := a.PublicIP
	switch {
	case a.BackendType != typ && typ == "":
		return fmt.Errorf("it is of the backend %s, and this one's leases name none", a.BackendType)
	case a.BackendType != typ:
		return fmt.Errorf("it is of the backend %s, not %s", a.BackendType, typ)
	case !ip.IsValid() || ip == netip.IPv4Unspecified():
		return errors.New("it has no PublicIP")
	case !ip.IsGlobalUnicast() && !ip.IsLinkLocalUnicast():
		return fmt.Errorf("its PublicIP %s is not the address of one machine", ip)
	case ip == u.PublicIP:
		return fmt.Errorf("its PublicIP %s is this node's own", ip)
	}
	return nil
}
