package ipsec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/agent/backend"
	"github.com/overlab/overlab/agent/datapath"
	"github.com/overlab/overlab/agent/lease"
)

var psk = strings.Repeat("0123456789abcdef", 6)

// eth0 is node n's interface in 172.16.1.0/24.
func eth0(n int) backend.Underlay {
	ip := netip.AddrFrom4([4]byte{172, 16, 1, byte(n)})
	return backend.Underlay{Name: "eth0", MTU: 1500, Address: ip, PublicIP: ip, Adjacent: netip.MustParsePrefix("172.16.1.0/24").Contains}
}

func newBackend(t *testing.T, object string, u backend.Underlay) (*IPsec, error) {
	t.Helper()
	c, err := lease.ParseConfig([]byte(`{"Network":"10.244.0.0/16","Backend":` + object + `}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(filepath.Join(t.TempDir(), "ipsec.json"))(c, u)
	if err != nil {
		return nil, err
	}
	return b.(*IPsec), nil
}

// node is node n's backend, as it starts on a kernel without associations.
func node(t *testing.T, n int) *IPsec {
	t.Helper()
	b, err := newBackend(t, fmt.Sprintf(`{"Type":"ipsec","PSK":%q}`, psk), eth0(n))
	if err != nil {
		t.Fatal(err)
	}
	b.Adopt(datapath.NewState())
	return b
}

func leaseOf(t *testing.T, n int, data string) lease.Lease {
	t.Helper()
	k, err := lease.ParseKey(fmt.Sprintf("10.244.%d.0-24", n))
	if err != nil {
		t.Fatal(err)
	}
	l := lease.Lease{Key: k, Attrs: lease.Attrs{BackendType: Type, PublicIP: eth0(n).PublicIP}}
	if data != "" {
		l.Attrs.BackendData = json.RawMessage(data)
	}
	return l
}

func TestNew(t *testing.T) {
	translated, narrow := eth0(1), eth0(1)
	translated.PublicIP, narrow.MTU = netip.MustParseAddr("192.0.2.1"), 140
	for _, c := range []struct {
		object string
		u      backend.Underlay
		want   string // an error, or the MTU
	}{
		{`{"Type":"ipsec","PSK":"` + psk + `"}`, eth0(1), "1423"},
		{`{"Type":"ipsec","PSK":"` + psk + `","MTU":1400}`, eth0(1), "1323"},
		{`{"Type":"ipsec","PSK":"` + psk + `","MTU":9000}`, eth0(1), "1423"},
		{`{"Type":"ipsec"}`, eth0(1), "PSK has 0 characters; ipsec needs 96: make one with `openssl rand -hex 48`"},
		{`{"Type":"ipsec","PSK":"` + psk[1:] + `"}`, eth0(1), "PSK has 95 characters"},
		{`{"Type":"ipsec","PSK":7}`, eth0(1), "read the ipsec backend's configuration"},
		{`{"Type":"ipsec","PSK":"` + psk + `","UDPEncap":true}`, eth0(1), "holds a socket of port 4500"},
		{`{"Type":"ipsec","PSK":"` + psk + `"}`, translated, "ESP passes no address translation"},
		{`{"Type":"ipsec","PSK":"` + psk + `"}`, narrow, "leaves 63 bytes for pods"},
	} {
		b, err := newBackend(t, c.object, c.u)
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprint(b.MTU())
		}
		if !strings.Contains(got, c.want) || strings.Contains(got, psk[1:]) {
			t.Errorf("%s: %s, not %s", c.object, got, c.want)
		}
	}
}

// TestDesired: what one peer of three takes, and what the other leases lack.
func TestDesired(t *testing.T) {
	b := node(t, 1)
	peer := string(node(t, 2).Data())
	other, err := newBackend(t, fmt.Sprintf(`{"Type":"ipsec","PSK":%q}`, psk+"x"), eth0(8))
	if err != nil {
		t.Fatal(err)
	}
	other.Adopt(datapath.NewState())
	far := leaseOf(t, 3, string(node(t, 3).Data()))
	far.Attrs.PublicIP = netip.MustParseAddr("172.16.9.3")
	want, problems := b.Desired(leaseOf(t, 1, string(b.Data())), []lease.Lease{
		leaseOf(t, 1, string(b.Data())), leaseOf(t, 2, peer), far,
		leaseOf(t, 4, ""), leaseOf(t, 5, "null"), leaseOf(t, 6, `{"Nonce":"AAAA"}`), leaseOf(t, 7, `[]`), leaseOf(t, 8, string(other.Data())),
	})
	if d := cmp.Diff([]string{
		"lease 10.244.4.0-24: it has no BackendData with a nonce: its node runs flanneld, whose ipsec exchanges keys by IKE, and this one's does not; packets for it are blocked",
		"lease 10.244.5.0-24: it has no BackendData with a nonce: its node runs flanneld, whose ipsec exchanges keys by IKE, and this one's does not; packets for it are blocked",
		"lease 10.244.6.0-24: the Nonce in its BackendData has 3 bytes, not 32; packets for it are blocked",
		"lease 10.244.7.0-24: read its BackendData: json: cannot unmarshal array into Go value of type ipsec.leaseData; packets for it are blocked",
		"lease 10.244.8.0-24: its node has another PSK: restart the agents that started before it was changed in net-conf.json; packets for it are blocked",
	}, problems); d != "" {
		t.Errorf("problems (-want +got):\n%s", d)
	}
	for sa := range want.SAs {
		if n := sa.Src.As4()[3] + sa.Dst.As4()[3]; n > 1+3 {
			t.Errorf("an association with a peer that cannot have one: %v", sa)
		}
	}
	for n := 2; n <= 8; n++ {
		if got := policiesWith(want, eth0(n).PublicIP); n != 3 && got != 8 {
			t.Errorf("%d policies with node %d", got, n)
		}
	}
	want = without(want, 4)
	var got []string
	for _, c := range datapath.Diff(want, datapath.NewState()) {
		if text := c.String(); strings.Contains(text, " state ") == strings.Contains(text, "KEY") && !(strings.Contains(text, "xfrm") && strings.Contains(text, "172.16.9.3")) {
			before, _, _ := strings.Cut(text, " spi ")
			before, _, _ = strings.Cut(before, " priority ")
			got = append(got, before)
		}
	}
	if d := cmp.Diff([]string{
		"ip xfrm state add src 172.16.1.2 dst 172.16.1.1 proto esp",
		"ip xfrm state add src 172.16.1.1 dst 172.16.1.2 proto esp",
		"ip xfrm policy update src 10.244.1.0/24 dst 10.244.2.0/24 dir out",
		"ip xfrm policy update src 10.244.1.0/24 dst 172.16.1.2/32 dir out",
		"ip xfrm policy update src 10.244.2.0/24 dst 10.244.1.0/24 dir in",
		"ip xfrm policy update src 10.244.2.0/24 dst 10.244.1.0/24 dir fwd",
		"ip xfrm policy update src 10.244.2.0/24 dst 172.16.1.1/32 dir in",
		"ip xfrm policy update src 172.16.1.1/32 dst 10.244.2.0/24 dir out",
		"ip xfrm policy update src 172.16.1.2/32 dst 10.244.1.0/24 dir in",
		"ip xfrm policy update src 172.16.1.2/32 dst 10.244.1.0/24 dir fwd",
		"ip route replace 10.244.2.0/24 via 172.16.1.2 dev eth0",
	}, drop(got, "10.244.3.0/24")); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if last := got[len(got)-1]; last != "ip route replace 10.244.3.0/24 via 172.16.9.3 dev eth0 onlink" {
		t.Errorf("a peer behind a router: %s", last)
	}
}

// policiesWith counts the policies of one peer.
func policiesWith(s datapath.State, peer netip.Addr) (n int) {
	for p := range s.Policies {
		if p.TunnelSrc == peer || p.TunnelDst == peer {
			n++
		}
	}
	return n
}

// without leaves out the policies and routes of the nodes from n on.
func without(s datapath.State, n byte) datapath.State {
	out := datapath.NewState()
	out.SAs = s.SAs
	segment := netip.MustParsePrefix("172.16.1.0/24")
	late := func(a netip.Addr) bool { return segment.Contains(a) && a.As4()[3] >= n }
	for p := range s.Policies {
		if !late(p.TunnelSrc) && !late(p.TunnelDst) {
			out.Policies.Add(p)
		}
	}
	for r := range s.Routes {
		if !late(r.Via) {
			out.Routes.Add(r)
		}
	}
	return out
}

// drop leaves out the lines that speak of something.
func drop(lines []string, of string) []string {
	var out []string
	for _, l := range lines {
		if !strings.Contains(l, of) {
			out = append(out, l)
		}
	}
	return out
}

// TestKeys: both ends have the same of each direction, nothing else has, and
// the derivation stays what the documentation says.
func TestKeys(t *testing.T) {
	a := end{netip.MustParseAddr("172.16.1.1"), bytes.Repeat([]byte{1}, nonceLen)}
	b := end{netip.MustParseAddr("172.16.1.2"), bytes.Repeat([]byte{2}, nonceLen)}
	k := keys{psk}
	sa := k.association(a, b)
	if got, want := fmt.Sprintf("%x %#x", [20]byte(sa.Key), sa.SPI), golden; got != want {
		t.Errorf("the derivation has changed: %s, not %s", got, want)
	}
	renewed := b
	renewed.nonce = bytes.Repeat([]byte{3}, nonceLen)
	seen := map[datapath.SAKey]bool{}
	for _, other := range []datapath.SA{sa, k.association(b, a), k.association(a, renewed), k.association(renewed, a), keys{psk + "x"}.association(a, b)} {
		if seen[other.Key] || other.SPI < 256 {
			t.Errorf("a key for two purposes, or SPI %#x", other.SPI)
		}
		seen[other.Key] = true
	}
}

// golden was computed apart from the package, with Python's hmac.
const golden = "d8ab6d73d23b9ff3823c73fff7d23f4715bd84cf 0xa865356e"

// pair is what node 1 wants while node 2 is its only peer.
func pair(t *testing.T, b *IPsec, peer json.RawMessage) datapath.State {
	t.Helper()
	own := leaseOf(t, 1, string(b.Data()))
	want, problems := b.Desired(own, []lease.Lease{own, leaseOf(t, 2, string(peer))})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return want
}

// TestRekey: no association is made a second time.
func TestRekey(t *testing.T) {
	b, peer := node(t, 1), node(t, 2).Data()
	nonce := string(b.Data())
	rekey := func(have datapath.State, want bool, why string) {
		t.Helper()
		changed, err := b.Rekey(pair(t, b, peer), have)
		if err != nil || changed != want {
			t.Errorf("%s: %v, %v", why, changed, err)
		}
		if (string(b.Data()) != nonce) != want {
			t.Errorf("%s: the nonce", why)
		}
		nonce = string(b.Data())
	}
	restart := func(have datapath.State) {
		file := b.memory.path
		b = node(t, 1)
		b.memory.path = file
		b.Adopt(have)
	}
	have := datapath.NewState()
	rekey(have, false, "at first nothing was made")
	have = pair(t, b, peer)
	rekey(have, false, "all is there")
	restart(have)
	rekey(have, false, "after a restart")
	before := pair(t, b, peer)

	one := datapath.NewState()
	for sa := range have.SAs {
		one.SAs.Add(sa)
		break
	}
	rekey(one, true, "one is gone")
	rekey(one, false, "others are about to be made")
	for sa := range pair(t, b, peer).SAs {
		if before.SAs.Has(sa) {
			t.Errorf("made again: %v", sa)
		}
	}
	restart(one) // those of the first nonce, and of another
	if string(b.Data()) == nonce {
		t.Error("a restart after all was lost keeps the nonce")
	}
	nonce = string(b.Data())

	rekey(datapath.NewState(), false, "nothing was made")
	have = pair(t, b, peer)
	rekey(have, false, "all is there again")
	old := peer
	peer = node(t, 2).Data()
	rekey(have, false, "the peer begins anew")
	have = pair(t, b, peer)
	peer = old
	rekey(have, true, "the peer's old lease is back")

	b.memory.path = filepath.Join(b.memory.path, "below a file")
	if err := os.WriteFile(filepath.Dir(b.memory.path), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.memory.renew()
	if _, err := b.Rekey(pair(t, b, peer), datapath.NewState()); err == nil {
		t.Error("a memory that cannot be written is no error")
	}
}
