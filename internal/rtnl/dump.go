package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// extSkipStats is RTEXT_FILTER_SKIP_STATS of linux/rtnetlink.h.
const extSkipStats = 1 << 3

// errInterrupted says that what a dump read changed meanwhile.
var errInterrupted = errors.New("the kernel's tables changed during the dump")

// dumpAttempts bounds how often an interrupted dump is read again.
const dumpAttempts = 8

// Links returns every link of the namespace.
func (c *Conn) Links() ([]LinkState, error) {
	var links []LinkState
	err := c.dump("links", func(b *Batch) {
		b.begin(unix.RTM_GETLINK, unix.NLM_F_DUMP, ifInfo(0, 0, 0), nil)
		b.attr32(unix.IFLA_EXT_MASK, extSkipStats)
	}, func() { links = nil }, func(m Message) error {
		l, err := m.Link()
		links = append(links, l)
		return err
	})
	return links, err
}

// LinkByName returns one link. Its error is an *Error of ENODEV where there is
// none of that name.
func (c *Conn) LinkByName(name string) (LinkState, error) {
	return c.link(Link{Name: name})
}

// LinkByIndex returns one link, as LinkByName does.
func (c *Conn) LinkByIndex(index int) (LinkState, error) {
	return c.link(Link{Index: index})
}

func (c *Conn) link(l Link) (LinkState, error) {
	var b Batch
	b.begin(unix.RTM_GETLINK, 0, ifInfo(l.Index, 0, 0), func() string { return "link show " + l.label() })
	if l.Name != "" {
		b.attrString(unix.IFLA_IFNAME, l.Name)
	}
	b.attr32(unix.IFLA_EXT_MASK, extSkipStats)
	b.end()
	m, err := c.get(&b)
	if err != nil {
		return LinkState{}, err
	}
	return m.Link()
}

// RouteTo asks the kernel which route a packet to the address takes, as
// "ip route get" does.
func (c *Conn) RouteTo(dst netip.Addr) (RouteState, error) {
	var b Batch
	h := make([]byte, unix.SizeofRtMsg)
	h[0], h[1] = family(dst), byte(dst.BitLen())
	b.begin(unix.RTM_GETROUTE, 0, h, func() string { return "route get " + dst.String() })
	b.attr(unix.RTA_DST, dst.AsSlice())
	b.end()
	m, err := c.get(&b)
	if err != nil {
		return RouteState{}, err
	}
	return m.Route()
}

// Addrs returns the addresses of a family (AF_INET, AF_INET6) on the link, or
// on every link where dev is 0.
func (c *Conn) Addrs(family byte, dev int) ([]AddrState, error) {
	var addrs []AddrState
	err := c.dump("addresses", func(b *Batch) {
		h := make([]byte, unix.SizeofIfAddrmsg)
		h[0] = family
		binary.NativeEndian.PutUint32(h[4:], uint32(dev))
		b.begin(unix.RTM_GETADDR, unix.NLM_F_DUMP, h, nil)
	}, func() { addrs = nil }, func(m Message) error {
		a, err := m.Addr()
		if dev == 0 || a.Dev == dev {
			addrs = append(addrs, a)
		}
		return err
	})
	return addrs, err
}

// Routes returns the main table's routes of a family out of the link, or all
// of them where dev is 0. A route of several hops counts as out of none.
func (c *Conn) Routes(family byte, dev int) ([]RouteState, error) {
	var routes []RouteState
	err := c.dump("routes", func(b *Batch) {
		h := make([]byte, unix.SizeofRtMsg)
		h[0], h[4] = family, unix.RT_TABLE_MAIN
		b.begin(unix.RTM_GETROUTE, unix.NLM_F_DUMP, h, nil)
		if dev != 0 {
			b.attr32(unix.RTA_OIF, uint32(dev))
		}
	}, func() { routes = nil }, func(m Message) error {
		r, err := m.Route()
		if r.Table == unix.RT_TABLE_MAIN && (dev == 0 || r.Dev == dev) {
			routes = append(routes, r)
		}
		return err
	})
	if errors.Is(err, unix.ENOENT) { // the table is made with its first route
		return nil, nil
	}
	return routes, err
}

// Neighs returns the neighbour table of a family on the link; the family
// AF_BRIDGE is the forwarding database.
func (c *Conn) Neighs(family byte, dev int) ([]NeighState, error) {
	var neighs []NeighState
	err := c.dump("neighbours", func(b *Batch) {
		h := make([]byte, 12) // struct ndmsg
		h[0] = family
		b.begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, h, nil)
		b.attr32(unix.NDA_IFINDEX, uint32(dev))
	}, func() { neighs = nil }, func(m Message) error {
		n, err := m.Neigh()
		if n.Dev == dev && n.Family == family {
			neighs = append(neighs, n)
		}
		return err
	})
	return neighs, err
}

// get sends a request for one object and returns it.
func (c *Conn) get(b *Batch) (Message, error) {
	o := b.ops[0]
	if err := c.request(b); err != nil {
		return Message{}, err
	}
	var found Message
	for {
		done := false
		err := c.receive(func(seq uint32, m Message) error {
			switch {
			case seq != c.seq || done:
			case m.Type == unix.NLMSG_ERROR:
				done = true
				if e := refusal(m.raw, o); e != nil {
					return e
				}
				return fmt.Errorf("%s: the kernel answered nothing", o.what())
			default:
				done = true
				found = m.clone()
			}
			return nil
		})
		if err != nil || done {
			return found, err
		}
	}
}

// dump sends the request that ask writes and calls each for every object of
// the answer; reset is called first, and again where the dump must be repeated.
func (c *Conn) dump(what string, ask func(*Batch), reset func(), each func(Message) error) error {
	// Where the kernel can (since 4.20) it then filters by link itself.
	_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	err := errInterrupted
	for i := 0; i < dumpAttempts && errors.Is(err, errInterrupted); i++ {
		var b Batch
		ask(&b)
		b.end()
		reset()
		if err = c.request(&b); err == nil {
			err = c.readDump(each)
		}
	}
	if err != nil {
		return fmt.Errorf("dump %s: %w", what, err)
	}
	return nil
}

// readDump reads up to the dump's end. It reads all of it even after an
// error, so that the next request finds the socket empty.
func (c *Conn) readDump(each func(Message) error) error {
	var errs []error
	for done := false; !done; {
		err := c.receive(func(seq uint32, m Message) error {
			if seq != c.seq || done {
				return nil
			}
			if m.Flags&unix.NLM_F_DUMP_INTR != 0 && len(errs) == 0 {
				errs = append(errs, errInterrupted)
			}
			switch m.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				done = true
				if len(m.Body) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(m.Body)); code < 0 {
						errs = append(errs, unix.Errno(-code))
					}
				}
			default:
				if len(errs) == 0 {
					if err := each(m); err != nil {
						errs = append(errs, err)
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

// request numbers and sends one message.
func (c *Conn) request(b *Batch) error {
	c.seq++
	binary.NativeEndian.PutUint32(b.buf[8:], c.seq)
	if err := unix.Sendto(c.fd, b.buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send rtnetlink request: %w", err)
	}
	return nil
}

// receive reads one datagram and calls fn for each message in it.
func (c *Conn) receive(fn func(seq uint32, m Message) error) error {
	for {
		n, _, err := unix.Recvfrom(c.fd, c.rx, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read rtnetlink answer: %w", err)
		}
		return split(c.rx[:n], fn)
	}
}
