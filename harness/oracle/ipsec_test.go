package oracle

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/lease"
	"github.com/overlab/overlab/labs"
)

// ipsecNode is what ip(8) showed of node-1 of the lab ipsec, on a kernel that
// encrypts, and the cluster with the leases that its agents had published.
func ipsecNode(t *testing.T) (c *cluster, states, policies string) {
	t.Helper()
	spec, err := labs.Load("ipsec")
	if err != nil {
		t.Fatal(err)
	}
	plan, err := spec.Plan()
	if err != nil {
		t.Fatal(err)
	}
	nonces := []string{
		"kGBjR23tvmDVnxTuKMfyx+I+PUsPvOps43jnS5Gb7YE=", "tYyHWMZUFwWwvcs90NZeXe1ULuuqO8G+Pp/MyhPiK2s=",
		"/qmCfJShhejh+aH6qlpVnWbNV6aFdDXSRr3T8PLvC2M=",
	}
	var leases []lease.Lease
	for i, n := range plan.Nodes {
		leases = append(leases, lease.Lease{Subnet: n.PodCIDR.Masked(), Nonce: nonces[i]})
	}
	read := func(file string) string {
		text, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	return newCluster(plan, leases, nil), read("xfrm-state.txt"), read("xfrm-policy.txt")
}

// What a kernel has, keys and SPIs derived from the leases included, is what the
// oracle wants, and each thing that is otherwise is told in the words of `ip
// xfrm`, but for the keys, which are not told.
func TestIPsec(t *testing.T) {
	c, states, policies := ipsecNode(t)
	const secret = "a283681a0c936cf74245c14efc19b19e07d725db"
	if !strings.Contains(states, secret) {
		t.Fatal("the states have not the key that is to be kept secret")
	}
	for _, x := range []struct {
		name             string
		states, policies [2]string // what takes whose place
		want             []string
		mend             string
	}{
		{name: "sound"},
		{name: "a key", states: [2]string{secret, strings.Repeat("00", 20)}, want: []string{
			"~ ip xfrm state: src 172.16.1.2 dst 172.16.1.3 proto esp spi 0x86c1d405 reqid 7304812 mode tunnel aead rfc4106(gcm(aes)) 128 key sha256:de47c9b27eb8 flag esn; key is sha256:de47c9b27eb8, and ought to be "}},
		{name: "another SPI", states: [2]string{"0x86c1d405", "0x00000005"}, want: []string{
			"~ ip xfrm state: src 172.16.1.2 dst 172.16.1.3 proto esp spi 0x00000005"}},
		{name: "no policy", policies: [2]string{"src 10.244.1.0/24 dst 172.16.1.1/32 \n\tdir out", "src 10.9.0.0/24 dst 10.8.0.0/24 \n\tdir out"}, want: []string{
			"- ip xfrm policy: src 10.244.1.0/24 dst 172.16.1.1/32 dir out priority 1000 tmpl src 172.16.1.2 dst 172.16.1.1 proto esp reqid 7304812 mode tunnel",
			"+ ip xfrm policy: src 10.9.0.0/24 dst 10.8.0.0/24 dir out priority 1000 tmpl src 172.16.1.2 dst 172.16.1.1 proto esp reqid 7304812 mode tunnel"},
			mend: "ip xfrm policy update src 10.244.1.0/24 dst 172.16.1.1/32 dir out priority 1000 tmpl src 172.16.1.2 dst 172.16.1.1 proto esp reqid 7304812 mode tunnel"},
		{name: "a policy of another end", policies: [2]string{"dir out priority 1000 ptype main \n\ttmpl src 172.16.1.2 dst 172.16.1.1", "dir out priority 1000 ptype main \n\ttmpl src 172.16.1.2 dst 172.16.1.99"}, want: []string{
			"~ ip xfrm policy: src 172.16.1.2/32 dst 10.244.0.0/24 dir out priority 1000 tmpl src 172.16.1.2 dst 172.16.1.99 proto esp reqid 7304812 mode tunnel; tmpl is "}},
		{name: "a policy that blocks", policies: [2]string{"", "src 10.244.1.0/24 dst 10.244.2.2/32 \n\tdir out action block priority 0 ptype main \n"}, want: []string{
			"+ ip xfrm policy: src 10.244.1.0/24 dst 10.244.2.2/32 dir out action block"}},
		{name: "a policy of nobody's concern", policies: [2]string{"", "src 192.0.2.0/24 dst 198.51.100.0/24 \n\tdir out action block priority 0 ptype main \nsrc 0.0.0.0/0 dst 0.0.0.0/0 \n\tsocket in priority 0 ptype main \n"}},
	} {
		t.Run(x.name, func(t *testing.T) {
			change := func(text string, by [2]string) string {
				if by[0] == "" {
					return by[1] + text
				}
				return strings.Replace(text, by[0], by[1], 1)
			}
			have := append(xfrmStates(change(states, x.states)), xfrmPoliciesOf(change(policies, x.policies))...)
			want := slices.DeleteFunc(c.ipsec(c.families()[0], c.plan.Node("node-1")), func(f Fact) bool { return f.Kind == KindRoute })
			if len(want) != 20 {
				t.Errorf("%d facts for two peers, want 2 associations and 8 policies for each", len(want))
			}
			entries := Compare(want, have, func(f Fact) bool { return c.owned("node-1", f) })
			if len(entries) != len(x.want) {
				t.Fatalf("%d differences, want %d: %v", len(entries), len(x.want), entries)
			}
			for i, e := range entries {
				if !strings.HasPrefix(e.String(), x.want[i]) {
					t.Errorf("it is told as\n%s\nwant\n%s", e, x.want[i])
				}
				if strings.Contains(e.String(), secret) {
					t.Errorf("it tells a key: %s", e)
				}
			}
			if x.mend != "" && entries[0].Mend != x.mend {
				t.Errorf("it is mended by %q, want %q", entries[0].Mend, x.mend)
			}
		})
	}
}

// Without leases nobody knows which associations there ought to be, and so none
// is too many.
func TestIPsecWithoutLeases(t *testing.T) {
	c, states, policies := ipsecNode(t)
	r := &Reading{Printed: map[string]map[Kind]string{"node-1": {KindXFRMState: states, KindXFRMPolicy: policies}}, LeasesRead: true}
	count := func() (n int) {
		for _, f := range c.foundBeside("node-1", r) {
			if f.Kind == KindXFRMState {
				n++
			}
		}
		return n
	}
	if n := count(); n != 4 {
		t.Errorf("%d associations, want 4", n)
	}
	r.LeasesRead = false
	if n := count(); n != 0 {
		t.Errorf("%d associations are judged without leases", n)
	}
}
