package firewall

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var shield = Shield{Port: 8472, Underlay: "eth0", Peers: []netip.Addr{
	netip.MustParseAddr("172.16.1.2"), netip.MustParseAddr("172.16.1.3"), netip.MustParseAddr("fd00:172:16::2"),
}}

const shieldRules = `table inet flannel-harden {
	set nodes4 {
		type ipv4_addr
		elements = { 172.16.1.2, 172.16.1.3 }
	}

	set nodes6 {
		type ipv6_addr
		elements = { fd00:172:16::2 }
	}

	chain input {
		type filter hook input priority filter - 10; policy accept;
		iifname "eth0" udp dport 8472 ip saddr @nodes4 accept
		iifname "eth0" udp dport 8472 ip6 saddr @nodes6 accept
		udp dport 8472 drop
	}

	chain forward {
		type filter hook forward priority filter - 10; policy accept;
		iifname != "eth0" udp dport 8472 drop
	}
}`

func TestShield(t *testing.T) {
	inNamespace(t, []string{"nft"}, func(ctx context.Context) error {
		list := func() string { return sh(t, "nft list ruleset") }
		ensured := func(s Shield, wantChange bool, want, when string) {
			t.Helper()
			changed, err := s.Ensure(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if changed != wantChange {
				t.Errorf("%s: Ensure reported changed=%v", when, changed)
			}
			if d := cmp.Diff(want, list()); d != "" {
				t.Errorf("%s (-want +got):\n%s", when, d)
			}
		}
		command, err := shield.Preview(ctx)
		if err != nil {
			return err
		}
		sh(t, command)
		ensured(shield, false, shieldRules, "after what Preview prints")
		ensured(Shield{}, true, "", "no shield")
		ensured(Shield{}, false, "", "no shield, twice")
		ensured(shield, true, shieldRules, "a shield")
		ensured(shield, false, shieldRules, "a shield, twice")
		for _, tamper := range []string{
			"nft delete table inet flannel-harden",
			"nft flush chain inet flannel-harden input",
			"nft insert rule inet flannel-harden input accept",
			"nft delete element inet flannel-harden nodes4 { 172.16.1.2 }",
			"nft add element inet flannel-harden nodes6 { fd00::1 }",
			"nft 'chain inet flannel-harden forward { policy drop; }'",
			"nft add chain inet flannel-harden other",
		} {
			sh(t, tamper)
			ensured(shield, true, shieldRules, tamper)
		}
		fewer := shield
		fewer.Peers = fewer.Peers[:1]
		want := strings.NewReplacer(", 172.16.1.3", "", "\n\t\telements = { fd00:172:16::2 }", "").Replace(shieldRules)
		ensured(fewer, true, want, "peers that have left")
		command, err = Shield{}.Preview(ctx)
		if err != nil {
			return err
		}
		if want := "nft -f - <<'EOF'\ntable inet flannel-harden\ndelete table inet flannel-harden\nEOF"; command != want {
			t.Errorf("the removal reads %s", command)
		}
		if err := Remove(ctx); err != nil {
			return err
		}
		if got := list(); strings.Contains(got, "flannel") {
			t.Errorf("after Remove: %s", got)
		}
		return nil
	})
}
