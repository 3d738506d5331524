package probe

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

const kindObstacles = "obstacles"

// An Obstacle is something in a firewall that drops packets: a rule, or a
// chain's policy.
type Obstacle struct {
	// What names it, and Mend is a command that takes it away.
	What string `json:"what"`
	Mend string `json:"mend"`
	// Packets is its counter, 0 where it has none.
	Packets uint64 `json:"packets,omitempty"`
}

// Obstacles lists the rules of the namespace's nftables (iptables' among them)
// that drop or reject, and then the policies that do.
func (s *Session) Obstacles(ctx context.Context) ([]Obstacle, error) {
	return ask(ctx, s, kindObstacles, struct{}{}, func() ([]Obstacle, error) { return s.obstacles(ctx) })
}

func (s *Session) obstacles(ctx context.Context) ([]Obstacle, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var rules, policies []Obstacle
	err := s.local.Do(func() (err error) {
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
			name := fmt.Sprintf("%s %s %s", tableFamily(chain.Table.Family), chain.Table.Name, chain.Name)
			if chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop {
				policies = append(policies, Obstacle{
					What: fmt.Sprintf("chain %s has policy drop", name),
					Mend: fmt.Sprintf("nft 'chain %s { policy accept; }'", name),
				})
			}
			list, err := c.GetRules(chain.Table, chain)
			if err != nil {
				return fmt.Errorf("list rules of chain %s: %w", name, err)
			}
			for _, rule := range list {
				if packets, drops := dropping(rule); drops {
					rules = append(rules, Obstacle{
						What:    fmt.Sprintf("rule %d of chain %s drops", rule.Handle, name),
						Mend:    fmt.Sprintf("nft delete rule %s handle %d", name, rule.Handle),
						Packets: packets,
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

func tableFamily(f nftables.TableFamily) string {
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
