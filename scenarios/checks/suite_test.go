package checks_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// allPass fails the test unless every check passes, or is of another backend
// than the lab's, or of ports that it does not have.
func allPass(t testing.TB, r *suite.Results) {
	t.Helper()
	for _, res := range r.Results {
		other := res.Verdict == suite.NotApplicable && (ofOneBackend(res.ID) || res.ID == "NM-07" || strings.HasPrefix(res.ID, "NT-"))
		if res.Verdict != suite.Pass && !other {
			t.Error(text(res))
		}
	}
	if r.ExitCode() != 0 {
		t.Errorf("exit code %d", r.ExitCode())
	}
}

// ofOneBackend reports whether a check is one backend's own.
func ofOneBackend(id string) bool { return strings.HasPrefix(id, "BE-") || id == "TTL-04" }

// TestCatalogue: every entry is whole, and fits a report of 80 columns.
func TestCatalogue(t *testing.T) {
	for _, c := range catalogue(t).Checks() {
		if c.Source == "" || len(c.Profiles) == 0 || len(c.Title) > 60 {
			t.Errorf("%s: source %q, profiles %v, title of %d bytes", c.ID, c.Source, c.Profiles, len(c.Title))
		}
	}
}

// TestSoundLab: nothing is wrong, and nothing is said to be.
func TestSoundLab(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(3, 2, 1500))
	startStore(t, lab)
	r := run(t, lab, suite.Options{})
	allPass(t, r)
	t.Logf("%d checks in %v", len(r.Results), r.Took)
	if len(r.Frames) < 12 {
		t.Errorf("%d frames are cited, want those of six exchanges and more", len(r.Frames))
	}
	if testing.Verbose() {
		if err := report.Text(os.Stdout, r, report.TextOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// TestShapes: what is expected follows from the plan.
func TestShapes(t *testing.T) {
	shape := func(change func(*topology.Plan)) *topology.Plan {
		p := labtest.Plan(3, 2, 1500)
		change(p)
		return p
	}
	const forged = "SE-01 SE-02 SE-03 SE-04"
	const between = "WF-01 WF-02 WF-03 WF-04 WF-05 WF-06 WF-07 WF-08 WF-09 MTU-01 MTU-02 MTU-03 MTU-04 MTU-05 " + forged
	for name, c := range map[string]struct {
		plan          *topology.Plan
		notApplicable string
	}{
		"the seed's underlay of 1450": {labtest.Plan(3, 1, 1450), "NM-01 NM-06 TTL-01"},
		"another VNI and port": {shape(func(p *topology.Plan) {
			p.Network.Backend.VNI, p.Network.Backend.Port = 42, 4789
		}), ""},
		"an MTU of the backend's own": {shape(func(p *topology.Plan) { p.Network.Backend.MTU = 1400 }), ""},
		"learning":                    {shape(func(p *topology.Plan) { p.Network.Backend.Learning = true }), "SE-03"},
		"a node without pods":         {shape(func(p *topology.Plan) { p.Pods = p.Pods[2:] }), ""},
		"pods on one node": {shape(func(p *topology.Plan) { p.Pods = p.Pods[:2] }),
			"NM-02 NM-04 NM-05 TTL-02 TTL-03 " + between},
		"one node": {labtest.Plan(1, 2, 1500),
			"NM-02 NM-04 NM-05 TTL-02 TTL-03 CP-01 CP-02 CP-03 " + between},
		"no pods": {labtest.Plan(2, 0, 1500),
			"NM-01 NM-02 NM-03 NM-04 NM-05 NM-06 TTL-01 TTL-02 TTL-03 DP-01 DP-02 DP-03 " + strings.Replace(between, "SE", "MTU-06 SE", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			lab := labtest.Up(t, c.plan)
			r := run(t, lab, suite.Options{}, "NM-0[1-6]", "TTL", "DP-0[1-4]", "CP-0[1-35]", "WF", "MTU-0[1-6]", "SE")
			var na []string
			for _, res := range r.Results {
				switch res.Verdict {
				case suite.Pass:
				case suite.NotApplicable:
					if !ofOneBackend(res.ID) {
						na = append(na, res.ID)
					}
				default:
					t.Error(text(res))
				}
			}
			slices.Sort(na)
			want := strings.Fields(c.notApplicable)
			slices.Sort(want)
			if got := strings.Join(na, " "); got != strings.Join(want, " ") {
				t.Errorf("not applicable: %s, want %s", got, c.notApplicable)
			}
		})
	}
}

// TestOtherBackends: what a backend does not have is not asked of it, and the
// reason is given; the rest is.
func TestOtherBackends(t *testing.T) {
	const ofVXLAN, ofMesh = "the lab has no vxlan backend", "the lab has no vxlan backend without DirectRouting"
	const ofWireGuard, ofIPsec, ofUDP = "the lab has no wireguard backend", "the lab has no ipsec backend", "the lab has no udp backend"
	const ofKernel = "the lab has no backend in the kernel"
	const inKernel = "the lab has no backend that only the kernel carries"
	const ofDevice = "the lab has no overlay device between all nodes"
	const noMasquerade = "the lab has no agent that masquerades"
	const ofAny, ofIPIP = "the lab has no backend that connects nodes", "the lab has no ipip backend without DirectRouting"
	never := map[string]string{ // unless it is the backend's own
		"DP-04": ofVXLAN, "DP-05": ofVXLAN, "CP-01": ofMesh, "CP-02": ofMesh, "CP-03": ofMesh, "WF": ofMesh, "SE": ofMesh, "TTL-04": ofUDP,
		"NT-02": noMasquerade, "NT-03": noMasquerade, "NT-04": noMasquerade,
		"BE-01": "the lab has no host-gw backend", "BE-02": ofUDP, "BE-03": ofIPIP, "BE-04": ofWireGuard, "BE-05": ofIPsec,
		"BE-06": "the lab has no vxlan backend with DirectRouting",
	}
	for name, c := range map[string]struct {
		backend topology.Backend
		own     []string          // of those, what is asked of this one
		besides map[string]string // what else is not
	}{
		"host-gw": {hostGW, []string{"BE-01"}, map[string]string{
			"NM-04": ofDevice, "MTU-03": "the backend host-gw takes nothing off the underlay's MTU",
		}},
		"wireguard": {topology.Backend{Type: "wireguard", ListenPort: 51820}, []string{"BE-04"}, map[string]string{"PF-01": inKernel}},
		"udp": {topology.Backend{Type: "udp", Port: 8285}, []string{"BE-02", "TTL-04"}, map[string]string{
			"TTL-02": ofKernel, "TTL-03": ofKernel, "PF-01": inKernel,
		}},
		"ipip": {topology.Backend{Type: "ipip"}, []string{"BE-03"}, map[string]string{"PF-01": inKernel}},
		"DirectRouting": {direct, []string{"BE-06", "DP-04", "DP-05"}, map[string]string{
			"NM-04": ofDevice, "MTU-03": "no two nodes with pods have a tunnel between them",
		}},
		"alloc": {topology.Backend{Type: "alloc"}, nil, map[string]string{
			"NM-02": ofAny, "NM-04": ofDevice, "NM-05": ofAny, "TTL-02": ofAny, "TTL-03": ofAny,
			"MTU-01": ofAny, "MTU-02": ofAny, "MTU-03": ofAny, "MTU-04": ofAny, "MTU-05": ofAny,
			"NT-01": ofAny, "PF-01": inKernel, "PF-02": ofAny,
		}},
	} {
		notApplicable := maps.Clone(never)
		maps.Copy(notApplicable, c.besides)
		for _, id := range c.own {
			delete(notApplicable, id)
		}
		t.Run(name, func(t *testing.T) {
			plan := labtest.Plan(3, 2, 1500)
			plan.Network.Backend = c.backend
			lab := labtest.Up(t, plan)
			startStore(t, lab)
			for _, res := range run(t, lab, suite.Options{}).Results {
				group, _, _ := strings.Cut(res.ID, "-")
				if res.ID == "NM-07" {
					continue // TestNodePorts
				}
				why, not := notApplicable[res.ID]
				if !not {
					why, not = notApplicable[group]
				}
				switch {
				case !not && res.Verdict != suite.Pass:
					t.Error(text(res))
				case not && (res.Verdict != suite.NotApplicable || why != "" && res.Reason != why):
					t.Errorf("want not applicable, %q:\n%s", why, text(res))
				}
				if strings.HasPrefix(res.ID, "BE") {
					t.Log(res.ID, res.Verdict, res.Evidence, res.Reason)
				}
			}
		})
	}
}

// TestNotOurBusiness: what the overlay does not care about is no finding.
func TestNotOurBusiness(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(3, 2, 1500))
	for _, link := range []string{"flannel/1", "cni0", "ens3"} {
		lab.Exec(t, "node-1", "sysctl", "-qw", "net.ipv6.conf."+link+".disable_ipv6=0")
	}
	for _, cmd := range []string{
		"ip route add 169.254.169.254 via 172.16.1.8",
		"ip route add default via 172.16.1.8",
		"ip route add blackhole 10.245.0.0/16",
		"ip link add docker0 type bridge",
		"ip addr add 172.17.0.1/16 dev docker0",
		"ip neigh add 172.16.1.77 dev ens3 lladdr 02:00:00:00:00:77 nud permanent",
		"bridge fdb add 02:00:00:00:00:77 dev ens3 self permanent",
	} {
		lab.Exec(t, "node-1", strings.Fields(cmd)...)
	}
	r := run(t, lab, suite.Options{}, "NM-0[1-6]", "TTL", "DP-0[1-4]", "CP-0[1-35]", "WF", "MTU-0[1-6]", "SE")
	allPass(t, r)
	if !slices.ContainsFunc(r.States["node-1"].RoutesVia("flannel.1"), func(r probe.Route) bool { return r.Dst.Addr().Is6() }) {
		t.Error("IPv6 did not come up, so that nothing is shown")
	}
}

// restartable is a lab whose agents can be restarted; restart is what that
// does.
type restartable struct {
	*labtest.Lab
	restart func(node string) error
}

func (l restartable) RestartAgent(_ context.Context, node string) error { return l.restart(node) }

func TestVtepMAC(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(3, 1, 1500))
	startStore(t, lab)
	mac := lab.Plan().Node("node-1").VtepMAC
	other := topology.MAC{2, 0, 0, 0, 0, 0x99}
	setMAC := func(node string, m topology.MAC) {
		lab.Exec(t, node, "ip", "link", "set", "flannel.1", "address", m.String())
	}
	expect := func(l topology.Lab, v suite.Verdict, want string) {
		t.Helper()
		res := run(t, l, suite.Options{}, "DP-05").Results[0]
		if got := text(res); res.Verdict != v || !strings.Contains(got, want) {
			t.Errorf("want %s, %q:\n%s", v, want, got)
		}
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect(lab, suite.Pass, "not tried over a restart")

	setMAC("node-1", other)
	expect(lab, suite.Fail, "node-1 flannel.1: expected the lease's MAC "+mac.String()+", seen MAC "+other.String())
	setMAC("node-1", mac)
	check(lab.PutLease(t.Context(), "node-1", other))
	expect(lab, suite.Fail, "node-1 flannel.1: expected the lease's MAC "+other.String()+", seen MAC "+mac.String())
	check(lab.DeleteLease(t.Context(), "node-1"))
	expect(lab, suite.Fail, "node-1 flannel.1: expected a lease for 10.244.1.0/24, seen none in the store")
	check(lab.PutLease(t.Context(), "node-1", mac))
	expect(lab, suite.Pass, "")

	// Over a restart of the last node's agent.
	last := lab.Plan().Node("node-2").VtepMAC
	expect(restartable{lab, func(string) error { return nil }}, suite.Pass, "the agent of node-2 restarted")
	expect(restartable{lab, func(string) error { return errors.New("it does not come up") }}, suite.Inconclusive,
		"restart the agent of node-2: it does not come up")
	expect(restartable{lab, func(node string) error {
		setMAC(node, other)
		return lab.PutLease(t.Context(), node, other)
	}}, suite.Fail, "node-2 flannel.1: expected MAC "+last.String()+" as before the agent's restart, seen MAC "+other.String())
}

func TestVtepMACWithoutStore(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	o := quick()
	o.Timeouts.Store /= 10
	if res := run(t, lab, o, "DP-05").Results[0]; res.Verdict != suite.Inconclusive {
		t.Errorf("the store does not run: %s", text(res))
	}
}

// TestDroppedFramesAreInconclusive: with a buffer of one page under a flood,
// the capture loses frames; what it did see is right, and still no pass.
func TestDroppedFramesAreInconclusive(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	ns, err := lab.Namespace("master")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ns.(topology.Local).Dial(t.Context(), "udp", "172.16.1.9:9")
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for payload := make([]byte, 1200); !stop.Load(); {
			_, _ = conn.Write(payload) // nobody listens
		}
	})
	r := run(t, lab, suite.Options{Ring: capture.Ring{BlockSize: 4096, Blocks: 1}}, "WF")
	stop.Store(true)
	wg.Wait()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	for _, res := range r.Results {
		if res.Verdict != suite.Inconclusive || !strings.Contains(res.Reason, "dropped") {
			t.Error(text(res))
		}
	}
	if r.ExitCode() != 3 {
		t.Errorf("exit code %d, want 3", r.ExitCode())
	}
	allPass(t, run(t, lab, suite.Options{}, "WF"))
}

// TestDownUnderlayIsNoPass: a tap that cannot see its own sentinel proves
// nothing.
func TestDownUnderlayIsNoPass(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
	lab.Exec(t, "master", "ip", "link", "set", "ens3", "down")
	o := quick()
	o.Timeouts.Sentinel /= 10
	for _, res := range run(t, lab, o, "WF").Results {
		if res.Verdict == suite.Pass {
			t.Error(text(res))
		}
	}
}

func TestManyNodes(t *testing.T) {
	if testing.Short() {
		t.Skip("not with -short: it makes 48 namespaces")
	}
	lab := labtest.Up(t, labtest.Plan(16, 2, 1500))
	r := run(t, lab, suite.Options{MaxPairs: 300}, "NM-0[1-6]", "TTL", "DP-0[1-4]", "CP-0[1-35]", "WF", "MTU-0[1-6]", "SE")
	allPass(t, r)
	for _, res := range r.Results {
		if res.ID == "TTL-03" && !strings.HasPrefix(res.Evidence, "300 of 960 pairs, ttl=62") {
			t.Errorf("a bounded check says %q", res.Evidence)
		}
	}
	t.Logf("%d checks in %v", len(r.Results), r.Took)
}

func BenchmarkSuite(b *testing.B) {
	for _, size := range [][2]int{{3, 2}, {16, 2}, {64, 2}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			lab := labtest.Up(b, labtest.Plan(size[0], size[1], 1500))
			startStore(b, lab)
			for b.Loop() {
				r := run(b, lab, suite.Options{})
				allPass(b, r)
				if b.N == 1 && testing.Verbose() {
					for _, res := range r.Results {
						b.Logf("%s %v %s", res.ID, res.Took, res.Evidence)
					}
				}
			}
		})
	}
}
