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
			t.Fatal(fmt.Sprintf("/readyz said yes, and rules were missing:\n%s", rules))
		}
	}
}
