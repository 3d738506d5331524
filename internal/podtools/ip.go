package podtools

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ip shows links, addresses, routes or neighbours, a line for each, in the form
// of iproute2's `ip -o`. It changes nothing.
func ip(_ context.Context, out io.Writer, args []string) error {
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return strings.HasPrefix(a, "-") })
	object := "addr"
	if len(args) > 0 {
		object = args[0]
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	switch {
	case len(args) > 1 && !slices.Contains([]string{"show", "list", "ls"}, args[1]):
	case strings.HasPrefix("link", object):
		return showLinks(out, links)
	case strings.HasPrefix("address", object):
		return showAddresses(out, links)
	case strings.HasPrefix("route", object):
		return showRoutes(out, names)
	case strings.HasPrefix("neighbour", object):
		return showNeighbours(out, names)
	}
	return fmt.Errorf("this is overlab's own, which knows `ip link`, `ip addr`, `ip route` and `ip neigh` alone")
}

func showLinks(out io.Writer, links []netlink.Link) error {
	for _, l := range links {
		a := l.Attrs()
		fmt.Fprintf(out, "%d: %s: <%s> mtu %d state %s link/ether %s\n", a.Index, a.Name,
			strings.ToUpper(strings.ReplaceAll(a.Flags.String(), "|", ",")), a.MTU, strings.ToUpper(a.OperState.String()), a.HardwareAddr)
	}
	return nil
}

func showAddresses(out io.Writer, links []netlink.Link) error {
	for _, l := range links {
		all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list the addresses of %s: %w", l.Attrs().Name, err)
		}
		for _, a := range all {
			family := "inet6"
			if a.IP.To4() != nil {
				family = "inet"
			}
			fmt.Fprintf(out, "%d: %s %s %s scope %s\n", l.Attrs().Index, l.Attrs().Name, family, a.IPNet, netlink.Scope(a.Scope))
		}
	}
	return nil
}

func showRoutes(out io.Writer, names map[int]string) error {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		line := "default"
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				line = r.Dst.String()
			}
		}
		if r.Gw != nil {
			line += " via " + r.Gw.String()
		}
		line += " dev " + names[r.LinkIndex]
		if r.Src != nil {
			line += " src " + r.Src.String()
		}
		fmt.Fprintln(out, line)
	}
	return nil
}

func showNeighbours(out io.Writer, names map[int]string) error {
	all, err := netlink.NeighList(0, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range all {
		if n.State&(unix.NUD_NOARP) == 0 {
			fmt.Fprintf(out, "%s dev %s lladdr %s\n", n.IP, names[n.LinkIndex], n.HardwareAddr)
		}
	}
	return nil
}

// globalAddresses are those of a link that lead beyond it, each after a space.
func globalAddresses(link string) (string, error) {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return "", fmt.Errorf("find %s: %w", link, err)
	}
	all, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return "", fmt.Errorf("list the addresses of %s: %w", link, err)
	}
	text := ""
	for _, a := range all {
		if a.Scope == unix.RT_SCOPE_UNIVERSE {
			text += " " + a.IPNet.String()
		}
	}
	return text, nil
}
