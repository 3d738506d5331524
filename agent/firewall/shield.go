package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Shield keeps others than the overlay's nodes from putting packets into its
// tunnel: a UDP port takes what anybody sends to it (RFC 7348, section 7). It is
// an nftables table whichever carries the other rules: there, a drop is final
// and needs no place among the rules of others. The zero Shield is none.
type Shield struct {
	// Port is the tunnel's UDP port, Underlay the interface that nodes' packets
	// come by.
	Port     uint16
	Underlay string
	// Peers are the other nodes' outer addresses, sorted, of both families.
	Peers []netip.Addr
}

const (
	shieldName = "flannel-harden"
	// nodes4 and nodes6 are the sets of the peers' addresses.
	nodes4, nodes6 = "nodes4", "nodes6"
)

// Equal reports whether two shields let the same packets in.
func (s Shield) Equal(o Shield) bool {
	return s.Port == o.Port && s.Underlay == o.Underlay && slices.Equal(s.Peers, o.Peers)
}

func shieldTable() *nft.Table { return &nft.Table{Name: shieldName, Family: nft.TableFamilyINet} }

// shieldChain is a chain of the shield; each rule has its words in nft(8).
type shieldChain struct {
	chain nft.Chain
	hook  string
	rules []shieldRule
}

type shieldRule struct {
	words string
	exprs []expr.Any
}

// chains are those of the table. They come before the rules of others that
// accept, in either chain.
func (s Shield) chains() []shieldChain {
	policy, priority := nft.ChainPolicyAccept, nft.ChainPriority(-10)
	base := func(name string, hook *nft.ChainHook) nft.Chain {
		return nft.Chain{Name: name, Type: nft.ChainTypeFilter, Hooknum: hook, Priority: &priority, Policy: &policy}
	}
	iface := append([]byte(s.Underlay), make([]byte, unix.IFNAMSIZ-len(s.Underlay))...)
	by := func(op expr.CmpOp) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: register}, &expr.Cmp{Op: op, Register: register, Data: iface}}
	}
	toPort := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{unix.IPPROTO_UDP}},
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binary.BigEndian.AppendUint16(nil, s.Port)},
	}
	from := func(f family, proto byte, set string) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: register},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: []byte{proto}},
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: f.src, Len: f.size},
			&expr.Lookup{SourceRegister: register, SetName: set},
		}
	}
	accepts, drops := []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	port := fmt.Sprintf("udp dport %d", s.Port)
	return []shieldChain{
		{base("input", nft.ChainHookInput), "input", []shieldRule{
			{fmt.Sprintf("iifname %q %s ip saddr @%s accept", s.Underlay, port, nodes4), slices.Concat(by(expr.CmpOpEq), toPort, from(ipv4, unix.NFPROTO_IPV4, nodes4), accepts)},
			{fmt.Sprintf("iifname %q %s ip6 saddr @%s accept", s.Underlay, port, nodes6), slices.Concat(by(expr.CmpOpEq), toPort, from(ipv6, unix.NFPROTO_IPV6, nodes6), accepts)},
			{port + " drop", slices.Concat(toPort, drops)},
		}},
		// What pods send to other nodes: masqueraded, it would be a node's.
		{base("forward", nft.ChainHookForward), "forward", []shieldRule{
			{fmt.Sprintf("iifname != %q %s drop", s.Underlay, port), slices.Concat(by(expr.CmpOpNeq), toPort, drops)},
		}},
	}
}

// shieldSet is one of the sets, with what is to be in it.
type shieldSet struct {
	*nft.Set
	word  string
	peers []netip.Addr
}

func (s Shield) sets() []shieldSet {
	out := []shieldSet{
		{Set: &nft.Set{Table: shieldTable(), Name: nodes4, KeyType: nft.TypeIPAddr}, word: "ipv4_addr"},
		{Set: &nft.Set{Table: shieldTable(), Name: nodes6, KeyType: nft.TypeIP6Addr}, word: "ipv6_addr"},
	}
	for _, p := range s.Peers {
		k := 0
		if p.Is6() {
			k = 1
		}
		out[k].peers = append(out[k].peers, p)
	}
	return out
}

// Ensure makes the kernel's table that of the shield, in one step, and reports
// whether that took a change.
func (s Shield) Ensure(context.Context) (changed bool, err error) {
	conn, err := nft.New(nft.AsLasting())
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing was left in it
	intact, err := s.intact(conn)
	if err != nil || intact {
		return false, err
	}
	// First make sure that there is a table to delete.
	t := shieldTable()
	conn.AddTable(t)
	conn.DelTable(t)
	if s.Port != 0 {
		conn.AddTable(t)
		if err := s.add(conn, t); err != nil {
			return true, err
		}
	}
	if err := conn.Flush(); err != nil {
		return true, fmt.Errorf("write table %s: %w", shieldName, err)
	}
	return true, nil
}

func (s Shield) add(conn *nft.Conn, t *nft.Table) error {
	for _, set := range s.sets() {
		var elements []nft.SetElement
		for _, p := range set.peers {
			elements = append(elements, nft.SetElement{Key: p.AsSlice()})
		}
		set.Table = t
		if err := conn.AddSet(set.Set, elements); err != nil {
			return fmt.Errorf("write set %s of table %s: %w", set.Name, shieldName, err)
		}
	}
	for _, c := range s.chains() {
		chain := c.chain
		chain.Table = t
		conn.AddChain(&chain)
		for _, r := range c.rules {
			conn.AddRule(&nft.Rule{Table: t, Chain: &chain, Exprs: r.exprs})
		}
	}
	return nil
}

// intact compares the kernel's table with the wanted one.
func (s Shield) intact(conn *nft.Conn) (bool, error) {
	t, err := conn.ListTableOfFamily(shieldName, nft.TableFamilyINet)
	if errors.Is(err, unix.ENOENT) || err == nil && t == nil {
		return s.Port == 0, nil
	}
	if err != nil {
		return false, fmt.Errorf("read table %s: %w", shieldName, err)
	}
	if s.Port == 0 {
		return false, nil
	}
	for _, set := range s.sets() {
		same, err := set.intact(conn, t)
		if err != nil || !same {
			return false, err
		}
	}
	all, err := conn.ListChainsOfTableFamily(nft.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("read the chains of table %s: %w", shieldName, err)
	}
	present := map[string]*nft.Chain{}
	for _, c := range all {
		if c.Table.Name == shieldName {
			present[c.Name] = c
		}
	}
	want := s.chains()
	if len(present) != len(want) {
		return false, nil
	}
	for _, w := range want {
		same, err := w.intact(conn, t, present[w.chain.Name])
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (set shieldSet) intact(conn *nft.Conn, t *nft.Table) (bool, error) {
	have, err := conn.GetSetByName(t, set.Name)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read set %s of table %s: %w", set.Name, shieldName, err)
	}
	elements, err := conn.GetSetElements(have)
	if err != nil {
		return false, fmt.Errorf("read what is in set %s of table %s: %w", set.Name, shieldName, err)
	}
	var there []netip.Addr
	for _, e := range elements {
		a, _ := netip.AddrFromSlice(e.Key)
		there = append(there, a)
	}
	slices.SortFunc(there, netip.Addr.Compare)
	return slices.Equal(there, set.peers), nil
}

func (w shieldChain) intact(conn *nft.Conn, t *nft.Table, have *nft.Chain) (bool, error) {
	if have == nil || have.Type != w.chain.Type || have.Hooknum == nil || *have.Hooknum != *w.chain.Hooknum ||
		have.Priority == nil || *have.Priority != *w.chain.Priority || have.Policy == nil || *have.Policy != *w.chain.Policy {
		return false, nil
	}
	rules, err := conn.GetRules(t, have)
	if err != nil {
		return false, fmt.Errorf("read the rules of chain %s of table %s: %w", have.Name, shieldName, err)
	}
	if len(rules) != len(w.rules) {
		return false, nil
	}
	for i, r := range w.rules {
		if !reflect.DeepEqual(r.exprs, rules[i].Exprs) {
			return false, nil
		}
	}
	return true, nil
}

// Preview returns the shell command that does what Ensure would, with its input
// as a here-document, and runs nothing. It is empty where everything is in
// place.
func (s Shield) Preview(context.Context) (string, error) {
	conn, err := nft.New(nft.AsLasting())
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing was left in it
	intact, err := s.intact(conn)
	if err != nil || intact {
		return "", err
	}
	return hereDocument("nft -f -", s.script()), nil
}

// script is the transaction of Ensure in nft(8)'s words.
func (s Shield) script() string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\n", shieldName)
	if s.Port == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "table inet %s {\n", shieldName)
	for _, set := range s.sets() {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype %s\n", set.Name, set.word)
		var words []string
		for _, p := range set.peers {
			words = append(words, p.String())
		}
		if len(words) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(words, ", "))
		}
		b.WriteString("\t}\n")
	}
	for _, c := range s.chains() {
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype filter hook %s priority filter - 10; policy accept;\n", c.chain.Name, c.hook)
		for _, r := range c.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.words)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}
