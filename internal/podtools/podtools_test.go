package podtools

import (
	"context"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/podimage"
)

func TestMain(m *testing.M) { nstest.Main(m) }

func TestImageHasTheTools(t *testing.T) {
	if got := slices.Sorted(maps.Keys(tools)); !slices.Equal(got, podimage.Tools) {
		t.Errorf("the program answers to %q, the image has %q", got, podimage.Tools)
	}
	if !Handles("/bin/ping") || Handles("/bin/overlab") {
		t.Error("the program takes itself for a tool, or a tool for itself")
	}
}

func TestArgumentsThatAreRefused(t *testing.T) {
	for line, want := range map[string]string{
		"sleep":               "write how long",
		"sleep soon":          `"soon" is no time`,
		"ping":                "knows `ping [-c COUNT]",
		"ping -c x 127.0.0.1": "knows `ping [-c COUNT]",
		"ping localhost":      "localhost is no IPv4 address",
		"ip rule":             "knows `ip link`",
		"ip link add x":       "knows `ip link`",
	} {
		args := strings.Fields(line)
		err := tools[args[0]](t.Context(), io.Discard, args[1:])
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", line, err, want)
		}
	}
}

func TestSleepEndsWithItsTimeOrASignal(t *testing.T) {
	for _, d := range []string{"0.001", "1ms"} {
		if err := sleep(t.Context(), io.Discard, []string{d}); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := sleep(ctx, io.Discard, []string{"infinity"}); err != nil {
		t.Error(err)
	}
}

// A namespace with one link, a default route and a neighbour:
//
//	eth0, an end of a veth pair, 192.0.2.2/24 -> 192.0.2.1
func TestIPShowsANamespace(t *testing.T) {
	set := nstest.New(t)
	err := set.Do(func() error {
		for _, step := range []func() error{
			func() error {
				return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1450}, PeerName: "peer"})
			},
			func() error { return run("peer", func(l netlink.Link) error { return netlink.LinkSetUp(l) }) },
			func() error { return run("eth0", func(l netlink.Link) error { return netlink.LinkSetUp(l) }) },
			func() error {
				return run("eth0", func(l netlink.Link) error {
					a, err := netlink.ParseAddr("192.0.2.2/24")
					if err != nil {
						return err
					}
					return netlink.AddrAdd(l, a)
				})
			},
			func() error {
				return run("eth0", func(l netlink.Link) error {
					gw, err := netlink.ParseIPNet("192.0.2.1/32")
					if err != nil {
						return err
					}
					return netlink.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Gw: gw.IP})
				})
			},
		} {
			if err := step(); err != nil {
				return err
			}
		}
		for line, want := range map[string]string{
			"addr":       "eth0 inet 192.0.2.2/24 scope universe\n",
			"a":          "eth0 inet 192.0.2.2/24 scope universe\n",
			"-4 r":       "default via 192.0.2.1 dev eth0\n",
			"route show": "192.0.2.0/24 dev eth0 src 192.0.2.2\n",
			"link":       " eth0: <UP,",
		} {
			var out strings.Builder
			if err := ip(t.Context(), &out, strings.Fields(line)); err != nil {
				return err
			}
			if !strings.Contains(out.String(), want) {
				t.Errorf("ip %s shows\n%swithout %q", line, out.String(), want)
			}
		}
		text, err := globalAddresses("eth0")
		if text != " 192.0.2.2/24" {
			t.Errorf("eth0 has%s, %v", text, err)
		}
		var out strings.Builder
		if err := ping(t.Context(), &out, []string{"-c1", "192.0.2.2"}); err != nil || !strings.Contains(out.String(), "seq=0 ttl=64 time=") {
			t.Errorf("ping: %v, %s", err, out.String())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func run(link string, do func(netlink.Link) error) error {
	l, err := netlink.LinkByName(link)
	if err != nil {
		return err
	}
	return do(l)
}
