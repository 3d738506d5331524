package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

// tunnelTo is what node 1 has of IPsec for a peer.
//
//	node 1  172.16.0.1 ──ESP── 172.16.0.N  node N
//	10.244.1.0/24                    10.244.N.0/24
func tunnelTo(n int, withSAs bool) State {
	s := NewState()
	here, there := ip("172.16.0.1"), netip.AddrFrom4([4]byte{172, 16, 0, byte(n)})
	pods, remote := prefix("10.244.1.0/24"), netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(n), 0}), 24)
	s.Policies.Add(
		Policy{Dir: rtnl.Out, Src: pods, Dst: remote, TunnelSrc: here, TunnelDst: there},
		Policy{Dir: rtnl.In, Src: remote, Dst: pods, TunnelSrc: there, TunnelDst: here},
		Policy{Dir: rtnl.Forward, Src: remote, Dst: pods, TunnelSrc: there, TunnelDst: here})
	if withSAs {
		s.SAs.Add(SA{Src: here, Dst: there, SPI: 0x80000000 + uint32(n), Key: SAKey{1, byte(n)}},
			SA{Src: there, Dst: here, SPI: 0x90000000 + uint32(n), Key: SAKey{2, byte(n)}})
	}
	return s
}

func texts(changes []Change) []string {
	var out []string
	for _, c := range changes {
		out = append(out, c.String())
	}
	return out
}

// TestDiffIPsec: what comes is made ready before what goes, associations before
// the policies that ask for them; and no key is printed.
func TestDiffIPsec(t *testing.T) {
	want := tunnelTo(2, true)
	want.Routes.Add(Route{Dst: prefix("10.244.2.0/24"), Via: ip("172.16.0.2"), Dev: "eth0"})
	have := tunnelTo(3, true)
	have.Routes.Add(Route{Dst: prefix("10.244.3.0/24"), Via: ip("172.16.0.3"), Dev: "eth0"})
	const add = " reqid 7304812 mode tunnel aead 'rfc4106(gcm(aes))' KEY 128 flag esn replay-window 1024"
	const out2, in2 = "src 172.16.0.1 dst 172.16.0.2 proto esp", "src 172.16.0.2 dst 172.16.0.1 proto esp"
	if d := cmp.Diff([]string{
		"ip xfrm state add " + in2 + " spi 0x90000002" + add,
		"ip xfrm state add " + out2 + " spi 0x80000002" + add,
		"ip xfrm policy update src 10.244.1.0/24 dst 10.244.2.0/24 dir out priority 1000 tmpl " + out2 + " reqid 7304812 mode tunnel",
		"ip xfrm policy update src 10.244.2.0/24 dst 10.244.1.0/24 dir in priority 1000 tmpl " + in2 + " reqid 7304812 mode tunnel",
		"ip xfrm policy update src 10.244.2.0/24 dst 10.244.1.0/24 dir fwd priority 1000 tmpl " + in2 + " reqid 7304812 mode tunnel",
		"ip route replace 10.244.2.0/24 via 172.16.0.2 dev eth0",
		"ip route del 10.244.3.0/24 via 172.16.0.3 dev eth0",
		"ip xfrm policy delete src 10.244.1.0/24 dst 10.244.3.0/24 dir out",
		"ip xfrm policy delete src 10.244.3.0/24 dst 10.244.1.0/24 dir in",
		"ip xfrm policy delete src 10.244.3.0/24 dst 10.244.1.0/24 dir fwd",
		"ip xfrm state delete src 172.16.0.3 dst 172.16.0.1 proto esp spi 0x90000003",
		"ip xfrm state delete src 172.16.0.1 dst 172.16.0.3 proto esp spi 0x80000003",
	}, texts(Diff(want, have))); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	altered := NewState()
	for sa := range tunnelTo(2, true).SAs {
		sa.Other = "mode 0"
		altered.SAs.Add(sa)
	}
	changes := Diff(tunnelTo(2, true), altered)
	if changes[0].Verb != Delete || changes[1].Verb != Delete || changes[2].Verb != Add {
		t.Errorf("altered associations: %q", texts(changes))
	}
	for sa := range want.SAs {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d"} {
			if got := fmt.Sprintf(verb, sa); !strings.Contains(got, "KEY") {
				t.Errorf("%s prints %s", verb, got)
			}
		}
	}
}

// withIPsec runs fn in a namespace, with a picture of its IPsec.
func withIPsec(t *testing.T, fn func(*Kernel) error) {
	t.Helper()
	err := nstest.New(t).Do(func() error {
		k, err := Open(Scope{IPsec: true})
		if err != nil {
			return err
		}
		return errors.Join(fn(k), k.Close())
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skip("SKIPPED, NOT TESTED: this kernel has no IPsec (CONFIG_XFRM_USER)")
	}
	if err != nil {
		t.Error(err)
	}
}

// hasESP skips the test where the kernel encrypts nothing.
func hasESP(t *testing.T) {
	t.Helper()
	if err := nstest.New(t).Do(ProbeESP); errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOSYS) {
		t.Skip("SKIPPED, NOT TESTED: this kernel has no ESP with AES-GCM (CONFIG_INET_ESP, CONFIG_CRYPTO_GCM): run `make test-kernel`")
	} else if err != nil {
		t.Fatal(err)
	}
}

// foreign is another program's policy, which must stay whatever happens.
const foreign = "ip xfrm policy add src 10.9.0.0/16 dst 10.8.0.0/16 dir out priority 5 tmpl src 1.1.1.1 dst 2.2.2.2 proto esp reqid 11 mode tunnel"

// TestPolicies: they are made, and made again whatever somebody does to them.
func TestPolicies(t *testing.T) {
	const own = "src 10.244.1.0/24 dst 10.244.2.0/24 dir out"
	for name, tamper := range map[string]string{
		"nothing":          "true",
		"one deleted":      "ip xfrm policy delete " + own,
		"all deleted":      "ip xfrm policy flush; " + foreign,
		"level use":        "ip xfrm policy update src 10.244.2.0/24 dst 10.244.1.0/24 dir in priority 1000 tmpl src 172.16.0.2 dst 172.16.0.1 proto esp reqid 7304812 mode tunnel level use",
		"another end":      "ip xfrm policy update " + own + " priority 1000 tmpl src 172.16.0.1 dst 172.16.0.9 proto esp reqid 7304812 mode tunnel",
		"another priority": "ip xfrm policy update " + own + " priority 7 tmpl src 172.16.0.1 dst 172.16.0.2 proto esp reqid 7304812 mode tunnel",
		"no template":      "ip xfrm policy update " + own + " priority 1000",
		"transport mode":   "ip xfrm policy update " + own + " priority 1000 tmpl src 172.16.0.1 dst 172.16.0.2 proto esp reqid 7304812 mode transport",
		"blocked":          "ip xfrm policy update " + own + " action block priority 1000 tmpl src 172.16.0.1 dst 172.16.0.2 proto esp reqid 7304812 mode tunnel",
	} {
		t.Run(name, func(t *testing.T) {
			withIPsec(t, func(k *Kernel) error {
				sh(t, foreign)
				want := tunnelTo(2, false)
				settle(t, k, want)
				sh(t, tamper)
				if changed, err := k.Refresh(); err != nil || changed != (tamper != "true") {
					t.Errorf("noticed: %v, %v", changed, err)
				}
				settle(t, k, want)
				settle(t, k, tunnelTo(3, false))
				if n, err := RemoveIPsec(); n != 3 || err != nil {
					t.Errorf("removed %d policies (%v), not 3", n, err)
				}
				if got := sh(t, "ip xfrm policy"); strings.Count(got, "src ") != 2 || !strings.Contains(got, "src 10.9.0.0/16 dst 10.8.0.0/16") {
					t.Errorf("left:\n%s", got)
				}
				return nil
			})
		})
	}
}

// TestAssociations: likewise, on a kernel that encrypts.
func TestAssociations(t *testing.T) {
	hasESP(t)
	const own = "src 172.16.0.1 dst 172.16.0.2 proto esp spi 0x80000002"
	for name, tamper := range map[string]string{
		"nothing":     "true",
		"one deleted": "ip xfrm state delete dst 172.16.0.2 proto esp spi 0x80000002",
		"all deleted": "ip xfrm state flush",
		"another key": "ip xfrm state delete dst 172.16.0.2 proto esp spi 0x80000002; ip xfrm state add " + own +
			" reqid 7304812 mode tunnel aead 'rfc4106(gcm(aes))' 0x" + strings.Repeat("00", 20) + " 128 flag esn replay-window 1024",
		"without ESN": "ip xfrm state delete dst 172.16.0.2 proto esp spi 0x80000002; ip xfrm state add " + own +
			" reqid 7304812 mode tunnel aead 'rfc4106(gcm(aes))' 0x0102" + strings.Repeat("00", 18) + " 128",
	} {
		t.Run(name, func(t *testing.T) {
			withIPsec(t, func(k *Kernel) error {
				want := tunnelTo(2, true)
				settle(t, k, want)
				sh(t, tamper)
				if changed, err := k.Refresh(); err != nil || changed != (tamper != "true") {
					t.Errorf("noticed: %v, %v", changed, err)
				}
				settle(t, k, want)
				settle(t, k, tunnelTo(3, true))
				if n, err := RemoveIPsec(); n != 5 || err != nil {
					t.Errorf("removed %d states and policies (%v), not 5", n, err)
				}
				return nil
			})
		})
	}
}

// TestProbeESP: a kernel that does not encrypt says so by an error that the
// agent knows.
func TestProbeESP(t *testing.T) {
	err := nstest.New(t).Do(ProbeESP)
	if err != nil && !errors.Is(err, unix.EPROTONOSUPPORT) && !errors.Is(err, unix.ENOSYS) {
		t.Error(err)
	}
}
