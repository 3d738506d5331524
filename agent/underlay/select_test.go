package underlay

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func addr(s string, flags uint32) rtnl.AddrState {
	return rtnl.AddrState{Address: netip.MustParsePrefix(s), Flags: flags}
}

var only4 = []lease.Family{lease.IPv4}

const permanent = unix.IFA_F_PERMANENT

// facts are those of a Vagrant machine: a NAT interface with the default
// route, which is the same on every machine, and the one between them.
func facts() Facts {
	return Facts{
		Interfaces: []Interface{
			{Name: "lo", Index: 1, MTU: 65536, Addrs: []rtnl.AddrState{addr("127.0.0.1/8", permanent)}},
			{Name: "enp0s3", Index: 2, MTU: 1500, Addrs: []rtnl.AddrState{addr("10.0.2.15/24", 0)}},
			{Name: "enp0s8", Index: 3, MTU: 1400, Addrs: []rtnl.AddrState{
				addr("169.254.7.7/16", permanent), addr("172.28.1.9/24", 0), addr("172.28.1.7/24", permanent|unix.IFA_F_SECONDARY),
				addr("172.28.1.8/24", permanent), addr("172.28.1.6/24", permanent|unix.IFA_F_DEPRECATED),
			}},
			{Name: "empty0", Index: 4, MTU: 1500},
		},
		DefaultDev: map[lease.Family]int{lease.IPv4: 2},
		RouteTo: func(a netip.Addr) (int, netip.Addr, error) {
			if a == netip.MustParseAddr("172.28.1.99") {
				return 3, netip.MustParseAddr("172.28.1.7"), nil
			}
			return 0, netip.Addr{}, errors.New("network is unreachable")
		},
	}
}

func TestSelect(t *testing.T) {
	ip := netip.MustParseAddr
	tests := map[string]struct {
		o          Options
		noDefault  bool
		name, addr string
		err        string
	}{
		"the default route":             {name: "enp0s3", addr: "10.0.2.15"},
		"no default route":              {noDefault: true, err: "no default route"},
		"public-ip of an interface":     {o: Options{PublicIP: ip("172.28.1.8")}, name: "enp0s8", addr: "172.28.1.8"},
		"public-ip of no interface":     {o: Options{PublicIP: ip("192.0.2.1")}, err: "--public-ip=192.0.2.1: no interface has that address"},
		"iface by name":                 {o: Options{Iface: []string{"enp0s8"}}, name: "enp0s8", addr: "172.28.1.8"},
		"iface by address":              {o: Options{Iface: []string{"172.28.1.9"}}, name: "enp0s8", addr: "172.28.1.9"},
		"the first iface that exists":   {o: Options{Iface: []string{"eth9", "10.9.9.9", "enp0s3", "enp0s8"}}, name: "enp0s3", addr: "10.0.2.15"},
		"an iface without address":      {o: Options{Iface: []string{"empty0", "enp0s3"}}, name: "enp0s3", addr: "10.0.2.15"},
		"only one without address":      {o: Options{Iface: []string{"empty0"}}, err: "interface empty0 has no usable IPv4 address"},
		"no such iface":                 {o: Options{Iface: []string{"eth9"}}, err: "--iface=eth9: no interface has that name (there are: lo 127.0.0.1, enp0s3 10.0.2.15"},
		"regex by address":              {o: Options{IfaceRegex: []string{`^172\.28\.1\.`}}, name: "enp0s8", addr: "172.28.1.8"},
		"regex by name":                 {o: Options{IfaceRegex: []string{"^enp0s8$"}}, name: "enp0s8", addr: "172.28.1.8"},
		"regex: addresses before names": {o: Options{IfaceRegex: []string{"enp0s3|^172"}}, name: "enp0s8", addr: "172.28.1.8"},
		"iface before regex":            {o: Options{Iface: []string{"enp0s3"}, IfaceRegex: []string{"enp0s8"}}, name: "enp0s3", addr: "10.0.2.15"},
		"regex after a missing iface":   {o: Options{Iface: []string{"eth9"}, IfaceRegex: []string{"enp0s8"}}, name: "enp0s8", addr: "172.28.1.8"},
		"regex that matches nothing":    {o: Options{IfaceRegex: []string{"wlan"}}, err: "it matches no interface's address or name"},
		"regex that is none":            {o: Options{IfaceRegex: []string{"("}}, err: "missing closing"},
		"can-reach":                     {o: Options{CanReach: ip("172.28.1.99")}, name: "enp0s8", addr: "172.28.1.7"},
		"can-reach nothing":             {o: Options{CanReach: ip("192.0.2.1")}, err: "--iface-can-reach=192.0.2.1: network is unreachable"},
		"can-reach comes last":          {o: Options{IfaceRegex: []string{"enp0s3"}, CanReach: ip("172.28.1.99")}, name: "enp0s3", addr: "10.0.2.15"},
	}
	for name, tt := range tests {
		f := facts()
		if tt.noDefault {
			f.DefaultDev = nil
		}
		u, err := Select(f, only4, tt.o)
		switch {
		case tt.err != "":
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, not %q", name, err, tt.err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case u.Name != tt.name || u.Address.String() != tt.addr || u.PublicIP != u.Address:
			t.Errorf("%s: %+v", name, u)
		}
	}
	u, err := Select(facts(), only4, Options{Iface: []string{"enp0s8"}, PublicIP: ip("203.0.113.7")})
	if err != nil || u.Address.String() != "172.28.1.8" || u.PublicIP.String() != "203.0.113.7" || u.MTU != 1400 {
		t.Errorf("a public address besides: %+v, %v", u, err)
	}
}

func TestRead(t *testing.T) {
	err := nstest.New(t).Do(func() error {
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		var b rtnl.Batch
		b.AddVeth(rtnl.Link{Name: "eth0", Index: 7, MTU: 1400}, rtnl.Link{Name: "port", Index: 6})
		b.AddAddr(7, netip.MustParsePrefix("172.16.1.8/24"))
		b.SetLink(rtnl.Link{Index: 7, Up: true})
		b.SetLink(rtnl.Link{Index: 6, Up: true})
		b.AddRoute(rtnl.Route{Via: netip.MustParseAddr("172.16.1.1")})
		if err := conn.Do(&b); err != nil {
			return err
		}
		f, err := Read(conn)
		if err != nil {
			return err
		}
		for _, o := range []Options{{}, {CanReach: netip.MustParseAddr("192.0.2.1")}, {IfaceRegex: []string{"172"}}} {
			if u, err := Select(f, only4, o); err != nil || u.Name != "eth0" || u.Address.String() != "172.16.1.8" || u.MTU != 1400 {
				t.Errorf("%+v: %+v, %v", o, u, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
