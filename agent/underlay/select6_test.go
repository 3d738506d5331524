package underlay

import (
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/rtnl"
)

// dualFacts are those of a machine with three interfaces: eth0 has both
// families and both default routes, eth1 no global IPv6 address, eth2 no IPv4.
func dualFacts() Facts {
	f := facts()
	f.Interfaces = []Interface{
		{Name: "eth0", Index: 2, MTU: 1500, Addrs: []rtnl.AddrState{
			addr("172.16.1.1/24", permanent), addr("fe80::1/64", permanent), addr("fd00:172::99/64", permanent|unix.IFA_F_DADFAILED),
			addr("fd00:172::77/64", unix.IFA_F_TEMPORARY), addr("fd00:172::1/64", permanent), addr("fd00:172::2/64", permanent),
		}},
		{Name: "eth1", Index: 3, MTU: 1500, Addrs: []rtnl.AddrState{addr("172.17.1.1/24", permanent), addr("fe80::2/64", permanent)}},
		{Name: "eth2", Index: 4, MTU: 1500, Addrs: []rtnl.AddrState{addr("fd00:173::1/64", permanent)}},
	}
	f.DefaultDev = map[lease.Family]int{lease.IPv4: 2, lease.IPv6: 2}
	f.RouteTo = func(a netip.Addr) (int, netip.Addr, error) {
		return 2, netip.MustParseAddr("fd00:172::2"), nil
	}
	return f
}

func TestSelectDual(t *testing.T) {
	ip := netip.MustParseAddr
	both, only6 := []lease.Family{lease.IPv4, lease.IPv6}, []lease.Family{lease.IPv6}
	for name, tt := range map[string]struct {
		families []lease.Family
		o        Options
		default6 int // where not 2
		want     string
	}{
		"the default routes":       {families: both, want: "eth0 172.16.1.1 fd00:172::1"},
		"different default routes": {families: both, default6: 3, want: "the default routes of IPv4 and IPv6 leave by different interfaces"},
		"no IPv6 default route":    {families: both, default6: -1, want: "there is no IPv6 default route to choose by; name the interface with --iface"},
		"IPv6 alone":               {families: only6, default6: 4, want: "eth2 invalid IP fd00:173::1"},
		"by name":                  {families: both, o: Options{Iface: []string{"eth0"}}, want: "eth0 172.16.1.1 fd00:172::1"},
		"by IPv4 address":          {families: both, o: Options{Iface: []string{"172.16.1.1"}}, want: "eth0 172.16.1.1 fd00:172::1"},
		"by IPv6 address":          {families: both, o: Options{Iface: []string{"fd00:172::2"}}, want: "eth0 172.16.1.1 fd00:172::2"},
		"by expression":            {families: both, o: Options{IfaceRegex: []string{"::2$"}}, want: "eth0 172.16.1.1 fd00:172::2"},
		"by reach":                 {families: both, o: Options{CanReach: ip("fd00:99::1")}, want: "eth0 172.16.1.1 fd00:172::2"},
		"link-local alone":         {families: both, o: Options{Iface: []string{"eth1"}}, want: "interface eth1 has no IPv6 address but the link-local fe80::2, which peers cannot send to"},
		"link-local asked for":     {families: only6, o: Options{Iface: []string{"fe80::1"}}, want: "--iface=fe80::1: fe80::1 of eth0 is link-local, and peers need a global address"},
		"the next that has both":   {families: both, o: Options{Iface: []string{"eth1", "eth2", "eth0"}}, want: "eth0 172.16.1.1 fd00:172::1"},
		"no IPv4":                  {families: both, o: Options{Iface: []string{"eth2"}}, want: "interface eth2 has no usable IPv4 address"},
		"IPv6 alone, no IPv4":      {families: only6, o: Options{Iface: []string{"eth2"}}, want: "eth2 invalid IP fd00:173::1"},
		"public-ipv6 chooses":      {families: only6, o: Options{PublicIPv6: ip("fd00:172::2")}, want: "eth0 invalid IP fd00:172::2"},
		"public-ip chooses":        {families: both, o: Options{PublicIP: ip("172.16.1.1")}, want: "eth0 172.16.1.1 fd00:172::1"},
		"public-ipv6 of nobody":    {families: only6, o: Options{PublicIPv6: ip("fd00:172::5")}, want: "--public-ipv6=fd00:172::5: no interface has that address"},
	} {
		f := dualFacts()
		if tt.default6 != 0 {
			f.DefaultDev[lease.IPv6] = max(tt.default6, 0)
		}
		u, err := Select(f, tt.families, tt.o)
		got := strings.Join([]string{u.Name, u.Address.String(), u.Address6.String()}, " ")
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s, not %s", name, got, tt.want)
		}
	}
	u, err := Select(dualFacts(), both, Options{Iface: []string{"eth0"}, PublicIPv6: ip("2001:db8::7")})
	if err != nil || u.Address6 != ip("fd00:172::1") || u.PublicIPv6 != ip("2001:db8::7") || u.PublicIP != u.Address {
		t.Errorf("a public address besides: %+v, %v", u, err)
	}
}
