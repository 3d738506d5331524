package lease

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func TestAttrs(t *testing.T) {
	const flannel = `{"PublicIP":"172.16.1.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c2:47:8c:7b:96:4c"}}`
	for in, out := range map[string]string{
		flannel:                                flannel,
		`{"PublicIP":"172.16.1.3"}`:            `{"PublicIP":"172.16.1.3","PublicIPv6":null}`,
		`{"publicip":"172.16.1.3","More":[1]}`: `{"PublicIP":"172.16.1.3","PublicIPv6":null}`,
		`{}`:                                   `{"PublicIP":"0.0.0.0","PublicIPv6":null}`,
		`{"PublicIP":"172.16.1.3","PublicIPv6":"fd00::1"}`:      `{"PublicIP":"172.16.1.3","PublicIPv6":"fd00::1"}`,
		`{"PublicIP":"172.16.1.3","BackendV6Data":{"VNI":1}}`:   `{"PublicIP":"172.16.1.3","PublicIPv6":null,"BackendV6Data":{"VNI":1}}`,
		`{"PublicIP":"172.16.1.3","PublicIPv6":"172.16.1.3"}`:   "PublicIPv6",
		`{"PublicIP":"172.16.1.3","PublicIPv6":"fe80::1%eth0"}`: "PublicIPv6",
		`{"PublicIP":"fd00::1"}`:                                "PublicIP",
		`{"PublicIP":7}`:                                        "cannot unmarshal",
		`{"PublicIP":`:                                          "unexpected end",
		`[]`:                                                    "cannot unmarshal",
	} {
		var a Attrs
		got := ""
		if err := json.Unmarshal([]byte(in), &a); err != nil {
			got = err.Error()
		} else if raw, err := json.Marshal(a); err != nil {
			t.Error(err)
		} else {
			got = string(raw)
		}
		if got != out && (strings.HasPrefix(out, "{") || !strings.Contains(got, out)) {
			t.Errorf("%s became %s, not %s", in, got, out)
		}
	}
}

func TestAttrsEqual(t *testing.T) {
	a := Attrs{PublicIP: netip.MustParseAddr("1.2.3.4"), BackendData: json.RawMessage(`{"VNI":1,"VtepMAC":"x"}`)}
	b := a
	b.BackendData = json.RawMessage(`{ "VtepMAC": "x", "VNI": 1 }`)
	if !a.Equal(b) {
		t.Error("another spelling makes them different")
	}
	for _, data := range []string{`{"VNI":2,"VtepMAC":"x"}`, `{`, ``} {
		b.BackendData = json.RawMessage(data)
		if a.Equal(b) {
			t.Errorf("equal to %s", data)
		}
	}
}

func TestParseKey(t *testing.T) {
	for in, want := range map[string]Key{
		"10.244.1.0-24":                   {Subnet: prefix("10.244.1.0/24")},
		"10.5.70.0-24&fc00:5:0:5f::-64":   {prefix("10.5.70.0/24"), prefix("fc00:5:0:5f::/64")},
		"0.0.0.0-0&fc00:5:0:5f::-64":      {Subnet6: prefix("fc00:5:0:5f::/64")},
		"10.244.1.2-31":                   {Subnet: prefix("10.244.1.2/31")},
		"hello":                           {},
		"":                                {},
		"10.244.1.0":                      {},
		"10.244.1.0/24":                   {},
		"10.244.1.7-24":                   {},
		"10.244.300.0-24":                 {},
		"10.244.1.0-32":                   {},
		"10.244.1.0--1":                   {},
		"10.244.1.0-+24":                  {},
		"x10.244.1.0-24":                  {},
		"10.244.1.0-24x":                  {},
		"sub/10.244.1.0-24":               {},
		"0.0.0.0-0":                       {},
		"fc00::-64":                       {},
		"10.244.1.0-24&":                  {},
		"10.244.1.0-24&10.244.2.0-24":     {},
		"10.244.1.0-24&fc00::1-64":        {},
		"10.244.1.0-24&fc00::-64&fc01::1": {},
		"10.244.1.0-024":                  {},
		"10.244.1.0-24&FC00::-64":         {},
		"10.244.1.0-24&fc00:0::-64":       {},
	} {
		got, err := ParseKey(in)
		if got != want || (err == nil) != (want != Key{}) {
			t.Errorf("%q: %+v (%v), not %+v", in, got, err, want)
		}
		if err == nil && got.String() != in {
			t.Errorf("%q is spelled %q", in, got)
		}
	}
}

func TestParseConfig(t *testing.T) {
	const vxlan = `"Backend":{"Type":"vxlan"}`
	tests := map[string]struct {
		len      int
		min, max string
		err      string
	}{
		`{"Network":"10.5.0.0/16",` + vxlan + `}`:                                               {len: 24, min: "10.5.1.0", max: "10.5.255.0"},
		`{"Network":"10.5.0.1/16",` + vxlan + `}`:                                               {len: 24, min: "10.5.1.0", max: "10.5.255.0"},
		`{"network":"10.5.0.0/16","backend":{"type":"VXLAN"}}`:                                  {len: 24, min: "10.5.1.0", max: "10.5.255.0"},
		`{"Network":"10.5.0.0/22",` + vxlan + `}`:                                               {len: 24, min: "10.5.1.0", max: "10.5.3.0"},
		`{"Network":"10.5.0.0/23",` + vxlan + `}`:                                               {len: 25, min: "10.5.0.128", max: "10.5.1.128"},
		`{"Network":"10.5.0.0/28",` + vxlan + `}`:                                               {len: 30, min: "10.5.0.4", max: "10.5.0.12"},
		`{"Network":"255.255.0.0/16",` + vxlan + `}`:                                            {len: 24, min: "255.255.1.0", max: "255.255.255.0"},
		`{"Network":"10.5.0.0/16","SubnetLen":20,` + vxlan + `}`:                                {len: 20, min: "10.5.16.0", max: "10.5.240.0"},
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.7.0","SubnetMax":"10.5.9.0",` + vxlan + `}`: {len: 24, min: "10.5.7.0", max: "10.5.9.0"},
		`{"Network":"10.5.0.0/16","SubnetMin":"10.6.7.0",` + vxlan + `}`:                        {err: "SubnetMin is not in the range of the Network: 10.6.7.0"},
		`{"Network":"10.5.0.0/16","SubnetMax":"10.5.7.1",` + vxlan + `}`:                        {err: "SubnetMax is not on a SubnetLen boundary: 10.5.7.1"},
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.9.0","SubnetMax":"10.5.7.0",` + vxlan + `}`: {err: "SubnetMin 10.5.9.0 is above SubnetMax 10.5.7.0"},
		`{"Network":"10.5.0.0/29",` + vxlan + `}`:                                               {err: "is too small. Minimum useful network prefix is /28"},
		`{"Network":"10.5.0.0/16","SubnetLen":31,` + vxlan + `}`:                                {err: "SubnetLen must be less than /31"},
		`{"Network":"10.5.0.0/16","SubnetLen":17,` + vxlan + `}`:                                {err: "must be able to accommodate at least four subnets"},
		`{"Network":"10.5.0.0/16","SubnetLen":-1,` + vxlan + `}`:                                {err: "SubnetLen -1"},
		`{"Network":"fd00::/16",` + vxlan + `}`:                                                 {err: "is not an IPv4 network"},
		`{` + vxlan + `}`:                                                                       {err: "field Network is missing"},
		`{"Network":"10.5.0.0/16","Backend":{"VNI":1}}`:                                         {err: "field Backend has no Type"},
		`{"Network":"10.5.0.0/16","Backend":[]}`:                                                {err: "field Backend: json"},
		`{"EnableIPv4":false,` + vxlan + `}`:                                                    {err: "no address family is left"},
		`{"Network":"10.5.0.0/16","EnableIPv6":true,` + vxlan + `}`:                             {err: `field IPv6Network is missing: an IPv6 network`},
		`{"Network":"10.5.0.0/40",` + vxlan + `}`:                                               {err: `"10.5.0.0/40" is not`},
		`{"Network":"10.5.0.0/16"`:                                                              {err: "unexpected end of JSON"},
	}
	for in, want := range tests {
		c, err := ParseConfig([]byte(in))
		switch {
		case want.err != "":
			if err == nil || !strings.Contains(err.Error(), want.err) {
				t.Errorf("%s: %v, not %q", in, err, want.err)
			}
		case err != nil:
			t.Errorf("%s: %v", in, err)
		case c.SubnetLen != want.len || c.SubnetMin.String() != want.min || c.SubnetMax.String() != want.max || c.BackendType != "vxlan":
			t.Errorf("%s: %+v", in, c)
		}
	}
	if c, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16"}`)); err != nil || c.BackendType != "udp" {
		t.Errorf("without a Backend: %+v, %v", c, err)
	}
}

func TestAllocate(t *testing.T) {
	config, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","SubnetMin":"10.5.10.0","SubnetMax":"10.5.13.0","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	lease := func(s string) Lease { return Lease{Key: Key{Subnet: prefix(s)}} }
	for name, tt := range map[string]struct {
		leases   []Lease
		previous netip.Prefix
		want     string
	}{
		"all free":                {want: "10.5.10.0/24 10.5.11.0/24 10.5.12.0/24 10.5.13.0/24"},
		"some taken":              {leases: []Lease{lease("10.5.10.0/24"), lease("10.5.12.0/24")}, want: "10.5.11.0/24 10.5.13.0/24"},
		"a wide one":              {leases: []Lease{lease("10.5.12.0/23")}, want: "10.5.10.0/24 10.5.11.0/24"},
		"a narrow one":            {leases: []Lease{lease("10.5.12.16/28")}, want: "10.5.10.0/24 10.5.11.0/24 10.5.13.0/24"},
		"IPv6 alone":              {leases: []Lease{{Key: Key{Subnet6: prefix("fd00::/64")}}}, want: "10.5.10.0/24 10.5.11.0/24 10.5.12.0/24 10.5.13.0/24"},
		"previous":                {previous: prefix("10.5.12.0/24"), want: "10.5.12.0/24"},
		"previous is taken":       {leases: []Lease{lease("10.5.12.0/24")}, previous: prefix("10.5.12.0/24"), want: "10.5.10.0/24 10.5.11.0/24 10.5.13.0/24"},
		"previous is not allowed": {previous: prefix("10.5.20.0/24"), want: "10.5.10.0/24 10.5.11.0/24 10.5.12.0/24 10.5.13.0/24"},
		"all taken":               {leases: []Lease{lease("10.5.0.0/16")}, want: "out of subnets: every /24 from 10.5.10.0 to 10.5.13.0 is taken"},
	} {
		subnets, err := Allocate(Claim{Config: config, Previous: Key{Subnet: tt.previous}}, tt.leases)
		var got []string
		for _, s := range subnets {
			got = append(got, s.Subnet.String())
		}
		if err != nil {
			got = []string{err.Error()}
		}
		if d := cmp.Diff(tt.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	wide, err := ParseConfig([]byte(`{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	if subnets, err := Allocate(Claim{Config: wide}, nil); err != nil || len(subnets) != candidates || subnets[0] != (Key{Subnet: prefix("10.0.1.0/24")}) {
		t.Errorf("%d candidates from %v (%v)", len(subnets), subnets[0], err)
	}
}

func TestOwn(t *testing.T) {
	config, err := ParseConfig([]byte(`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`))
	if err != nil {
		t.Fatal(err)
	}
	mine, other := netip.MustParseAddr("172.16.1.1"), netip.MustParseAddr("172.16.1.2")
	lease := func(s string, ip netip.Addr) Lease {
		return Lease{Key: Key{Subnet: prefix(s)}, Attrs: Attrs{PublicIP: ip}}
	}
	leases := []Lease{
		lease("10.5.1.0/24", other), lease("10.5.2.0/24", mine), lease("10.5.3.0/24", mine), lease("10.6.3.0/24", mine), lease("10.5.4.0/25", mine),
	}
	for previous, want := range map[string]string{"10.5.3.0/24": "10.5.3.0-24", "10.5.1.0/24": "10.5.2.0-24"} {
		own, stale := Own(Claim{Config: config, Attrs: Attrs{PublicIP: mine}, Previous: Key{Subnet: prefix(previous)}}, leases)
		if own == nil || own.Key.String() != want || len(stale) != 2 {
			t.Errorf("previous %s: own %v, stale %v", previous, own, stale)
		}
	}
	if own, stale := Own(Claim{Config: config, Attrs: Attrs{PublicIP: netip.MustParseAddr("172.16.1.3")}}, leases); own != nil || stale != nil {
		t.Errorf("a stranger owns %v, %v", own, stale)
	}
}
