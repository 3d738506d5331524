package portmap

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// forgetFlows makes the kernel forget the flows to a target's UDP ports. A
// sender that was there before the pod keeps its flow alive, and with it the
// decision that nobody was to be sent to.
func forgetFlows(t Target) error {
	for _, m := range t.Mappings {
		if m.protocol() != "udp" {
			continue
		}
		for _, pod := range t.Addresses {
			family := netlink.InetFamily(unix.AF_INET)
			if pod.Addr().Is6() {
				family = unix.AF_INET6
			}
			filter := &netlink.ConntrackFilter{}
			err := errors.Join(
				filter.AddProtocol(unix.IPPROTO_UDP),
				filter.AddPort(netlink.ConntrackOrigDstPort, uint16(m.HostPort)))
			if err == nil {
				_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
			}
			if err != nil {
				return fmt.Errorf("forget the flows to port %d/udp: %w", m.HostPort, err)
			}
		}
	}
	return nil
}
