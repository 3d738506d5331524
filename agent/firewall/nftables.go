package firewall

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"reflect"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// nftables carries the rules by netlink, in a table of their own, without any
// program. An accept there cannot overrule a drop in another table's chain of
// the same hook, as it can in iptables: that is how nftables works.
type nftables struct {
	config Config
	family family
}

func (n *nftables) name() string { return "nftables" }

func (n *nftables) table() *nft.Table {
	return &nft.Table{Name: n.family.table, Family: n.family.nft}
}

// baseChain is one of our chains with its rules.
type baseChain struct {
	nft.Chain
	rules []rule
}

func (n *nftables) chains() []baseChain {
	policy := nft.ChainPolicyAccept
	var out []baseChain
	if rules := n.config.forwardRules(); rules != nil {
		out = append(out, baseChain{nft.Chain{
			Name: "forward", Type: nft.ChainTypeFilter, Hooknum: nft.ChainHookForward,
			Priority: nft.ChainPriorityFilter, Policy: &policy,
		}, rules})
	}
	if rules := n.config.masqueradeRules(); rules != nil {
		out = append(out, baseChain{nft.Chain{
			Name: "postrtg", Type: nft.ChainTypeNAT, Hooknum: nft.ChainHookPostrouting,
			Priority: nft.ChainPriorityNATSource, Policy: &policy,
		}, rules})
	}
	return out
}

func (n *nftables) ensure(context.Context) (bool, error) {
	conn, err := nft.New(nft.AsLasting())
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing was left in it
	chains := n.chains()
	intact, err := n.intact(conn, chains)
	if err != nil || intact {
		return false, err
	}
	// One transaction: first make sure that there is a table to delete.
	t := n.table()
	conn.AddTable(t)
	conn.DelTable(t)
	if len(chains) > 0 {
		conn.AddTable(t)
	}
	for _, c := range chains {
		chain := c.Chain
		chain.Table = t
		conn.AddChain(&chain)
		for _, r := range c.rules {
			conn.AddRule(&nft.Rule{Table: t, Chain: &chain, Exprs: n.exprs(r)})
		}
	}
	if err := conn.Flush(); err != nil {
		return true, fmt.Errorf("write table %s: %w", n.family.table, err)
	}
	return true, nil
}

// intact compares the kernel's table with the wanted one.
func (n *nftables) intact(conn *nft.Conn, want []baseChain) (bool, error) {
	t, err := conn.ListTableOfFamily(n.family.table, n.family.nft)
	if errors.Is(err, unix.ENOENT) || err == nil && t == nil {
		return len(want) == 0, nil
	}
	if err != nil {
		return false, fmt.Errorf("read table %s: %w", n.family.table, err)
	}
	present, err := n.chainsOf(conn)
	if err != nil || len(want) == 0 || len(present) != len(want) {
		return false, err
	}
	for _, w := range want {
		chain := present[w.Name]
		if chain == nil || chain.Type != w.Type || chain.Hooknum == nil || *chain.Hooknum != *w.Hooknum ||
			chain.Priority == nil || *chain.Priority != *w.Priority ||
			chain.Policy == nil || *chain.Policy != *w.Policy {
			return false, nil
		}
		rules, err := conn.GetRules(t, chain)
		if err != nil {
			return false, fmt.Errorf("read the rules of chain %s: %w", w.Name, err)
		}
		if len(rules) != len(w.rules) {
			return false, nil
		}
		for i, r := range w.rules {
			if !reflect.DeepEqual(n.exprs(r), rules[i].Exprs) {
				return false, nil
			}
		}
	}
	return true, nil
}

// chainsOf returns the chains of our table by name.
func (n *nftables) chainsOf(conn *nft.Conn) (map[string]*nft.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(n.family.nft)
	if err != nil {
		return nil, fmt.Errorf("read the chains of table %s: %w", n.family.table, err)
	}
	ours := map[string]*nft.Chain{}
	for _, c := range all {
		if c.Table.Name == n.family.table {
			ours[c.Name] = c
		}
	}
	return ours, nil
}

func (n *nftables) remove(ctx context.Context) error {
	_, err := (&nftables{family: n.family}).ensure(ctx)
	return err
}

// register is the one that rules work in.
const register = 1

// exprs spells a rule in the kernel's terms.
func (n *nftables) exprs(r rule) []expr.Any {
	var out []expr.Any
	if r.marked {
		mark := binary.NativeEndian.AppendUint32(nil, kubernetesMark)
		out = append(out,
			&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
			&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: mark, Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: mark},
		)
	}
	out = append(out, n.family.match(n.family.src, r.src)...)
	out = append(out, n.family.match(n.family.dst, r.dst)...)
	switch r.verdict {
	case accept:
		out = append(out, &expr.Verdict{Kind: expr.VerdictAccept})
	case returns:
		out = append(out, &expr.Verdict{Kind: expr.VerdictReturn})
	case masquerade:
		out = append(out, &expr.Masq{FullyRandom: !n.config.PredictablePorts})
	}
	return out
}

// match compares the address at an offset of the header, in the words that
// nft(8) has for it: of a prefix of whole bytes, those bytes alone.
func (f family) match(offset uint32, m match) []expr.Any {
	if !m.prefix.IsValid() {
		return nil
	}
	op := expr.CmpOpEq
	if m.not {
		op = expr.CmpOpNeq
	}
	bits, whole := m.prefix.Bits(), m.prefix.Masked().Addr().AsSlice()
	if bits > 0 && bits%8 == 0 {
		return []expr.Any{
			&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(bits / 8)},
			&expr.Cmp{Op: op, Register: register, Data: whole[:bits/8]},
		}
	}
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size},
		&expr.Bitwise{
			SourceRegister: register, DestRegister: register, Len: f.size,
			Mask: bytes.Clone(net.CIDRMask(bits, int(f.size)*8)), Xor: make([]byte, f.size),
		},
		&expr.Cmp{Op: op, Register: register, Data: whole},
	}
}
