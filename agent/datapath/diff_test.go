package datapath

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func mac(n byte) MAC { return MAC{2, 0, 0, 0, 0, n} }

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// node returns the state of node 1 with peers 2 to peers+1.
func node(peers int) State {
	s := NewState()
	s.Links.Add(Link{
		Name: "flannel.1", Kind: "vxlan", MAC: mac(1), MTU: 1450, Up: true, Underlay: "eth0",
		Local: ip("172.16.0.1"), VNI: 1, Port: 8472,
	})
	s.Addrs.Add(Addr{"flannel.1", prefix("10.244.1.0/32")})
	for i := 2; i < peers+2; i++ {
		subnet := netip.AddrFrom4([4]byte{10, byte(244 + i>>8), byte(i), 0})
		hw := MAC{2, 0, 0, 0, byte(i >> 8), byte(i)}
		s.Neighs[NeighKey{"flannel.1", subnet}] = hw
		s.FDB.Add(FDB{Dev: "flannel.1", MAC: hw, Dst: netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)})})
		s.Routes.Add(Route{Dst: netip.PrefixFrom(subnet, 24), Via: subnet, Dev: "flannel.1", Onlink: true})
	}
	return s
}

func TestDiff(t *testing.T) {
	const fdb2 = "bridge fdb %s 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.2 self permanent"
	tests := map[string]struct {
		want State
		have func(State) State // changes node(1)
		diff []string
	}{
		"nothing": {want: node(1), diff: []string{}},
		"from nothing": {
			want: node(1),
			have: func(State) State { return NewState() },
			diff: []string{
				"ip link add flannel.1 address 02:00:00:00:00:01 mtu 1450 up type vxlan id 1 local 172.16.0.1 dev eth0 dstport 8472 nolearning",
				"ip addr add 10.244.1.0/32 dev flannel.1",
				"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
				fmt.Sprintf(fdb2, "replace"),
				"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
			},
		},
		"a peer leaves: the route goes first": {
			want: node(0),
			diff: []string{
				"ip route del 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
				fmt.Sprintf(fdb2, "del"),
				"ip neigh del 10.244.2.0 dev flannel.1",
			},
		},
		"a peer's VTEP MAC changes: no old entry stays": {
			want: node(1),
			have: func(s State) State {
				s.Neighs[NeighKey{"flannel.1", ip("10.244.2.0")}] = mac(9)
				clear(s.FDB)
				s.FDB.Add(FDB{Dev: "flannel.1", MAC: mac(9), Dst: ip("172.16.0.2")})
				return s
			},
			diff: []string{
				"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
				fmt.Sprintf(fdb2, "replace"),
				"bridge fdb del 02:00:00:00:00:09 dev flannel.1 dst 172.16.0.2 self permanent",
			},
		},
		"the MTU changes in place": {
			want: node(1),
			have: func(s State) State {
				l, _ := s.Link("flannel.1")
				clear(s.Links)
				l.MTU = 1400
				s.Links.Add(l)
				return s
			},
			diff: []string{"ip link set flannel.1 address 02:00:00:00:00:01 mtu 1450 up"},
		},
		"another port makes the device anew, with all that hangs on it": {
			want: node(1),
			have: func(s State) State {
				l, _ := s.Link("flannel.1")
				clear(s.Links)
				l.Port = 4789
				s.Links.Add(l)
				return s
			},
			diff: []string{
				"ip link del flannel.1",
				"ip link add flannel.1 address 02:00:00:00:00:01 mtu 1450 up type vxlan id 1 local 172.16.0.1 dev eth0 dstport 8472 nolearning",
				"ip addr add 10.244.1.0/32 dev flannel.1",
				"ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud permanent",
				fmt.Sprintf(fdb2, "replace"),
				"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
			},
		},
		"a wrong gateway is replaced in one step": {
			want: node(1),
			have: func(s State) State {
				clear(s.Routes)
				s.Routes.Add(Route{Dst: prefix("10.244.2.0/24"), Via: ip("10.244.9.0"), Dev: "flannel.1", Onlink: true})
				return s
			},
			diff: []string{"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"},
		},
		"of two wrong gateways one is deleted before": {
			want: node(1),
			have: func(s State) State {
				clear(s.Routes)
				s.Routes.Add(Route{Dst: prefix("10.244.2.0/24"), Via: ip("10.244.8.0"), Dev: "flannel.1", Onlink: true})
				s.Routes.Add(Route{Dst: prefix("10.244.2.0/24"), Via: ip("10.244.9.0"), Dev: "flannel.1", Onlink: true})
				return s
			},
			diff: []string{
				"ip route del 10.244.2.0/24 via 10.244.9.0 dev flannel.1 onlink",
				"ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
			},
		},
		"a second route to a wanted subnet goes": {
			want: node(1),
			have: func(s State) State {
				s.Routes.Add(Route{Dst: prefix("10.244.2.0/24"), Via: ip("10.244.9.0"), Dev: "flannel.1", Metric: 5})
				return s
			},
			diff: []string{"ip route del 10.244.2.0/24 via 10.244.9.0 dev flannel.1 metric 5"},
		},
		"a further destination of a wanted MAC goes": {
			want: node(1),
			have: func(s State) State {
				s.FDB.Add(FDB{Dev: "flannel.1", MAC: mac(2), Dst: ip("172.16.0.3"), Port: 4789})
				return s
			},
			diff: []string{"bridge fdb del 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.3 port 4789 self permanent"},
		},
		"a further address goes": {
			want: node(1),
			have: func(s State) State {
				s.Addrs.Add(Addr{"flannel.1", prefix("10.244.7.0/32")})
				return s
			},
			diff: []string{"ip addr del 10.244.7.0/32 dev flannel.1"},
		},
		"nothing is wanted": {
			want: NewState(),
			diff: []string{"ip link del flannel.1"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			have := node(1)
			if tt.have != nil {
				have = tt.have(have)
			}
			got := []string{}
			for _, c := range Diff(tt.want, have) {
				got = append(got, c.String())
			}
			if d := cmp.Diff(tt.diff, got); d != "" {
				t.Errorf("changes (-want +got):\n%s", d)
			}
		})
	}
}

func BenchmarkDiff(b *testing.B) {
	want, have := node(256), node(256)
	for b.Loop() {
		if d := Diff(want, have); len(d) != 0 {
			b.Fatal(d)
		}
	}
}
