package datapath

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/internal/nstest"
	"github.com/overlab/overlab/internal/rtnl"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// inNode calls fn in a namespace with one end of a veth pair as its underlay:
//
//	eth0 172.16.0.1/16 --- port (same namespace, no address)
//	foreign.9: somebody else's VXLAN device on eth0
func inNode(t testing.TB, fn func(k *Kernel) error) {
	t.Helper()
	err := nstest.New(t).Do(func() error {
		var b rtnl.Batch
		b.AddVeth(rtnl.Link{Name: "eth0", Index: 10, MTU: 1500}, rtnl.Link{Name: "port", Index: 11})
		b.AddAddr(10, prefix("172.16.0.1/16"))
		b.SetLink(rtnl.Link{Index: 10, Up: true})
		b.SetLink(rtnl.Link{Index: 11, Up: true})
		b.AddVxlan(rtnl.Link{Name: "foreign.9", Index: 12, Up: true}, rtnl.Vxlan{VNI: 9, Port: 9999, Dev: 10})
		b.AddFDB(rtnl.FDB{Dev: 12, MAC: mac(77).hardware(), Dst: ip("172.16.0.77")})
		b.AddNeigh(rtnl.Neigh{Dev: 12, IP: ip("10.9.9.9"), MAC: mac(77).hardware()})
		b.AddNeigh(rtnl.Neigh{Dev: 10, IP: ip("172.16.0.77"), MAC: mac(78).hardware()})
		b.AddRoute(rtnl.Route{Dst: prefix("10.9.0.0/16"), Dev: 12, LinkScope: true})
		b.AddRoute(rtnl.Route{Dst: prefix("10.99.200.0/24"), Via: ip("172.16.0.77"), Dev: 10})
		conn, err := rtnl.Dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.Do(&b); err != nil {
			return err
		}
		k, err := Open(Scope{Devices: []string{"flannel.1"}, Underlays: []string{"eth0"}})
		if err != nil {
			return err
		}
		defer k.Close()
		return fn(k)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs a command in the calling thread's namespace.
func sh(t testing.TB, command string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", command).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}

// settle applies the difference and checks that the picture is the wanted
// one, and that a dump sees the same.
func settle(t testing.TB, k *Kernel, want State) {
	t.Helper()
	if _, err := k.Refresh(); err != nil {
		t.Fatal(err)
	}
	if err := k.Apply(Diff(want, k.State())); err != nil {
		t.Error(err)
	}
	checkPicture(t, k, want)
}

func checkPicture(t testing.TB, k *Kernel, want State) {
	t.Helper()
	for _, c := range Diff(want, k.State()) {
		t.Error("the picture still differs:", c)
	}
	dumped, _, err := k.dump()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range Diff(want, dumped) {
		t.Error("the kernel still differs:", c)
	}
}

const foreignState = `bridge fdb show dev foreign.9; ip neigh show dev foreign.9; ip neigh show dev eth0 nud permanent; ` +
	`ip route show dev foreign.9; ip route show dev eth0; ip -d link show foreign.9`

func TestApply(t *testing.T) {
	inNode(t, func(k *Kernel) error {
		foreign := sh(t, foreignState)
		for _, want := range []State{node(3), node(300), node(2), node(0), node(5)} {
			settle(t, k, want)
		}
		if got, want := sh(t, "ip route show dev flannel.1 | head -1"), "10.244.2.0/24 via 10.244.2.0 onlink"; got != want {
			t.Errorf("ip route: %q, not %q", got, want)
		}
		if got, want := sh(t, "bridge fdb show dev flannel.1 | sort | head -1"), "02:00:00:00:00:02 dst 172.16.0.2 self permanent"; got != want {
			t.Errorf("bridge fdb: %q, not %q", got, want)
		}
		if got, want := sh(t, "ip neigh show dev flannel.1 10.244.2.0"), "10.244.2.0 lladdr 02:00:00:00:00:02 PERMANENT"; got != want {
			t.Errorf("ip neigh: %q, not %q", got, want)
		}
		if got := sh(t, "ip -d link show flannel.1"); !strings.Contains(got, "vxlan id 1 local 172.16.0.1 dev eth0 srcport 0 0 dstport 8472 nolearning") ||
			!strings.Contains(got, "mtu 1450") {
			t.Errorf("ip link: %s", got)
		}
		settle(t, k, NewState())
		if got := sh(t, foreignState); got != foreign {
			t.Errorf("what is not ours changed: (-before +after)\n%s", cmp.Diff(foreign, got))
		}
		return nil
	})
}

// TestRefresh tampers with the state and expects the picture to follow from
// the notifications alone, and one Diff to repair it.
func TestRefresh(t *testing.T) {
	tests := map[string]string{
		"neighbour deleted":           "ip neigh del 10.244.2.0 dev flannel.1",
		"neighbour altered":           "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
		"neighbour no longer fixed":   "ip neigh replace 10.244.2.0 lladdr 02:00:00:00:00:02 dev flannel.1 nud reachable",
		"neighbour added":             "ip neigh add 10.244.99.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
		"FDB entry deleted":           "bridge fdb del 02:00:00:00:00:02 dev flannel.1",
		"FDB entry to another node":   "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.3 self permanent",
		"FDB entry to another port":   "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.2 port 4789 self permanent",
		"FDB entry to another VNI":    "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.2 vni 7 self permanent",
		"FDB entry by another device": "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.2 via lo self permanent",
		"FDB entry made static":       "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.3 self static",
		"FDB entry made dynamic":      "bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.2 self dynamic",
		"second dynamic FDB entry":    "bridge fdb append 02:00:00:00:00:02 dev flannel.1 dst 172.16.0.3 self dynamic",
		"default FDB entry":           "bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 172.16.0.3 self permanent",
		"two default FDB entries":     "bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 172.16.0.3; bridge fdb append 00:00:00:00:00:00 dev flannel.1 dst 172.16.0.2",
		"route deleted":               "ip route del 10.244.2.0/24",
		"route by another gateway":    "ip route replace 10.244.2.0/24 via 10.244.3.0 dev flannel.1 onlink",
		"route by another device":     "ip route replace 10.244.2.0/24 via 172.16.0.77 dev eth0",
		"route not onlink":            "ip route replace 10.244.2.0/24 dev flannel.1",
		"route with metrics":          "ip route replace 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink mtu 1000",
		"route of two hops":           "ip route replace 10.244.2.0/24 nexthop via 10.244.2.0 dev flannel.1 onlink nexthop via 172.16.0.77 dev eth0",
		"routes flushed":              "ip route flush dev flannel.1",
		"route added":                 "ip route add 10.99.0.0/16 via 10.244.2.0 dev flannel.1 onlink",
		"route appended":              "ip route append 10.244.2.0/24 via 10.244.3.0 dev flannel.1 onlink",
		"route of another metric":     "ip route add 10.244.2.0/24 via 10.244.3.0 dev flannel.1 onlink metric 7",
		"route of another TOS":        "ip route add 10.244.2.0/24 tos 0x10 via 10.244.3.0 dev flannel.1 onlink",
		"address deleted":             "ip addr del 10.244.1.0/32 dev flannel.1",
		"address added":               "ip addr add 10.244.1.7/32 dev flannel.1",
		"address with a subnet added": "ip addr add 10.77.0.1/16 dev flannel.1",
		"link down":                   "ip link set flannel.1 down",
		"link down and up":            "ip link set flannel.1 down; ip link set flannel.1 up",
		"link MTU":                    "ip link set flannel.1 mtu 1300",
		"link MAC":                    "ip link set flannel.1 address 02:00:00:00:00:55",
		"link deleted":                "ip link del flannel.1",
		"link renamed":                "ip link set flannel.1 down; ip link set flannel.1 name flannel.x; ip link del flannel.x",
		"link of another VNI":         "ip link del flannel.1; ip link add flannel.1 type vxlan id 5 dev eth0 dstport 8472",
		"link of another driver":      "ip link del flannel.1; ip link add flannel.1 type bridge",
		"link with learning":          "ip link set flannel.1 type vxlan learning",
		"link with a TTL":             "ip link set flannel.1 type vxlan ttl 1",
		"link with a TOS":             "ip link set flannel.1 type vxlan tos 0x10",
		"link that inherits its TTL":  "ip link del flannel.1; ip link add flannel.1 address 02:00:00:00:00:01 type vxlan id 1 dev eth0 dstport 8472 local 172.16.0.1 nolearning ttl inherit",
		"link with DF":                "ip link set flannel.1 type vxlan df set",
		"link made a bridge's port":   "ip link add br0 type bridge; ip link set flannel.1 master br0",
		"ARP off":                     "ip link set flannel.1 arp off",
	}
	for name, tamper := range tests {
		t.Run(name, func(t *testing.T) {
			inNode(t, func(k *Kernel) error {
				want := node(3)
				settle(t, k, want)
				sh(t, tamper)
				changed, err := k.Refresh()
				if err != nil {
					return err
				}
				diff := Diff(want, k.State())
				if !changed || len(diff) == 0 {
					t.Fatalf("not noticed (changed=%v, diff=%v)", changed, diff)
				}
				if err := k.Apply(diff); err != nil {
					t.Error(err)
				}
				// What a repair disturbs in its turn is seen in the picture.
				if again := Diff(want, k.State()); len(again) > 0 {
					t.Logf("second pass: %v", again)
					if err := k.Apply(again); err != nil {
						t.Error(err)
					}
				}
				checkPicture(t, k, want)
				if changed, err := k.Refresh(); changed || err != nil {
					t.Errorf("the repair itself is seen as a change (%v)", err)
				}
				return nil
			})
		})
	}
}

// TestLearnedEntriesStay: the kernel makes and forgets them by itself, where
// the network's configuration has Learning.
func TestLearnedEntriesStay(t *testing.T) {
	inNode(t, func(k *Kernel) error {
		want := node(3)
		settle(t, k, want)
		const learned = "02:00:00:00:00:88 dst 172.16.0.88 self"
		sh(t, "bridge fdb add 02:00:00:00:00:88 dev flannel.1 dst 172.16.0.88 self dynamic")
		for range 2 { // as told by a notification, and by a dump
			settle(t, k, want)
			k.Resync()
		}
		if got := sh(t, "bridge fdb show dev flannel.1"); !strings.Contains(got, learned) {
			t.Errorf("%q went:\n%s", learned, got)
		}
		return nil
	})
}

func TestErrorsNameTheDevice(t *testing.T) {
	inNode(t, func(k *Kernel) error {
		settle(t, k, node(1))
		sh(t, "ip link set flannel.1 down; ip link set flannel.1 name other.1") // down: before Linux 6.2 none that is up is renamed
		if _, err := k.Refresh(); err != nil {
			return err
		}
		err := k.Apply(Diff(node(1), k.State()))
		for _, want := range []string{"ip link add flannel.1 ", "file exists", "ip link del other.1"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("beside a device of the same VNI: %v, not %q", err, want)
			}
		}
		sh(t, "ip link set other.1 name flannel.1; ip link set flannel.1 up")
		if _, err := k.Refresh(); err != nil {
			return err
		}
		wrong := Route{Dst: prefix("10.244.9.0/24"), Via: ip("10.244.1.0"), Dev: "flannel.1", Onlink: true}
		err = k.Apply([]Change{{Add, wrong}})
		if want := "ip route replace 10.244.9.0/24 via 10.244.1.0 dev flannel.1 onlink: invalid argument"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a route over the node's own address: %v, not %q", err, want)
		}
		return nil
	})
}

func TestRefreshSeesItsUnderlay(t *testing.T) {
	inNode(t, func(k *Kernel) error {
		settle(t, k, node(1))
		sh(t, "ip link del eth0") // the kernel deletes the VXLAN device with it
		if changed, err := k.Refresh(); err != nil || !changed {
			t.Fatal("the loss of the underlay was not noticed:", err)
		}
		err := k.Apply(Diff(node(1), k.State()))
		if err == nil || !strings.Contains(err.Error(), "link show eth0: no such device") {
			t.Errorf("error without an underlay: %v", err)
		}
		sh(t, "ip link add eth0 type veth peer name port; ip addr add 172.16.0.1/16 dev eth0; ip link set eth0 up; ip link set port up")
		if changed, err := k.Refresh(); err != nil || !changed {
			t.Fatal("the return of the underlay was not noticed:", err)
		}
		settle(t, k, node(1))
		return nil
	})
}

// TestLostNotifications overflows the socket's buffer.
func TestLostNotifications(t *testing.T) {
	inNode(t, func(k *Kernel) error {
		settle(t, k, node(1))
		// As for an ordinary user, who may not have more.
		if err := k.listener.SetReceiveBuffer(4 << 10); err != nil {
			return err
		}
		sh(t, "for i in $(seq 200); do echo neigh replace 10.1.1.$i lladdr 02:00:00:00:01:01 dev flannel.1 nud permanent; done | ip -batch -")
		settle(t, k, node(1))
		return nil
	})
}

func BenchmarkApply(b *testing.B) {
	inNode(b, func(k *Kernel) error {
		empty, full := node(0), node(256)
		for b.Loop() {
			for _, want := range []State{full, empty} {
				if err := k.Apply(Diff(want, k.State())); err != nil {
					b.Fatal(err)
				}
				if d := Diff(want, k.State()); len(d) > 0 {
					b.Fatal(d)
				}
			}
		}
		b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/2, "µs/256-peers")
		return nil
	})
}

func BenchmarkDump(b *testing.B) {
	inNode(b, func(k *Kernel) error {
		settle(b, k, node(256))
		for b.Loop() {
			if _, _, err := k.dump(); err != nil {
				b.Fatal(err)
			}
		}
		return nil
	})
}

func BenchmarkOneMorePeer(b *testing.B) {
	inNode(b, func(k *Kernel) error {
		settle(b, k, node(256))
		states := []State{node(255), node(256)}
		i := 0
		for b.Loop() {
			if err := k.Apply(Diff(states[i%2], k.State())); err != nil {
				b.Fatal(err)
			}
			i++
		}
		return nil
	})
}
