package lease

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func dualConfig(t *testing.T, more string) *Config {
	t.Helper()
	c, err := ParseConfig([]byte(`{"EnableIPv6":true,` + more + `"Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestParseConfigIPv6(t *testing.T) {
	for in, want := range map[string]string{
		`"IPv6Network":"fd00:10:244::/48"`:                                                  "64 fd00:10:244:1:: fd00:10:244:ffff::",
		`"IPv6Network":"fd00:10:244::7/48"`:                                                 "64 fd00:10:244:1:: fd00:10:244:ffff::",
		`"IPv6Network":"fd00:10:244::/62"`:                                                  "64 fd00:10:244:1:: fd00:10:244:3::",
		`"IPv6Network":"fd00:10:244::/63"`:                                                  "65 fd00:10:244:0:8000:: fd00:10:244:1:8000::",
		`"IPv6Network":"fd00::/124"`:                                                        "126 fd00::4 fd00::c",
		`"IPv6Network":"ffff::/16","IPv6SubnetLen":20`:                                      "20 ffff:1000:: ffff:f000::",
		`"IPv6Network":"fd00:10:244::/48","IPv6SubnetMin":"fd00:10:244:7::"`:                "64 fd00:10:244:7:: fd00:10:244:ffff::",
		`"IPv6Network":"fd00::/125"`:                                                        "network fd00::/125 is too small. Minimum useful network prefix is /124",
		`"IPv6Network":"fd00::/48","IPv6SubnetLen":127`:                                     "IPv6SubnetLen 127: IPv6SubnetLen must be less than /127",
		`"IPv6Network":"fd00::/48","IPv6SubnetLen":49`:                                      "must be able to accommodate at least four subnets",
		`"IPv6Network":"10.244.0.0/16"`:                                                     `field IPv6Network "10.244.0.0/16" is not an IPv6 network`,
		`"IPv6Network":"::ffff:10.244.0.0/112"`:                                             "is not an IPv6 network",
		`"IPv6Network":"fd00::/48","IPv6SubnetMax":"fd01::"`:                                "IPv6SubnetMax is not in the range of the Network: fd01:: is outside fd00::/48",
		`"IPv6Network":"fd00::/48","IPv6SubnetMin":"fd00::1"`:                               "IPv6SubnetMin is not on a SubnetLen boundary: fd00::1",
		`"IPv6Network":"fd00::/48","IPv6SubnetMin":"fd00:0:0:9::","IPv6SubnetMax":"fd00::"`: "IPv6SubnetMin fd00:0:0:9:: is above IPv6SubnetMax fd00::: no subnet is left",
		`"Network":""`: "field IPv6Network is missing",
	} {
		got := ""
		c, err := ParseConfig([]byte(`{"EnableIPv4":false,"EnableIPv6":true,` + in + `,"Backend":{"Type":"vxlan"}}`))
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%d %s %s", c.IPv6SubnetLen, c.IPv6SubnetMin, c.IPv6SubnetMax)
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
}

func TestAllocateDual(t *testing.T) {
	const ranges = `"Network":"10.5.0.0/16","SubnetMax":"10.5.4.0","IPv6Network":"fd00:5::/48","IPv6SubnetMax":"fd00:5:0:3::",`
	both := dualConfig(t, ranges)
	only6 := dualConfig(t, `"EnableIPv4":false,`+ranges)
	key := func(s string) Key {
		k, err := ParseKey(s)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for name, tt := range map[string]struct {
		config   *Config
		taken    []string
		previous Key
		want     string
	}{
		"free":              {config: both, want: "10.5.1.0-24&fd00:5:0:1::-64 10.5.2.0-24&fd00:5:0:2::-64 10.5.3.0-24&fd00:5:0:3::-64"},
		"each counted":      {config: both, taken: []string{"10.5.1.0-24&fd00:5:0:3::-64", "10.5.2.0-24"}, want: "10.5.3.0-24&fd00:5:0:1::-64 10.5.4.0-24&fd00:5:0:2::-64"},
		"previous":          {config: both, previous: key("10.5.4.0-24&fd00:5:0:2::-64"), want: "10.5.4.0-24&fd00:5:0:2::-64"},
		"previous of IPv4":  {config: both, previous: key("10.5.4.0-24"), want: "10.5.4.0-24&fd00:5:0:1::-64 10.5.4.0-24&fd00:5:0:2::-64 10.5.4.0-24&fd00:5:0:3::-64"},
		"half of it taken":  {config: both, taken: []string{"0.0.0.0-0&fd00:5:0:2::-64"}, previous: key("10.5.4.0-24&fd00:5:0:2::-64"), want: "10.5.4.0-24&fd00:5:0:1::-64 10.5.4.0-24&fd00:5:0:3::-64"},
		"no IPv6 left":      {config: both, taken: []string{"0.0.0.0-0&fd00:5::-62"}, want: "out of subnets: every /64 from fd00:5:0:1:: to fd00:5:0:3:: is taken"},
		"IPv6 alone":        {config: only6, taken: []string{"10.5.1.0-24&fd00:5:0:1::-64"}, want: "0.0.0.0-0&fd00:5:0:2::-64 0.0.0.0-0&fd00:5:0:3::-64"},
		"IPv6 alone, again": {config: only6, previous: key("10.5.1.0-24&fd00:5:0:3::-64"), want: "0.0.0.0-0&fd00:5:0:3::-64"},
	} {
		var leases []Lease
		for _, s := range tt.taken {
			leases = append(leases, Lease{Key: key(s)})
		}
		keys, err := Allocate(Claim{Config: tt.config, Previous: tt.previous}, leases)
		var got []string
		for _, k := range keys {
			got = append(got, k.String())
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestOwnDual: a node is known by its PublicIP where there is IPv4, and by its
// PublicIPv6 where there is not; its key must have exactly the network's
// families.
func TestOwnDual(t *testing.T) {
	const ranges = `"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48",`
	lease := func(key, v4, v6 string) Lease {
		k, err := ParseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		var a Attrs
		if err := json.Unmarshal(fmt.Appendf(nil, `{"PublicIP":%q,"PublicIPv6":%q}`, v4, v6), &a); err != nil {
			t.Fatal(err)
		}
		return Lease{Key: k, Attrs: a}
	}
	leases := []Lease{
		lease("10.5.1.0-24&fd00:5:0:1::-64", "172.16.1.1", "fd00:172::1"),
		lease("10.5.2.0-24&fd00:5:0:2::-64", "172.16.1.2", "fd00:172::99"),
		lease("10.5.9.0-24", "172.16.1.2", ""),
		lease("0.0.0.0-0&fd00:5:0:3::-64", "0.0.0.0", "fd00:172::3"),
		lease("0.0.0.0-0&fd00:5:0:4::-64", "0.0.0.0", "fd00:172::4"),
	}
	for name, tt := range map[string]struct {
		more, v4, v6, own string
		stale             int
	}{
		"both":                 {"", "172.16.1.1", "fd00:172::1", "10.5.1.0-24&fd00:5:0:1::-64", 0},
		"another IPv6":         {"", "172.16.1.2", "fd00:172::2", "10.5.2.0-24&fd00:5:0:2::-64", 1},
		"a stranger":           {"", "172.16.1.5", "fd00:172::1", "", 0},
		"IPv6 alone":           {`"EnableIPv4":false,`, "", "fd00:172::4", "0.0.0.0-0&fd00:5:0:4::-64", 0},
		"IPv6 alone, was both": {`"EnableIPv4":false,`, "", "fd00:172::1", "", 1},
	} {
		attrs := Attrs{PublicIPv6: netip.MustParseAddr(tt.v6)}
		if tt.v4 != "" {
			attrs.PublicIP = netip.MustParseAddr(tt.v4)
		}
		own, stale := Own(Claim{Config: dualConfig(t, tt.more+ranges), Attrs: attrs}, leases)
		got := ""
		if own != nil {
			got = own.Key.String()
		}
		if got != tt.own || len(stale) != tt.stale {
			t.Errorf("%s: own %q, stale %v", name, got, stale)
		}
	}
}
