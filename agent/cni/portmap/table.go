package portmap

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"

	nft "github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// Table is one network's mappings on a node, the one whose network namespace
// the thread that called Open is in. It is not locked: callers take turns.
type Table struct {
	conn   *nft.Conn
	table  *nft.Table
	bridge string
}

// ErrTaken says that a port of the node leads to another pod already.
var ErrTaken = errors.New("the host port is taken")

// Open opens a network's mappings, of which there need not be any; bridge is
// the link that leads to its pods. The table is called after the network:
// `nft list table inet overlab-cni-cbr0`.
func Open(network, bridge string) (*Table, error) {
	conn, err := nft.New(nft.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	return &Table{conn, &nft.Table{Name: "overlab-cni-" + network, Family: nft.TableFamilyINet}, bridge}, nil
}

// Close lets go of the socket; the mappings stay.
func (t *Table) Close() error { return t.conn.CloseLasting() }

// Add makes the targets' ports lead to them, of all or of none. It is ErrTaken
// where one of them leads to another pod of the network.
func (t *Table) Add(targets ...Target) error {
	have, err := t.read()
	if err != nil {
		return err
	}
	added, err := t.additions(have, targets)
	if err != nil {
		return err
	}
	t.conn.AddTable(t.table)
	for _, c := range chains(t.table) {
		t.conn.AddChain(c)
	}
	for _, r := range added {
		t.conn.AddRule(&nft.Rule{Table: t.table, Chain: &nft.Chain{Name: r.chain}, Exprs: r.exprs,
			UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment)})
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("write table inet %s (the kernel needs nf_tables with nat, fib and ct): %w", t.table.Name, err)
	}
	if err := t.localnet("1"); err != nil {
		return err
	}
	for _, target := range targets {
		if err := forgetFlows(target); err != nil {
			return err
		}
	}
	return nil
}

// additions are the rules that are to be there besides those that are.
func (t *Table) additions(have []rule, targets []Target) ([]rule, error) {
	taken := slices.Clone(have)
	var added []rule
	for _, r := range t.commonRules() {
		if !r.in(have) {
			added = append(added, r)
		}
	}
	for _, target := range targets {
		if err := target.free(taken); err != nil {
			return nil, err
		}
		rules, err := target.rules()
		if err != nil {
			return nil, err
		}
		added, taken = append(added, rules...), append(taken, rules...)
	}
	return added, nil
}

// free tells whether nobody else has the target's ports.
func (t Target) free(taken []rule) error {
	for _, m := range t.Mappings {
		asked, err := m.port()
		if err != nil {
			return err
		}
		for _, r := range taken {
			if p, ok := r.port(); ok && p.clashes(asked) {
				return fmt.Errorf("%w: %s is that of container %s", ErrTaken, asked, r.owner().ContainerID)
			}
		}
	}
	return nil
}

// Check lists what is missing of a target's rules, each named by its chain.
func (t *Table) Check(target Target) ([]string, error) {
	have, err := t.read()
	if err != nil {
		return nil, err
	}
	want, err := target.rules()
	if err != nil || len(want) == 0 {
		return nil, err
	}
	var missing []string
	for _, w := range append(t.commonRules(), want...) {
		if !w.in(have) {
			missing = append(missing, fmt.Sprintf("a rule (%s) is missing in chain %s of the nftables table inet %s", w.comment, w.chain, t.table.Name))
		}
	}
	return missing, nil
}

// Remove removes an owner's mappings, and the table with the last of them.
func (t *Table) Remove(o Owner) error {
	return t.Keep(func(other Owner) bool { return other != o })
}

// Keep removes the mappings of owners that are not to be kept, and the table
// where none is left.
func (t *Table) Keep(keep func(Owner) bool) error {
	have, err := t.read()
	if err != nil || have == nil {
		return err
	}
	kept := false
	for _, r := range have {
		switch {
		case r.common():
		case keep(r.owner()):
			kept = true
		default:
			if err := t.conn.DelRule(r.read); err != nil {
				return fmt.Errorf("remove a rule of table inet %s: %w", t.table.Name, err)
			}
		}
	}
	if !kept {
		// As long as the guard is up: see localnet.
		if err := t.localnet("0"); err != nil {
			return err
		}
		t.conn.DelTable(t.table)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("remove port mappings from table inet %s: %w", t.table.Name, err)
	}
	return nil
}

// read returns the table's rules: nil where there is no table, and not nil
// where there is an empty one.
func (t *Table) read() ([]rule, error) {
	found, err := t.conn.ListTableOfFamily(t.table.Name, t.table.Family)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || err == nil && found == nil {
		return nil, nil // EINVAL is that of a kernel without nf_tables
	}
	if err != nil {
		return nil, fmt.Errorf("read table inet %s: %w", t.table.Name, err)
	}
	out := []rule{}
	for _, c := range chains(t.table) {
		rules, err := t.conn.GetRules(t.table, c)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read chain %s of table inet %s: %w", c.Name, t.table.Name, err)
		}
		for _, r := range rules {
			comment, _ := userdata.GetString(r.UserData, userdata.TypeComment)
			out = append(out, rule{c.Name, comment, r.Exprs, r})
		}
	}
	return out, nil
}

// in tells whether a list has the rule.
func (r rule) in(have []rule) bool {
	return slices.ContainsFunc(have, func(h rule) bool {
		return h.chain == r.chain && h.comment == r.comment && reflect.DeepEqual(h.exprs, r.exprs)
	})
}

// localnet lets packets from and to 127.0.0.0/8 cross the bridge, or no
// longer: without it a mapped port would not answer at 127.0.0.1. The rule in
// the chain localnet keeps pods from using it for themselves: the node's
// services on loopback stay its own (compare CVE-2020-8558).
func (t *Table) localnet(value string) error {
	err := os.WriteFile("/proc/sys/net/ipv4/conf/"+t.bridge+"/route_localnet", []byte(value), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a bridge that is gone needs none
		return fmt.Errorf("let 127.0.0.1 reach the pods: %w", err)
	}
	return nil
}
