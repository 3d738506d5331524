// Package portmap answers at ports of the node for pods: the "portMappings"
// capability of the CNI conventions (CONVENTIONS.md, "Well-known
// Capabilities"), with the effect of the portmap plugin.
//
// The rules are nftables', in one table a network, written by netlink without
// any program. Whatever is sent to a mapped port of one of the node's own
// addresses goes to the pod, be it from another node, from the node itself,
// also by 127.0.0.1, from another pod or from the pod. Only where the answer
// would miss the node on its way back is the sender's address hidden behind
// the node's: from pods of the same bridge, and from 127.0.0.1.
package portmap

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mapping is one port of the node that leads to a pod, with the keys of the
// CNI conventions.
type Mapping struct {
	// HostPort and ContainerPort are 1 to 65535.
	HostPort      int `json:"hostPort"`
	ContainerPort int `json:"containerPort"`
	// Protocol is tcp, udp or sctp, in either case; empty is tcp.
	Protocol string `json:"protocol,omitempty"`
	// HostIP is the one address of the node that answers; empty, 0.0.0.0 and
	// :: are all of them.
	HostIP string `json:"hostIP,omitempty"`
}

// protocols are the IANA numbers of what has ports.
var protocols = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

func (m Mapping) protocol() string {
	if m.Protocol == "" {
		return "tcp"
	}
	return strings.ToLower(m.Protocol)
}

// Validate says what is wrong with mappings, each by its place in the list,
// and which of them ask for one port.
func Validate(mappings []Mapping) error {
	var errs []error
	var seen []port
	for i, m := range mappings {
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("portMappings[%d]: "+format, append([]any{i}, args...)...))
		}
		for _, p := range []struct {
			key    string
			number int
		}{{"hostPort", m.HostPort}, {"containerPort", m.ContainerPort}} {
			if p.number < 1 || p.number > 65535 {
				fail("%s %d is not within 1 and 65535", p.key, p.number)
			}
		}
		if protocols[m.protocol()] == 0 {
			fail("protocol %q is none of tcp, udp and sctp", m.Protocol)
		}
		asked, err := m.port()
		if err != nil {
			fail("hostIP: %w", err)
			continue
		}
		for _, other := range seen {
			if asked.clashes(other) {
				fail("host port %s is in the list already", asked)
			}
		}
		seen = append(seen, asked)
	}
	return errors.Join(errs...)
}

// port is what a mapping occupies on the node.
type port struct {
	ip       netip.Addr // invalid for all addresses
	number   int
	protocol string
}

func (m Mapping) port() (port, error) {
	p := port{number: m.HostPort, protocol: m.protocol()}
	if m.HostIP == "" {
		return p, nil
	}
	ip, err := netip.ParseAddr(m.HostIP)
	if err != nil {
		return p, err
	}
	if ip = ip.Unmap(); !ip.IsUnspecified() {
		p.ip = ip
	}
	return p, nil
}

// clashes tells whether one packet could be meant for both.
func (p port) clashes(o port) bool {
	return p.number == o.number && p.protocol == o.protocol &&
		(p.ip == o.ip || !p.ip.IsValid() || !o.ip.IsValid())
}

// String gives 8080/tcp, or 172.16.1.8:8080/tcp.
func (p port) String() string {
	number := strconv.Itoa(p.number)
	if p.ip.IsValid() {
		number = netip.AddrPortFrom(p.ip, uint16(p.number)).String()
	}
	return number + "/" + p.protocol
}

// parsePort reads what String wrote.
func parsePort(s string) (port, error) {
	number, protocol, _ := strings.Cut(s, "/")
	if n, err := strconv.Atoi(number); err == nil {
		return port{number: n, protocol: protocol}, nil
	}
	ap, err := netip.ParseAddrPort(number)
	return port{ap.Addr(), int(ap.Port()), protocol}, err
}

// An Owner is the attachment that a mapping is for.
type Owner struct{ ContainerID, IfName string }

func (o Owner) String() string { return o.ContainerID + " " + o.IfName }

// A Target is a pod and the ports that lead to it.
type Target struct {
	Owner
	// Addresses are the pod's, at most one a family, with the length of the
	// bridge's subnet.
	Addresses []netip.Prefix
	Mappings  []Mapping
}
