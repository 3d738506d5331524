package lease

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// FuzzParseKey: what is accepted is spelled as it was, so that no two keys of
// the store are one lease.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{
		"10.244.1.0-24", "10.5.70.0-24&fc00:5:0:5f::-64", "0.0.0.0-0&fc00::-64", "10.244.1.0-024",
		"0.0.0.0-0", "10.244.1.0-24&FC00::-64", "10.244.1.0-24&fc00:0::-64", "10.244.1.0-24&fe80::%eth0-64",
		"0.0.0.0-0&::-0", "128.0.0.0-1", "10.244.1.0-24&::ffff:10.0.0.0-104",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		k, err := ParseKey(s)
		if err != nil {
			if k != (Key{}) || !strings.Contains(err.Error(), "is not the key of a subnet") {
				t.Errorf("%q: %+v, %v", s, k, err)
			}
			return
		}
		if k.String() != s {
			t.Errorf("%q is spelled %q", s, k)
		}
		if !k.Subnet.IsValid() && !k.Subnet6.IsValid() {
			t.Errorf("%q: no subnet", s)
		}
		for _, p := range []netip.Prefix{k.Subnet, k.Subnet6} {
			if p.IsValid() && p.Masked() != p {
				t.Errorf("%q: %s has host bits", s, p)
			}
		}
	})
}

// FuzzAttrs: what is read is written so that reading it again gives the same,
// in the same bytes.
func FuzzAttrs(f *testing.F) {
	for _, s := range []string{
		`{"PublicIP":"172.16.1.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c2:47:8c:7b:96:4c"}}`,
		`{"PublicIP":"172.16.1.3","PublicIPv6":"fd00::3","BackendType":"host-gw","BackendData":null,"BackendV6Data":{"a":"\u2028<&>"}}`,
		`{"publicip":"172.16.1.3","More":[1]}`, `{}`, `null`, `[]`, `{"PublicIP":"fd00::1"}`, `{"PublicIPv6":"fe80::1%eth0"}`,
		`{"PublicIPv6":"::ffff:1.2.3.4"}`, `{"BackendData": { "a" : 1e400 } }`, `{"BackendType":"\ud800"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var a Attrs
		if err := json.Unmarshal(raw, &a); err != nil {
			return
		}
		if !a.Equal(a) {
			t.Fatalf("%s does not equal itself", raw)
		}
		once, err := json.Marshal(a)
		if err != nil {
			t.Fatalf("%s cannot be written: %v", raw, err)
		}
		var b Attrs
		if err := json.Unmarshal(once, &b); err != nil {
			t.Fatalf("%s is written %s, which cannot be read: %v", raw, once, err)
		}
		if !a.Equal(b) {
			t.Errorf("%s is written %s, which reads otherwise", raw, once)
		}
		if again, err := json.Marshal(b); err != nil || !bytes.Equal(again, once) {
			t.Errorf("%s is written %s and then %s (%v)", raw, once, again, err)
		}
		if a.PublicIPv6.Zone() != "" {
			t.Errorf("%s: an address of one node's link, %s, is no public one", raw, a.PublicIPv6)
		}
	})
}

// FuzzParseConfig: an accepted configuration, written out with nothing left to
// defaults, is the same one, and has subnets to give: each of its length,
// within its bounds and its Network, no two alike, and the last when all others
// are taken.
func FuzzParseConfig(f *testing.F) {
	for _, s := range []string{
		`{"Network":"10.5.0.0/16","SubnetMin":"10.5.7.0","Backend":{"Type":"vxlan"}}`,
		`{"Network":"10.5.0.0/28","Backend":{"Type":"VXLAN","VNI":7}}`,
		`{"Network":"0.0.0.0/0","SubnetLen":2}`, `{"Network":"255.255.255.0/24","SubnetLen":30}`,
		`{"Network":"10.5.0.0/22","SubnetMin":"10.5.0.0","SubnetMax":"10.5.0.0","SubnetLen":24}`,
		`{"network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","EnableNFTables":true}`,
		`{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::1/48"}`, `{"Backend":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := ParseConfig(raw)
		if err != nil {
			return
		}
		if c.EnableIPv4 && !c.EnableIPv6 {
			checkExplicit(t, raw, c)
		}
		got, err := Allocate(Claim{Config: c}, nil)
		if err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
		taken := takeAll(t, c, nil, got)
		last := len(taken) - 1
		if last > 0 && slices.ContainsFunc(c.Families(), func(f Family) bool { return got[0].Of(f) == got[1].Of(f) }) {
			return // one family has a single subnet, so a single node can be
		}
		claim := Claim{Config: c, Previous: taken[last].Key}
		if got, err := Allocate(claim, taken[:last]); err != nil || len(got) != 1 || got[0] != claim.Previous {
			t.Errorf("%s: the previous key %s is free, and %v is offered (%v)", raw, claim.Previous, got, err)
		}
		more, err := Allocate(Claim{Config: c}, taken)
		if err != nil && !slices.ContainsFunc(c.Families(), func(f Family) bool { return taken[last].Key.Of(f).Addr() == c.Range(f).Max }) {
			t.Errorf("%s: %v after %d subnets", raw, err, len(taken))
		}
		takeAll(t, c, taken, more)
	})
}

// takeAll turns keys into leases, behind those that there are.
func takeAll(t *testing.T, c *Config, leases []Lease, keys []Key) []Lease {
	t.Helper()
	for _, f := range c.Families() {
		set := NewSubnets(c, f)
		for _, l := range leases {
			_ = set.Take(l.Key.Of(f))
		}
		for _, k := range keys {
			if err := set.Take(k.Of(f)); err != nil && k.Of(f) != keys[0].Of(f) {
				t.Error(err)
			}
		}
	}
	for _, k := range keys {
		if !c.allows(k) {
			t.Errorf("%s is allocated, and not allowed", k)
		}
		if same, err := ParseKey(k.String()); err != nil || same != k {
			t.Errorf("%s is allocated, and read as %v (%v)", k, same, err)
		}
		leases = append(leases, Lease{Key: k})
	}
	return leases
}

// checkExplicit writes the configuration's network parts out and reads them
// again.
func checkExplicit(t *testing.T, raw []byte, c *Config) {
	t.Helper()
	fields := []string{
		fmt.Sprintf(`"EnableIPv4":%t,"EnableIPv6":%t,"EnableNFTables":%t,"Backend":%s`, c.EnableIPv4, c.EnableIPv6, c.EnableNFTables, c.Backend),
	}
	for _, f := range c.Families() {
		r, prefix := c.Range(f), map[Family]string{IPv4: "", IPv6: "IPv6"}[f]
		fields = append(fields, fmt.Sprintf(`"%[1]sNetwork":%[2]q,"%[1]sSubnetLen":%[3]d,"%[1]sSubnetMin":%[4]q,"%[1]sSubnetMax":%[5]q`,
			prefix, r.Network, r.Len, r.Min, r.Max))
	}
	explicit := "{" + strings.Join(fields, ",") + "}"
	again, err := ParseConfig([]byte(explicit))
	if err != nil {
		t.Fatalf("%s means %s: %v", raw, explicit, err)
	}
	if again.Range(IPv4) != c.Range(IPv4) || again.Range(IPv6) != c.Range(IPv6) ||
		again.BackendType != c.BackendType || again.EnableNFTables != c.EnableNFTables {
		t.Errorf("%s means %s, which means %+v", raw, explicit, again)
	}
}
