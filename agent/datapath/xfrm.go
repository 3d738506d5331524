package datapath

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/rtnl"
)

// ipsecID marks the kernel's IPsec states and policies that agents own: it is
// their reqid. No other program's is ever touched, flanneld's (11) and an IKE
// daemon's, which count from 1, included.
const ipsecID = 0x6f766c // "ovl"

const (
	// replayWindow is how many packets of one association may overtake each
	// other, as several processors let them.
	replayWindow = 1024
	// policyPriority leaves room for a person's own policies on either side.
	policyPriority = 1000
)

// SAKey is the key of an association: 128 bits for AES, and 32 of salt (RFC
// 4106, section 8.1). It never prints.
type SAKey [20]byte

// Format implements fmt.Formatter.
func (SAKey) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("KEY")) }

// SA is one of IPsec's security associations: what packets from Src to Dst are
// encrypted with.
type SA struct {
	Src, Dst netip.Addr
	SPI      uint32
	Key      SAKey
	// Other names in what it is not as the agent makes it: nothing, in every
	// wanted state.
	Other string
}

// saID is what the kernel tells associations apart by.
type saID struct {
	dst netip.Addr
	spi uint32
}

func (s SA) id() saID { return saID{s.Dst, s.SPI} }

// Policy says that packets from Src to Dst travel in ESP, between the tunnel's
// two ends; where there is no association they are dropped.
type Policy struct {
	Dir                  rtnl.Direction
	Src, Dst             netip.Prefix
	TunnelSrc, TunnelDst netip.Addr
	// Other names in what it is not as the agent makes it: nothing, in every
	// wanted state.
	Other string
}

// policyID is what the kernel tells policies apart by.
type policyID struct {
	dir      rtnl.Direction
	src, dst netip.Prefix
}

func (p Policy) id() policyID { return policyID{p.Dir, p.Src, p.Dst} }

func (SA) device() string     { return "" }
func (Policy) device() string { return "" }

func (s SA) command(v Verb) string {
	if v == Delete {
		return fmt.Sprintf("ip xfrm state delete src %s dst %s proto esp spi %#08x", s.Src, s.Dst, s.SPI)
	}
	return fmt.Sprintf("ip xfrm state add src %s dst %s proto esp spi %#08x reqid %d mode tunnel aead 'rfc4106(gcm(aes))' %v 128 flag esn replay-window %d",
		s.Src, s.Dst, s.SPI, ipsecID, s.Key, replayWindow)
}

func (s SA) emit(b *rtnl.Batch, v Verb, _ func(string) int) {
	sa := rtnl.SA{Src: s.Src, Dst: s.Dst, SPI: s.SPI, ReqID: ipsecID, Key: s.Key[:], Window: replayWindow}
	if v == Delete {
		b.DelSA(sa)
		b.Tolerate(unix.ESRCH)
		return
	}
	b.AddSA(sa)
}

func (p Policy) command(v Verb) string {
	if v == Delete {
		return fmt.Sprintf("ip xfrm policy delete src %s dst %s dir %s", p.Src, p.Dst, p.Dir)
	}
	return fmt.Sprintf("ip xfrm policy update src %s dst %s dir %s priority %d tmpl src %s dst %s proto esp reqid %d mode tunnel",
		p.Src, p.Dst, p.Dir, policyPriority, p.TunnelSrc, p.TunnelDst, ipsecID)
}

func (p Policy) emit(b *rtnl.Batch, v Verb, _ func(string) int) {
	policy := rtnl.Policy{
		Dir: p.Dir, Src: p.Src, Dst: p.Dst, TunnelSrc: p.TunnelSrc, TunnelDst: p.TunnelDst, ReqID: ipsecID, Priority: policyPriority,
	}
	if v == Delete {
		b.DelPolicy(policy)
		b.Tolerate(unix.ENOENT)
		return
	}
	b.SetPolicy(policy)
}

// ipsec tells whether a change is made through the IPsec socket.
func (c Change) ipsec() bool {
	switch c.Entry.(type) {
	case SA, Policy:
		return true
	}
	return false
}

// sas compares the associations. Those to the node come before those from it,
// so that no peer's first packet finds none.
func (d *diff) sas(want, have State) {
	order := func(a, b SA) int {
		return cmp.Or(a.Dst.Compare(b.Dst), a.Src.Compare(b.Src), cmp.Compare(a.SPI, b.SPI))
	}
	ours := map[saID]bool{}
	for s := range want.SAs {
		ours[s.id()] = true
	}
	local := map[netip.Addr]bool{} // the node's own ends
	for p := range want.Policies {
		local[p.TunnelDst] = local[p.TunnelDst] || p.Dir == rtnl.In
	}
	var in, out []SA
	for _, s := range missing(want.SAs, have.SAs, order) {
		if local[s.Dst] {
			in = append(in, s)
		} else {
			out = append(out, s)
		}
	}
	d.sa = append(changes(Add, in), changes(Add, out)...)
	for _, s := range missing(have.SAs, want.SAs, order) {
		if ours[s.id()] { // altered: the kernel holds one of an identifier
			d.spoiltSA = append(d.spoiltSA, Change{Delete, s})
		} else {
			d.delSA = append(d.delSA, Change{Delete, s})
		}
	}
}

func (d *diff) policies(want, have State) {
	order := func(a, b Policy) int {
		return cmp.Or(comparePrefix(a.Src, b.Src), comparePrefix(a.Dst, b.Dst), cmp.Compare(a.Dir, b.Dir))
	}
	d.policy = changes(Add, missing(want.Policies, have.Policies, order))
	ours := map[policyID]bool{}
	for p := range want.Policies {
		ours[p.id()] = true
	}
	for _, p := range missing(have.Policies, want.Policies, order) {
		if !ours[p.id()] { // another one of the same selector is replaced
			d.delPolicy = append(d.delPolicy, Change{Delete, p})
		}
	}
}

// dumpIPsec adds the owned associations and policies.
func (s State) dumpIPsec(c *rtnl.Conn) error {
	sas, err := c.SAs()
	if err != nil {
		return err
	}
	for _, sa := range sas {
		if sa.ReqID != ipsecID {
			continue
		}
		out := SA{Src: sa.Src, Dst: sa.Dst, SPI: sa.SPI, Other: sa.Other}
		if copy(out.Key[:], sa.Key) != len(out.Key) || len(sa.Key) != len(out.Key) || sa.Window != replayWindow {
			out.Other += " another key length or replay window"
		}
		s.SAs.Add(out)
	}
	policies, err := c.Policies()
	if err != nil {
		return err
	}
	for _, p := range policies {
		if p.ReqID != ipsecID {
			continue
		}
		out := Policy{Dir: p.Dir, Src: p.Src, Dst: p.Dst, TunnelSrc: p.TunnelSrc, TunnelDst: p.TunnelDst, Other: p.Other}
		if p.Priority != policyPriority {
			out.Other += fmt.Sprintf(" priority %d", p.Priority)
		}
		s.Policies.Add(out)
	}
	return nil
}

// RemoveIPsec removes every state and policy that an agent has left in the
// calling thread's network namespace, and returns how many there were. A
// kernel without IPsec has none.
func RemoveIPsec() (n int, err error) {
	err = withoutIPsec(func(conn *rtnl.Conn, changes []Change) error {
		n = len(changes)
		var b rtnl.Batch
		for _, c := range changes {
			c.emit(&b, nil)
		}
		return conn.Do(&b)
	})
	return n, err
}

// ForetellRemoveIPsec returns the commands of which RemoveIPsec has the effect.
func ForetellRemoveIPsec() (commands []string, err error) {
	err = withoutIPsec(func(_ *rtnl.Conn, changes []Change) error {
		for _, c := range changes {
			commands = append(commands, c.String())
		}
		return nil
	})
	return commands, err
}

// withoutIPsec calls f with the changes that remove what agents have left, on a
// kernel that has IPsec.
func withoutIPsec(f func(*rtnl.Conn, []Change) error) error {
	conn, err := rtnl.DialXFRM()
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is left in it
	have := NewState()
	if err := have.dumpIPsec(conn); err != nil {
		return err
	}
	return f(conn, Diff(NewState(), have))
}

// ProbeESP tries whether the kernel encrypts ESP packets as SA wants it, with
// an association that it adds and deletes at once. The addresses are of
// documentation (RFC 5737).
func ProbeESP() error {
	conn, err := rtnl.DialXFRM()
	if err != nil {
		return err
	}
	defer conn.Close() // nothing is left in it
	probe := SA{Src: netip.AddrFrom4([4]byte{192, 0, 2, 1}), Dst: netip.AddrFrom4([4]byte{192, 0, 2, 2}), SPI: ipsecID}
	var b rtnl.Batch
	probe.emit(&b, Add, nil)
	if err := conn.Do(&b); err != nil {
		return err
	}
	probe.emit(&b, Delete, nil)
	return conn.Do(&b)
}
