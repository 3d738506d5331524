package firewall

import (
	"context"
	"log/slog"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

var config = Config{
	Network: netip.MustParsePrefix("10.244.0.0/16"), Subnet: netip.MustParsePrefix("10.244.1.0/24"),
	Forward: true, Masquerade: true,
}

// flannelRules are those of flannel's iptables traffic manager, as
// iptables-save shows them.
const flannelRules = `*filter
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT
*nat
-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.1.0/24 -m comment --comment "flanneld masq" -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully`

const flannelTable = `table ip flannel-ipv4 {
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip saddr 10.244.0.0/16 accept
		ip daddr 10.244.0.0/16 accept
	}

	chain postrtg {
		type nat hook postrouting priority srcnat; policy accept;
		meta mark & 0x00004000 == 0x00004000 return
		ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 return
		ip saddr 10.244.0.0/16 ip daddr 10.244.1.0/24 return
		ip saddr != 10.244.0.0/16 ip daddr 10.244.1.0/24 return
		ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
		ip saddr != 10.244.0.0/16 ip daddr 10.244.0.0/16 masquerade fully-random
	}
}`

// inNamespace calls fn in a fresh namespace; the programs must be there.
func inNamespace(t testing.TB, programs []string, fn func(ctx context.Context) error) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("SKIPPED, NOT TESTED: %v", err)
		}
	}
	if err := nstest.New(t).Do(func() error { return fn(t.Context()) }); err != nil {
		t.Fatal(err)
	}
}

func sh(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).Output()
	if err != nil {
		t.Errorf("%s: %v", command, err)
	}
	return strings.TrimSpace(string(out))
}

func rules(t testing.TB) string {
	t.Helper()
	return sh(t, `iptables-save | grep -E '^\*|^-A' || true`)
}

func ensure(t testing.TB, f *Firewall, wantChange bool) {
	t.Helper()
	changed, err := f.Ensure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if changed != wantChange {
		t.Errorf("Ensure reported changed=%v", changed)
	}
}

func TestIptables(t *testing.T) {
	inNamespace(t, []string{"iptables-save", "iptables-restore", "iptables"}, func(context.Context) error {
		f := New(config, slog.New(slog.DiscardHandler))
		ensure(t, f, true)
		if d := cmp.Diff(flannelRules, rules(t)); d != "" {
			t.Errorf("(-flannel +ours):\n%s", d)
		}
		ensure(t, f, false)

		const foreign = "-A FORWARD -s 192.0.2.0/24 -j DROP"
		sh(t, "iptables "+foreign)
		for name, tamper := range map[string]string{
			"rule deleted":  "iptables -D FLANNEL-FWD 1",
			"rule added":    "iptables -t nat -A FLANNEL-POSTRTG -j ACCEPT",
			"rules swapped": "iptables -t nat -D FLANNEL-POSTRTG 1; iptables -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment 'flanneld masq' -j RETURN",
			"jump deleted":  "iptables -D FORWARD 1",
			"jump doubled":  "iptables -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG",
			"all flushed":   "iptables -t nat -F; iptables -t nat -X",
		} {
			sh(t, tamper)
			ensure(t, f, true)
			ensure(t, f, false)
			got := rules(t)
			if !strings.Contains(got, foreign) {
				t.Errorf("%s: the foreign rule is gone", name)
			}
			for line := range strings.Lines(flannelRules) {
				if strings.Count(got, strings.TrimSpace(line)) != 1 {
					t.Errorf("%s: not once: %s", name, line)
				}
			}
		}

		// Without masquerading, its chain goes and the other stays.
		noMasq := config
		noMasq.Masquerade = false
		ensure(t, New(noMasq, slog.New(slog.DiscardHandler)), true)
		if got := rules(t); strings.Contains(got, "FLANNEL-POSTRTG") || !strings.Contains(got, "FLANNEL-FWD") {
			t.Errorf("without masquerading: %s", got)
		}
		if err := Remove(t.Context()); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff("*filter\n"+foreign+"\n*nat", rules(t)); d != "" {
			t.Errorf("after Remove (-want +got):\n%s", d)
		}
		return nil
	})
}

func TestNFTables(t *testing.T) {
	inNamespace(t, []string{"nft"}, func(context.Context) error {
		c := config
		c.NFTables = true
		f := New(c, slog.New(slog.DiscardHandler))
		ensure(t, f, true)
		list := func() string { return sh(t, "nft list ruleset") }
		if d := cmp.Diff(flannelTable, list()); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		ensure(t, f, false)
		for _, tamper := range []string{
			"nft delete table ip flannel-ipv4",
			"nft flush chain ip flannel-ipv4 forward",
			"nft add rule ip flannel-ipv4 postrtg accept",
			"nft insert rule ip flannel-ipv4 forward drop",
			"nft 'replace rule ip flannel-ipv4 forward handle '$(nft -a list chain ip flannel-ipv4 forward | sed -n 's/.*saddr.*handle //p')' ip saddr 10.0.0.0/8 accept'",
			"nft 'chain ip flannel-ipv4 forward { policy drop; }'",
			"nft add chain ip flannel-ipv4 other '{ type filter hook forward priority 0; policy drop; }'",
		} {
			sh(t, tamper)
			ensure(t, f, true)
			if d := cmp.Diff(flannelTable, list()); d != "" {
				t.Errorf("after %s (-want +got):\n%s", tamper, d)
			}
		}
		if err := Remove(t.Context()); err != nil {
			t.Error(err)
		}
		if got := list(); strings.Contains(got, "flannel") {
			t.Errorf("after Remove: %s", got)
		}
		return nil
	})
}

func TestSwitchCarrier(t *testing.T) {
	inNamespace(t, []string{"iptables-save", "iptables-restore", "nft"}, func(context.Context) error {
		n := config
		n.NFTables = true
		for _, c := range []Config{config, n, config} {
			ensure(t, New(c, slog.New(slog.DiscardHandler)), true)
			hasTable := strings.Contains(sh(t, "nft list tables"), "flannel-ipv4")
			hasChain := strings.Contains(rules(t), "FLANNEL-")
			if hasTable != c.NFTables || hasChain == c.NFTables {
				t.Errorf("nftables=%v: table %v, chains %v", c.NFTables, hasTable, hasChain)
			}
		}
		return nil
	})
}

func TestWithoutIptables(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var log strings.Builder
	inNamespace(t, nil, func(context.Context) error {
		f := New(config, slog.New(slog.NewTextHandler(&log, nil)))
		if f.Carrier() != "nftables" {
			t.Errorf("carrier %s", f.Carrier())
		}
		ensure(t, f, true)
		ensure(t, f, false)
		return Remove(t.Context())
	})
	if got := log.String(); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, "there is no iptables here") {
		t.Errorf("log: %s", got)
	}
}

func BenchmarkEnsureIntact(b *testing.B) {
	for _, nft := range []bool{false, true} {
		c := config
		c.NFTables = nft
		f := New(c, slog.New(slog.DiscardHandler))
		b.Run(f.Carrier(), func(b *testing.B) {
			inNamespace(b, nil, func(ctx context.Context) error {
				for b.Loop() {
					if _, err := f.Ensure(ctx); err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
}
