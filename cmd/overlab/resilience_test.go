package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// outage is how long the store is away in a test; 30 s with OVERLAB_LONG.
func outage() time.Duration {
	if os.Getenv("OVERLAB_LONG") != "" {
		return 30 * time.Second
	}
	return 3 * time.Second
}

// TestResilience: with a flow of 100 datagrams a second and more across the
// nodes, agents killed and restarted lose nothing, a store that is away loses
// nothing, and altered entries lose only what was sent while they were wrong.
//
//	master --- node-1 --- node-2     a flow from each to the next
//	  etcd, on 172.16.1.0/24
func TestResilience(t *testing.T) {
	const untold = "RS-02 RS-03 RS-04 RS-08" // the tables do not tell whom a node serves
	for backend, missing := range map[string]string{
		"{Type: vxlan}":                      "",
		"{Type: vxlan, DirectRouting: true}": "",
		"{Type: host-gw}":                    "RS-06", // it has no device
		"{Type: ipip}":                       "",
		"{Type: udp}":                        untold,
		"{Type: wireguard}":                  untold,
	} {
		t.Run(backend, func(t *testing.T) {
			needLabs(t)
			o := newOverlab(t)
			file := filepath.Join(t.TempDir(), "lab.yaml")
			spec := "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: resilience}\nspec: {network: {Network: 10.244.0.0/16, Backend: " + backend + "}}\n"
			if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
				t.Fatal(err)
			}
			upOrSkip(t, o, file)
			var v verdicts
			o.json(t, &v, "test", "RS", "-o", "json", fmt.Sprintf("--outage=%v", outage()))
			for _, r := range v.Results {
				want := "pass"
				if strings.Contains(missing, r.ID) {
					want = "not-applicable"
				}
				if r.Verdict != want {
					t.Errorf("%s is %s, want %s: %s", r.ID, r.Verdict, want, r.Evidence)
				}
				t.Logf("%s %s", r.ID, r.Evidence)
				if want == "pass" && (r.ID == "RS-01" || r.ID == "RS-04" || r.ID == "RS-09") && !strings.Contains(r.Evidence, " 0 of ") {
					t.Errorf("%s does not say that nothing was lost: %s", r.ID, r.Evidence)
				}
			}
			if len(v.Results) != 9 {
				t.Errorf("%d checks", len(v.Results))
			}
			// Nothing of it is left: the lab passes everything, and the
			// repaired node has what it had.
			o.json(t, &v, "test", "NM", "TTL", "DP", "CP", "MTU", "-o", "json")
			if v.Summary["fail"]+v.Summary["inconclusive"] > 0 {
				t.Errorf("after it: %v", v.Summary)
			}
		})
	}
}

// TestKilledHarness: what a check keeps ended runs again when the check is
// killed with its harness.
func TestKilledHarness(t *testing.T) {
	o := labUp(t)
	status := func() (pid, restarts int) {
		a := o.inspect(t).Status.Agents[2]
		return a.PID, a.Restarts
	}
	store := func() bool {
		return o.run(t, "exec", "node-1", "--", "bash", "-c", "exec 3<>/dev/tcp/172.16.1.1/2379").code == 0
	}
	if !store() {
		t.Skip("SKIPPED, NOT TESTED: this machine has no bash to try a TCP port with")
	}
	test := o.command("test", "RS-09", "--outage=10m")
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is gone", func() bool { return !store() })
	if err := test.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = test.Wait()
	eventually(t, "the store is back", store)

	// An interrupted check puts back as well.
	_, before := status()
	test = o.command("test", "RS-0[19]", "--outage=10m")
	if err := test.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the store is gone", func() bool { return !store() })
	if err := test.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = test.Wait()
	eventually(t, "the store is back", store)
	if pid, restarts := status(); pid == 0 || restarts != before+1 {
		t.Errorf("node-2's agent: process %d, restarted %d times, before %d", pid, restarts, before)
	}
	o.allPass(t, "CP", "RS-02")
}

// TestResilienceDualStack: what an overlay must survive, it survives over IPv6
// too, and with its own device and leases.
func TestResilienceDualStack(t *testing.T) {
	o := labUp(t, "dual-stack")
	var v verdicts
	o.json(t, &v, "test", "DS-01/RS", "DS-01/DP-05", "-o", "json", fmt.Sprintf("--outage=%v", outage()))
	for _, r := range v.Results {
		t.Logf("%s %s", r.ID, r.Evidence)
		if r.Verdict != "pass" {
			t.Errorf("%s is %s: %s", r.ID, r.Verdict, r.Evidence)
		}
		if (r.ID == "DS-01/RS-01" || r.ID == "DS-01/RS-04" || r.ID == "DS-01/RS-09") && !strings.Contains(r.Evidence, " 0 of ") {
			t.Errorf("%s does not say that nothing was lost: %s", r.ID, r.Evidence)
		}
	}
	if len(v.Results) != 9 {
		t.Errorf("%d checks", len(v.Results))
	}
}
