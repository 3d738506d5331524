package agent_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// dryRun runs the agent's --dry-run on the node and returns what it printed.
func (n *node) dryRun(wantCode int) string {
	n.Helper()
	cmd := exec.Command(n.program, append(n.args, "--dry-run")...)
	cmd.Env = append(cmd.Environ(), asAgent+"=1")
	cmd.Stderr = n.log
	var out []byte
	err := n.set.Do(func() (err error) {
		out, err = cmd.Output()
		return err
	})
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		n.Errorf("exit code %d, not %d:\n%s", code, wantCode, out)
	}
	return string(out)
}

// everything is what a dry run might touch, in the tools' own words.
func (n *node) everything() string {
	n.Helper()
	return n.sh("ip -o link | sed 's/^[0-9]*: //' | sort; ip -o addr | sed 's/^[0-9]*: //' | sort; ip route | sort; ip neigh show nud permanent; bridge fdb | sort; iptables-save | grep -E '^[*-]' || true; cat " + n.subnetFile + " || true")
}

// TestDryRunOfFreshNode: a dry run takes no lease and changes nothing; what it
// prints, when a shell runs it, is what the agent itself would have made.
func TestDryRunOfFreshNode(t *testing.T) {
	for name, config := range map[string]string{"vxlan": netConf, "host-gw": strings.Replace(netConf, "vxlan", "host-gw", 1)} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, config)
			c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
			c.put(leases+"10.244.3.0-24", `{"PublicIP":"172.16.1.3","BackendType":"host-gw"}`)
			n := c.node(1, "--ip-masq", "--ip-blackhole-route")
			before := n.everything()
			said := n.dryRun(1)
			if d := cmp.Diff(before, n.everything()); d != "" {
				t.Errorf("the dry run changed the node:\n%s", d)
			}
			key, value := "", ""
			for line := range strings.Lines(said) {
				if _, rest, ok := strings.Cut(line, "what follows is for "); ok {
					key = strings.TrimSpace(rest)
				}
				if rest, ok := strings.CutPrefix(line, "# + "); ok {
					value = strings.TrimSpace(rest)
				}
			}
			if got, _ := c.get(leases + key); key == "" || got != "" {
				t.Fatalf("the dry run took the lease %q:\n%s", key, said)
			}
			n.sh(said)
			pasted := n.everything()
			c.put(leases+key, value)
			if said := n.dryRun(0); countLines(said, "") != countLines(said, "#") {
				t.Errorf("after the commands it prints\n%s", said)
			}
			n.start().waitReady()
			if d := cmp.Diff(pasted, n.everything()); d != "" {
				t.Errorf("the agent makes something else (-pasted +agent):\n%s", d)
			}
			if said := n.said(); strings.Contains(said, "change=") {
				t.Errorf("the agent had something to change:\n%s", said)
			}
		})
	}
}

// TestDryRunOfDamage: the commands mend what the agent would.
func TestDryRunOfDamage(t *testing.T) {
	c := newCluster(t, netConf)
	c.peer("10.244.2.0", "172.16.1.2", "02:00:00:00:00:02")
	c.peer("10.244.3.0", "172.16.1.3", "02:00:00:00:00:03")
	n := c.node(1, "--ip-masq").start()
	n.picture().wait(t, 2)
	n.waitReady()
	n.stop() // everything stays
	whole := n.everything()
	if said := n.dryRun(0); !strings.Contains(said, "is this node's and stays as it is") {
		t.Errorf("of a sound node it prints\n%s", said)
	}
	for _, damage := range []string{
		"ip neigh del 10.244.2.0 dev flannel.1; ip route del 10.244.3.0/24",
		"bridge fdb replace 02:00:00:00:00:02 dev flannel.1 dst 172.16.1.9 port 4789 via eth0 self permanent",
		"bridge fdb append 02:00:00:00:00:44 dev flannel.1 dst 172.16.1.44 self permanent",
		"ip route replace 10.244.2.0/24 via 172.16.1.3 dev eth0",
		"ip route add 10.244.9.0/24 via 10.244.9.0 dev flannel.1 onlink proto static metric 7",
		"ip addr flush dev flannel.1; ip addr add 10.244.7.7/32 dev flannel.1",
		"ip link set flannel.1 mtu 1400; ip link set flannel.1 down",
		"iptables -D FLANNEL-FWD 1; iptables -t nat -F; rm -r " + strings.TrimSuffix(n.subnetFile, "/subnet.env"),
	} {
		n.sh(damage)
		n.sh(n.dryRun(1))
		if d := cmp.Diff(whole, n.everything()); d != "" {
			t.Errorf("%s (-before +mended):\n%s", damage, d)
		}
		n.dryRun(0)
	}
	// A device with another MAC keeps it, and the lease must follow.
	n.sh("ip link del flannel.1; ip link add flannel.1 address 02:00:00:00:99:99 type vxlan id 1 dev eth0 dstport 4789")
	n.sh(n.dryRun(1))
	if said := n.dryRun(1); countLines(said, "# + ", "02:00:00:00:99:99") != 1 || countLines(said, "") != countLines(said, "#") {
		t.Errorf("of a sound node with another MAC it prints\n%s", said)
	}
}

func TestDryRunTrouble(t *testing.T) {
	c := newCluster(t, "")
	n := c.node(1)
	if out := n.dryRun(2); out != "" || !strings.Contains(n.said(), "the store has no network configuration") {
		t.Errorf("without a configuration: %s", out)
	}
}
