package backend

import (
	"fmt"

	"github.com/overlab/overlab/agent/lease"
)

// Peers returns the leases of other nodes that a backend can serve over IPv4;
// see PeersOf.
func Peers(c *lease.Config, typ string, u Underlay, own lease.Lease, all []lease.Lease, check, accept func(lease.Lease) error) (peers []lease.Lease, problems []string) {
	return PeersOf(lease.IPv4, c, typ, u, own, all, check, accept)
}

// PeersOf returns the leases of other nodes that a backend can serve over one
// of the network's families, and problems, one line each, for those that it
// cannot. typ is the backend's own BackendType. Where that is empty, a lease
// cannot be told from a reservation, and both are served, as flannel does it:
// either says which node's the subnet is. check is what it asks of a lease
// besides, and accept is asked last, of one that will otherwise be served; both
// may be nil.
//
// Each must be inside the network and overlap no other: a subnet from elsewhere
// could be that of the underlay, and its route would replace the node's own.
func PeersOf(f lease.Family, c *lease.Config, typ string, u Underlay, own lease.Lease, all []lease.Lease, check, accept func(lease.Lease) error) (peers []lease.Lease, problems []string) {
	subnets := lease.NewSubnets(c, f)
	_ = subnets.Take(own.Key.Of(f)) // the first, and of this network
	for _, l := range lease.OrdinaryFirst(c, f, all) {
		if l.Key == own.Key || l.Attrs.BackendType == "" && typ != "" || !l.Key.Of(f).IsValid() && len(c.Families()) == 1 {
			continue // ours, a reservation, or of the other family alone
		}
		err := reachable(f, l, typ, u)
		if err == nil && check != nil {
			err = check(l)
		}
		if err == nil {
			err = subnets.Take(l.Key.Of(f))
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
func reachable(f lease.Family, l lease.Lease, typ string, u Underlay) error {
	ip, field := l.Attrs.Public(f), f.PublicField()
	switch {
	case l.Attrs.BackendType != typ && typ == "":
		return fmt.Errorf("it is of the backend %s, and this one's leases name none", l.Attrs.BackendType)
	case l.Attrs.BackendType != typ:
		return fmt.Errorf("it is of the backend %s, not %s", l.Attrs.BackendType, typ)
	case !l.Key.Of(f).IsValid():
		return fmt.Errorf("it has no %s subnet", f)
	case !ip.IsValid() || ip.IsUnspecified():
		return fmt.Errorf("it has no %s", field)
	case f == lease.IPv6 && ip.IsLinkLocalUnicast():
		return fmt.Errorf("its %s %s is link-local, which nobody can send to without naming an interface; give that node a global address", field, ip)
	case !ip.IsGlobalUnicast() && !ip.IsLinkLocalUnicast():
		return fmt.Errorf("its %s %s is not the address of one machine", field, ip)
	case ip == u.Public(f):
		return fmt.Errorf("its %s %s is this node's own", field, ip)
	}
	return nil
}
