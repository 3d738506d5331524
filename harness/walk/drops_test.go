package walk_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/internal/labtest"
	"github.com/overlab/overlab/topology"
)

// TestDropReasons: where the kernel can be traced, the walk has its word: it
// agrees with what the state says, and stands alone where no state shows why.
//
//	master-pod-1  ------>  node-1-pod-1
//	cni0, flannel.1        cni0, flannel.1   <- the fault is here
//	ens3 172.16.1.8        ens3 172.16.1.9
func TestDropReasons(t *testing.T) {
	shell := func(script string) func(*testing.T, *labtest.Lab) {
		return func(t *testing.T, l *labtest.Lab) { l.Exec(t, "node-1", "sh", "-ec", script) }
	}
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *labtest.Lab)
		// reasons are those that the kernels have had for it.
		reasons, function, at, cause string
	}{
		{"rp_filter", shell("echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter; ip route replace 10.244.0.0/24 via 172.16.1.8 dev ens3"),
			"IP_RPFILTER", "ip_rcv_finish", "node-1:flannel.1", "rp_filter=1 on node-1's flannel.1"},
		{"nftables", shell("nft 'add table ip f; add chain ip f in { type filter hook input priority 0; }; add rule ip f in udp dport 8472 counter drop'"),
			"NETFILTER_DROP", "nf_hook_slow nft_do_chain", "node-1:ens3", "of chain ip f in drops, whose counter rises"},
		{"forwarding off", shell("echo 0 > /proc/sys/net/ipv4/ip_forward"),
			"IP_INADDRERRORS NOT_SPECIFIED", "ip_error", "node-1:flannel.1", "node-1 does not forward"},
		{"another VNI", shell("ip link del flannel.1; ip link add flannel.1 type vxlan id 2 dev ens3 local 172.16.1.9 dstport 8472 nolearning; ip link set flannel.1 up"),
			"VXLAN_VNI_NOT_FOUND NOT_SPECIFIED", "vxlan_rcv", "node-1:ens3", "the packet has VNI 1 and node-1's flannel.1 has VNI 2"},
		{"no FDB entry", func(t *testing.T, l *labtest.Lab) {
			l.Exec(t, "master", "bridge", "fdb", "del", l.Plan().Nodes[1].VtepMAC.String(), "dev", "flannel.1")
		}, "NO_TX_TARGET NOT_SPECIFIED", "vxlan_xmit", "master:flannel.1", "master has no FDB entry"},
		// What follows is in no state that is dumped.
		{"a tc filter", shell("tc qdisc add dev ens3 ingress; tc filter add dev ens3 parent ffff: matchall action drop"),
			"TC_INGRESS", "sch_handle_ingress __netif_receive_skb_core", "node-1:ens3", "the kernel dropped it at node-1's ens3, by a tc filter on what comes in: TC_INGRESS in"},
		{"a routing rule", shell("ip rule add from 10.244.0.0/16 iif flannel.1 blackhole"),
			"IP_INADDRERRORS IP_INNOROUTES NOT_SPECIFIED", "ip_", "node-1:flannel.1", "the kernel dropped it at node-1's flannel.1, for a route or a routing rule that refuses"},
		{"a firewall's raw table", shell("iptables-legacy -t raw -A PREROUTING -s 10.244.0.0/16 -j DROP"),
			"NETFILTER_DROP", "nf_hook_slow", "node-1:flannel.1", "the firewall of node-1 drops it, and not by nftables"},
	} {
		t.Run(test.name, func(t *testing.T) {
			lab := labtest.Up(t, labtest.Plan(2, 1, 1500))
			needs(t, lab, test.name)
			test.spoil(t, lab)
			r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{})
			if r.Untraced != "" {
				t.Skipf("SKIPPED, NOT TESTED: %s", r.Untraced)
			}
			d := r.Divergence
			if d == nil || d.Dropped == nil {
				t.Fatalf("%s: %+v; the kernel dropped %v", r.Verdict, d, r.Drops)
			}
			t.Logf("%s\n%s\n%s", d.What, d.Cause, d.Dropped)
			if !strings.Contains(d.Cause, test.cause) {
				t.Errorf("the cause is %q, without %q", d.Cause, test.cause)
			}
			k := d.Dropped
			if !strings.Contains(test.reasons, k.Reason) || k.Leg != "request" || k.Space+":"+k.Interface != test.at || !anyPrefix(k.Function, test.function) {
				t.Errorf("the kernel says %+v", *k)
			}
			if r.Verdict != walk.Diverged || !d.Confirmed {
				t.Errorf("%s, confirmed %v", r.Verdict, d.Confirmed)
			}
		})
	}
}

func anyPrefix(s, prefixes string) bool {
	for p := range strings.FieldsSeq(prefixes) {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// needs skips what the machine has no command or no kernel for.
func needs(t *testing.T, l *labtest.Lab, fault string) {
	t.Helper()
	for of, probe := range map[string]string{
		"a tc filter":            "tc qdisc add dev lo ingress && tc filter add dev lo parent ffff: matchall action drop && tc qdisc del dev lo ingress",
		"a routing rule":         "ip rule add from 192.0.2.1 blackhole",
		"a firewall's raw table": "iptables-legacy -t raw -L",
	} {
		if of != fault {
			continue
		}
		ns, err := l.Namespace("node-1-pod-1")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code, err := ns.Run(t.Context(), topology.Process{Argv: []string{"sh", "-c", probe}, Stdout: &out, Stderr: &out})
		if err != nil || code != 0 {
			t.Skipf("SKIPPED, NOT TESTED: %s: exit %d, %v: %s", probe, code, err, out.String())
		}
	}
}

// TestNoDropsOfOthers: drops of other packets are not blamed for a walk.
func TestNoDropsOfOthers(t *testing.T) {
	lab := labtest.Up(t, labtest.Plan(2, 2, 1500))
	lab.Exec(t, "node-1", "sh", "-ec", "nft 'add table ip f; add chain ip f x { type filter hook forward priority 0; }; add rule ip f x ip daddr 10.244.1.3 drop'; ip route add blackhole 10.244.1.2/32")
	quiet := make(chan error, 1)
	go func() {
		_, err := walk.Run(t.Context(), lab, "master-pod-2", "node-1-pod-2", walk.Options{})
		quiet <- err
	}()
	r := run(t, lab, "master-pod-1", "node-1-pod-1", walk.Options{})
	if err := <-quiet; err != nil {
		t.Fatal(err)
	}
	if r.Untraced != "" {
		t.Skipf("SKIPPED, NOT TESTED: %s", r.Untraced)
	}
	for _, d := range r.Drops {
		if d.Reason == "NETFILTER_DROP" {
			t.Errorf("another packet's: %s", d)
		}
	}
	if d := r.Divergence; len(r.Drops) == 0 || d == nil || d.Dropped == nil {
		t.Errorf("%s: %+v, %v", r.Verdict, d, r.Drops)
	}
}
