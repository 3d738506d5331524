package firewall

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestPreview: what Preview prints, when a shell runs it, is what Ensure does,
// from any start; and Preview itself does nothing.
func TestPreview(t *testing.T) {
	inNamespace(t, []string{"iptables-save", "iptables-restore", "iptables", "nft"}, func(ctx context.Context) error {
		n, noMasq, predictable := config, config, config
		n.NFTables, noMasq.Masquerade, predictable.PredictablePorts = true, false, true
		predictable.NFTables = true
		ruleset := func() string {
			return sh(t, `iptables-save | grep -E '^\*|^-A|^:FLANNEL' | sed 's/ \[.*//' || true; nft list table ip flannel-ipv4 2>/dev/null || true`)
		}
		for name, tt := range map[string]struct {
			before *Config
			tamper string
			want   Config
		}{
			"iptables on a fresh node":  {want: config},
			"nftables on a fresh node":  {want: n},
			"predictable ports":         {want: predictable},
			"iptables to nftables":      {before: &config, want: n},
			"nftables to iptables":      {before: &n, want: config},
			"without masquerading":      {before: &config, want: noMasq},
			"a rule deleted":            {before: &config, tamper: "iptables -D FLANNEL-FWD 1", want: config},
			"a jump doubled":            {before: &config, tamper: "iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD", want: config},
			"an nftables rule too many": {before: &n, tamper: "nft add rule ip flannel-ipv4 forward accept", want: n},
		} {
			prepare := func() *Firewall {
				if err := Remove(ctx); err != nil {
					t.Fatal(err)
				}
				if tt.before != nil {
					ensure(t, New(*tt.before, slog.New(slog.DiscardHandler)), true)
				}
				sh(t, tt.tamper)
				return New(tt.want, slog.New(slog.DiscardHandler))
			}
			f := prepare()
			before := ruleset()
			commands, err := f.Preview(ctx)
			if err != nil {
				return err
			}
			if d := cmp.Diff(before, ruleset()); d != "" {
				t.Errorf("%s: looking changed the rules:\n%s", name, d)
			}
			sh(t, strings.Join(commands, "\n"))
			got := ruleset()
			f = prepare()
			ensure(t, f, true)
			if d := cmp.Diff(ruleset(), got); d != "" {
				t.Errorf("%s (-Ensure +Preview):\n%s\n%s", name, d, strings.Join(commands, "\n"))
			}
			if commands, err := f.Preview(ctx); err != nil || len(commands) > 0 {
				t.Errorf("%s: after Ensure: %v, %v", name, commands, err)
			}
		}
		return nil
	})
}
