package firewall

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var config6 = Config{
	Network: netip.MustParsePrefix("fd00:10:244::/48"), Subnet: netip.MustParsePrefix("fd00:10:244:1::/64"),
	Forward: true, Masquerade: true,
}

// in6 spells flannel's rules of IPv4 in IPv6.
func in6(rules string) string {
	return strings.NewReplacer("10.244.0.0/16", "fd00:10:244::/48", "10.244.1.0/24", "fd00:10:244:1::/64",
		"224.0.0.0/4", "ff00::/8", "table ip flannel-ipv4", "table ip6 flannel-ipv6", " ip ", " ip6 ", "\tip ", "\tip6 ").Replace(rules)
}

func TestIP6tables(t *testing.T) {
	inNamespace(t, []string{"ip6tables-save", "ip6tables-restore", "ip6tables"}, func(ctx context.Context) error {
		rules6 := func() string { return sh(t, `ip6tables-save | grep -E '^\*|^-A' || true`) }
		both := []*Firewall{New(config, slog.New(slog.DiscardHandler)), New(config6, slog.New(slog.DiscardHandler))}
		for _, f := range both {
			ensure(t, f, true)
		}
		if d := cmp.Diff(in6(flannelRules), rules6()); d != "" {
			t.Errorf("(-flannel +ours):\n%s", d)
		}
		sh(t, "ip6tables -t nat -D FLANNEL-POSTRTG 5")
		ensure(t, both[1], true)
		if d := cmp.Diff(in6(flannelRules), rules6()); d != "" {
			t.Errorf("after tampering (-flannel +ours):\n%s", d)
		}
		for _, f := range both {
			ensure(t, f, false)
		}
		if err := RemoveIPv6(ctx); err != nil {
			return err
		}
		if left := rules6(); strings.Contains(left, "FLANNEL") {
			t.Errorf("left: %s", left)
		}
		if d := cmp.Diff(flannelRules, rules(t)); d != "" {
			t.Errorf("IPv4 lost rules of its own:\n%s", d)
		}
		return Remove(ctx)
	})
}

// TestK13NftablesIPv6: upstream looks at its tables once, and its fourth rule
// keeps the last from ever matching; in both families.
func TestK13NftablesIPv6(t *testing.T) {
	inNamespace(t, []string{"nft"}, func(ctx context.Context) error {
		c := config6
		c.NFTables = true
		f := New(c, slog.New(slog.DiscardHandler))
		ensure(t, f, true)
		table := func() string { return sh(t, "nft list table ip6 flannel-ipv6") }
		if d := cmp.Diff(in6(flannelTable), table()); d != "" {
			t.Errorf("(-flannel +ours):\n%s", d)
		}
		ensure(t, f, false)
		for _, tamper := range []string{"nft delete table ip6 flannel-ipv6", "nft flush chain ip6 flannel-ipv6 postrtg"} {
			sh(t, tamper)
			ensure(t, f, true)
			if d := cmp.Diff(in6(flannelTable), table()); d != "" {
				t.Errorf("after %s (-flannel +ours):\n%s", tamper, d)
			}
		}
		if err := Remove(ctx); err != nil {
			return err
		}
		if left := sh(t, "nft list tables"); left != "" {
			t.Errorf("left: %s", left)
		}
		return nil
	})
}
