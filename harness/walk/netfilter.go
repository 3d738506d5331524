package walk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// obstacle is something in a firewall that drops packets.
type obstacle struct {
	what, mend string
	// counted is how many more packets it dropped when one more was sent.
	counted uint64
	packets uint64
}

func (o obstacle) cause(space string) string {
	if o.counted > 0 {
		return fmt.Sprintf("the firewall of %s drops it: %s, whose counter rises with each packet", space, o.what)
	}
	return fmt.Sprintf("the firewall of %s is in the way: %s", space, o.what)
}

// netfilter reads a namespace's firewall, sends another packet, and reads it
// again: what counts it comes first, then rules that drop, then policies.
func (w *run) netfilter(ctx context.Context, space string) ([]obstacle, error) {
	before, err := w.obstacles(space)
	if err != nil || len(before) == 0 {
		return nil, err
	}
	if _, err = w.sendOne(ctx, uuid.New(), 1, 50*time.Millisecond); err != nil {
		return nil, err
	}
	after, err := w.obstacles(space)
	if err != nil {
		return nil, err
	}
	for i := range after {
		j := slices.IndexFunc(before, func(o obstacle) bool { return o.what == after[i].what })
		if j >= 0 && after[i].packets > before[j].packets {
			after[i].counted = after[i].packets - before[j].packets
		}
	}
	slices.SortStableFunc(after, func(a, b obstacle) int { return int(b.counted) - int(a.counted) })
	return after, nil
}

// obstacles lists the rules and policies of a namespace that drop.
func (w *run) obstacles(space string) ([]obstacle, error) {
	ns, err := w.lab.Namespace(space)
	if err != nil {
		return nil, err
	}
	local, ok := ns.(topology.Local)
	if !ok {
		return nil, fmt.Errorf("%s: %w", space, probe.ErrNotLocal)
	}
	var rules, policies []obstacle
	err = local.Do(func() (err error) {
		c, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return fmt.Errorf("open nftables socket: %w", err)
		}
		defer func() { err = errors.Join(err, c.CloseLasting()) }()
		chains, err := c.ListChains()
		if err != nil {
			return fmt.Errorf("list nftables chains: %w", err)
		}
		for _, chain := range chains {
			name := fmt.Sprintf("%s %s %s", family(chain.Table.Family), chain.Table.Name, chain.Name)
			if chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
				policies = append(policies, obstacle{
					what: fmt.Sprintf("chain %s has policy drop", name),
					mend: fmt.Sprintf("nft 'chain %s { policy accept; }'", name),
				})
			}
			list, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return fmt.Errorf("list rules of chain %s: %w", name, err)
			}
			for _, rule := range list {
				if packets, drops := dropping(rule); drops {
					rules = append(rules, obstacle{
						what:    fmt.Sprintf("rule %d of chain %s drops", rule.Handle, name),
						mend:    fmt.Sprintf("nft delete rule %s handle %d", name, rule.Handle),
						packets: packets,
					})
				}
			}
		}
		return nil
	})
	return append(rules, policies...), err
}

// dropping reports whether a rule's verdict is drop or reject, and its counter.
func dropping(r *nftables.Rule) (packets uint64, drops bool) {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter:
			packets = e.Packets
		case *expr.Verdict:
			drops = drops || e.Kind == expr.VerdictDrop
		case *expr.Reject:
			drops = true
		case *expr.Target: // of iptables
			drops = drops || e.Name == "REJECT"
		}
	}
	return packets, drops
}

func family(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyIPv4:
		return "ip"
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyBridge:
		return "bridge"
	case nftables.TableFamilyNetdev:
		return "netdev"
	case nftables.TableFamilyARP:
		return "arp"
	}
	return "ip6"
}
