package backend

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/overlab/overlab/agent/lease"
)

// Peer checks what every backend asks of another node's lease, and returns
// where the node is reached. typ is the backend's own BackendType.
func Peer(l lease.Lease, typ string, u Underlay) (netip.Addr, error) {
	ip := l.Attrs.PublicIP
	switch {
	case l.Attrs.BackendType != typ:
		return ip, fmt.Errorf("it is of the backend %s, not %s", l.Attrs.BackendType, typ)
	case !ip.IsValid() || ip.IsUnspecified():
		return ip, errors.New("it has no PublicIP")
	case ip == u.PublicIP:
		return ip, fmt.Errorf("its PublicIP %s is this node's own", ip)
	}
	return ip, nil
}
