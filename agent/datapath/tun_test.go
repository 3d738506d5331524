package datapath

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/tuntap/tuntest"
)

// tunNode is a node whose packets to all pods go through a TUN device.
func tunNode() State {
	s := NewState()
	s.Links.Add(Link{Name: "flannel0", Kind: "tun", MTU: 1472, Up: true})
	s.Addrs.Add(Addr{"flannel0", prefix("10.244.1.0/32")})
	s.Routes.Add(Route{Dst: prefix("10.244.0.0/16"), Dev: "flannel0"})
	return s
}

// TestTun: a TUN device is made without netlink, and is state as any other.
//
//	flannel0 10.244.1.0/32, no process attached
func TestTun(t *testing.T) {
	tuntest.Require(t)
	want := tunNode()
	var commands []string
	for _, c := range Diff(want, NewState()) {
		commands = append(commands, c.String())
	}
	if d := cmp.Diff([]string{
		"ip tuntap add dev flannel0 mode tun; ip link set flannel0 addrgenmode none; ip link set flannel0 mtu 1472 up",
		"ip addr add 10.244.1.0/32 dev flannel0",
		"ip route replace 10.244.0.0/16 dev flannel0 scope global",
	}, commands); d != "" {
		t.Errorf("commands (-want +got):\n%s", d)
	}
	for name, tamper := range map[string]string{
		"nothing":              "true",
		"deleted":              "ip link del flannel0",
		"down":                 "ip link set flannel0 down",
		"MTU":                  "ip link set flannel0 mtu 1400",
		"address":              "ip addr flush dev flannel0",
		"route":                "ip route del 10.244.0.0/16",
		"route of link scope":  "ip route replace 10.244.0.0/16 dev flannel0 scope link",
		"route more":           "ip route add 10.244.9.0/24 dev flannel0",
		"of another driver":    "ip link del flannel0; ip link add flannel0 type bridge",
		"a TAP":                "ip link del flannel0; ip tuntap add dev flannel0 mode tap",
		"of several queues":    "ip link del flannel0; ip tuntap add dev flannel0 mode tun multi_queue",
		"made by another hand": "ip link del flannel0; ip tuntap add dev flannel0 mode tun; ip link set flannel0 mtu 1472 up",
	} {
		t.Run(name, func(t *testing.T) {
			err := nstest.New(t).Do(func() error {
				k, err := Open(Scope{Devices: []string{"flannel0"}})
				if err != nil {
					return err
				}
				defer k.Close()
				settle(t, k, want)
				sh(t, tamper)
				settle(t, k, want)
				if got := sh(t, "ip -o addr show dev flannel0"); strings.Contains(got, "inet6") {
					t.Errorf("the kernel has given it an address: %s", got)
				}
				if got := sh(t, "ip -d link show flannel0"); !strings.Contains(got, "POINTOPOINT") || !strings.Contains(got, "persist on") {
					t.Error(got)
				}
				settle(t, k, NewState())
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
