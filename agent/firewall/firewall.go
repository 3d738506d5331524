// Package firewall keeps flannel's packet filter rules in the kernel: overlay
// traffic may be forwarded, and what leaves the overlay is masqueraded.
//
// The rules are the same whether iptables or nftables carries them. They live
// in chains or tables of their own; of the built-in chains, only the jumps to
// them are touched.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
)

// Config says which rules of one address family there are to be: that of
// Network.
type Config struct {
	// Network is the whole overlay, Subnet the node's part of it.
	Network, Subnet netip.Prefix
	// Forward asks for the rules that accept forwarded overlay traffic,
	// Masquerade for those that masquerade what leaves the overlay.
	Forward, Masquerade bool
	// PredictablePorts leaves the choice of source ports when masquerading to
	// the kernel's usual way, not to chance.
	PredictablePorts bool
	// NFTables asks for nftables in place of iptables.
	NFTables bool
}

func (c Config) family() family {
	if c.Network.Addr().Is6() {
		return ipv6
	}
	return ipv4
}

// Firewall keeps the rules of one address family in one network namespace: that
// of the process.
type Firewall struct {
	config       Config
	rules, other carrier
	log          *slog.Logger
	// switched is set once the other carrier's rules have been looked for.
	switched bool
}

// carrier is a way to get rules into the kernel.
type carrier interface {
	name() string
	// ensure makes the kernel's rules those wanted, and reports whether that
	// took a change.
	ensure(context.Context) (changed bool, err error)
	// remove deletes all that ensure can make.
	remove(context.Context) error
	// preview returns the shell command that makes the kernel's rules those of
	// a Config, empty where they are; it changes nothing.
	preview(context.Context, Config) (command string, err error)
}

// New chooses between iptables and nftables. Without an iptables program it
// falls back to nftables, which needs none, and says so.
func New(c Config, log *slog.Logger) *Firewall {
	ipt, nft := &iptables{config: c, family: c.family()}, &nftables{config: c, family: c.family()}
	if !c.NFTables {
		err := ipt.available()
		if err == nil {
			return &Firewall{config: c, rules: ipt, other: nft, log: log}
		}
		log.Warn("there is no iptables here: nftables carries the rules", "err", err)
	}
	return &Firewall{config: c, rules: nft, other: ipt, log: log}
}

// Carrier is "iptables" or "nftables".
func (f *Firewall) Carrier() string { return f.rules.name() }

// Ensure puts in place what is missing or altered, and reports whether
// anything was. The first time it also removes the rules that an agent with
// the other carrier left.
func (f *Firewall) Ensure(ctx context.Context) (changed bool, err error) {
	changed, err = f.rules.ensure(ctx)
	if err != nil {
		return changed, fmt.Errorf("program the %s rules: %w", f.rules.name(), err)
	}
	if !f.switched {
		f.switched = true
		if err := f.other.remove(ctx); err != nil && !errors.Is(err, exec.ErrNotFound) {
			f.log.Warn("could not look for rules of an earlier agent", "carrier", f.other.name(), "err", err)
		}
	}
	return changed, nil
}

// Remove deletes all rules that either carrier can have made, of both families,
// and a shield.
func Remove(ctx context.Context) error {
	_, err := Shield{}.Ensure(ctx)
	return errors.Join(remove(ctx, ipv4), remove(ctx, ipv6), err)
}

// RemoveIPv6 does so of IPv6 alone, for a network that has it no longer.
func RemoveIPv6(ctx context.Context) error { return remove(ctx, ipv6) }

// carriers are both, with no rules.
func carriers(f family) []carrier {
	return []carrier{&iptables{family: f}, &nftables{family: f}}
}

func remove(ctx context.Context, f family) error {
	var errs []error
	for _, c := range carriers(f) {
		if err := c.remove(ctx); err != nil && !errors.Is(err, exec.ErrNotFound) {
			errs = append(errs, fmt.Errorf("remove the %s rules: %w", c.name(), err))
		}
	}
	return errors.Join(errs...)
}
