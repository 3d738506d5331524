package agent_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
)

// scrape asks /metrics.
func (n *node) scrape() string {
	n.Helper()
	r, err := n.http.Get("http://127.0.0.1:8080/metrics")
	if err != nil {
		n.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		n.Fatal(err)
	}
	return string(body)
}

func (n *node) waitMetric(line string) {
	n.Helper()
	n.eventually(line, func() error {
		if text := n.scrape(); !strings.Contains(text, "\noverlab_agent_"+line+"\n") {
			return errors.New(text)
		}
		return nil
	})
}

func TestMetrics(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1, "--iptables-resync=1").start()
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	c.put(leases+"10.244.4.0-24", "garbage")
	n.picture().wait(t, 2)
	n.waitReady()
	for _, line := range []string{
		"leases 3", "leases_unreadable 1", `entries_desired{kind="route"} 2`, `entries{kind="route"} 2`, `entries{kind="fdb"} 2`,
		`entries{kind="neigh"} 2`, `entries{kind="link"} 1`, "store_connected 1", `ready{topic="datapath"} 1`,
		`repairs_total{kind="route"} 0`, "reconcile_errors_total 0",
	} {
		n.waitMetric(line)
	}
	n.sh("ip route del 10.244.2.0/24")
	n.waitMetric(`repairs_total{kind="route"} 1`)
	n.sh("iptables -D FLANNEL-FWD 1")
	n.waitMetric(`repairs_total{kind="firewall"} 1`)
	if err := os.Remove(n.subnetFile); err != nil {
		t.Fatal(err)
	}
	n.waitReady() // which looks at it
	n.waitMetric(`repairs_total{kind="subnet_file"} 1`)
	c.etcd.Stop()
	n.waitMetric("store_connected 0")
	n.waitMetric(`ready{topic="store"} 0`)
}

// TestReadyKnowsTheFirewall: with rules that are looked at once an hour, a yes
// must all the same be true at that moment.
func TestReadyKnowsTheFirewall(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1, "--iptables-resync=3600").start()
	n.waitReady()
	for range 5 {
		n.sh("iptables -D FLANNEL-FWD 1")
		n.waitReady()
		if rules := n.sh("iptables-save"); countLines(rules, "-A FLANNEL-FWD") != 2 {
			t.Fatalf("/readyz said yes, and rules were missing:\n%s", rules)
		}
	}
}

// TestBlackhole: what leads to none of the node's pods is dropped, and what
// leads to one is not, whichever of the two routes is made first.
//
//	other node ... flannel.1 -> cni0 10.244.100.1/24
//	                         -> blackhole 10.244.100.0/24 metric 2147483647
func TestBlackhole(t *testing.T) {
	c := newCluster(t, netConf)
	n := c.node(1, "--ip-blackhole-route").start()
	n.waitReady()
	hole := fmt.Sprintf("blackhole %s metric 2147483647", n.subnet())
	present := func() error {
		if got := n.sh("ip route show type blackhole"); strings.TrimSpace(got) != hole {
			return fmt.Errorf("the blackholes are %q, not %q", got, hole)
		}
		return nil
	}
	if err := present(); err != nil {
		t.Fatal(err)
	}
	pod := n.subnet().Addr().Next().Next()
	n.sh(fmt.Sprintf("ip route get %s && exit 1; ip link add cni0 type bridge; ip link set cni0 up; ip addr add %s/24 dev cni0; ip route get %s | grep cni0",
		pod, n.subnet().Addr().Next(), pod))
	// Others' blackholes stay, one of an earlier subnet goes.
	const foreign = "ip route add blackhole 10.244.77.0/24; ip route add blackhole 10.9.9.0/24 metric 2147483647; "
	n.sh(foreign + "ip route del " + hole + "; ip route add blackhole 10.244.66.0/24 metric 2147483647")
	n.eventually("the blackhole comes back, and the stale one goes", func() error {
		got := n.sh("ip route show type blackhole")
		if countLines(got, hole) != 1 || countLines(got, "10.244.66.0/24") != 0 || countLines(got, "") != 3 {
			return errors.New(got)
		}
		return nil
	})
	n.waitReady()
	n.stop()
	n.args = append(n.args, "--cleanup")
	n.start()
	if err := n.cmd.Wait(); err != nil {
		t.Error(err)
	}
	n.cmd = nil
	if got := n.sh("ip route show type blackhole"); countLines(got, "") != 2 || strings.Contains(got, hole) {
		t.Errorf("--cleanup left %s", got)
	}
}

// TestBlackhole6: a node of a network with both families has a blackhole of
// each.
//
//	blackhole 10.244.100.0/24, blackhole fd00:10:244:100::/64, both of metric 2147483647
func TestBlackhole6(t *testing.T) {
	for name, config := range map[string]string{"dual": dualConf, "alloc": strings.Replace(dualConf, "vxlan", "alloc", 1)} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, config)
			n := c.node6(1, "--ip-blackhole-route").start()
			n.waitReady()
			v4, v6 := fmt.Sprintf("blackhole %s metric 2147483647", n.subnet()), fmt.Sprintf("blackhole %s dev lo metric 2147483647", n.subnet6())
			holes := func() string { return n.sh("ip route show type blackhole; ip -6 route show type blackhole") }
			present := func() error {
				if got := holes(); countLines(got, v4) != 1 || countLines(got, v6) != 1 || countLines(got, "") != 3 {
					return errors.New(got)
				}
				return nil
			}
			const stale, foreign = "fd00:10:244:66::/64 metric 2147483647", "fd00:10:244:77::/64"
			n.sh("ip -6 route add blackhole " + foreign + "; ip -6 route add blackhole " + stale + "; ip -6 route del " + v6)
			n.eventually("the blackhole comes back, and the stale one goes", present)
			n.waitReady()
			pod := n.subnet6().Addr().Next().Next()
			n.sh(fmt.Sprintf("! ip route get %[1]s 2>/dev/null; ip link add cni0 type bridge; sysctl -qw net.ipv6.conf.cni0.disable_ipv6=0; ip link set cni0 up;"+
				"ip addr add %[2]s/64 dev cni0 nodad; ip route get %[1]s | grep cni0", pod, n.subnet6().Addr().Next()))
			n.stop()
			n.agent("--cleanup")
			if got := holes(); countLines(got, "") != 1 || countLines(got, "blackhole "+foreign) != 1 {
				t.Errorf("--cleanup left %s", got)
			}
		})
	}
}
