package checks_test

import (
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/internal/labtest"
)

// TestCleartextIsNoIPsec: a lab whose nodes send their pods' packets bare, and
// whose plan says ipsec. That what is encrypted passes, labs' TestLabs shows on
// a kernel that encrypts.
func TestCleartextIsNoIPsec(t *testing.T) {
	plan := labtest.Plan(3, 2, 1500)
	plan.Network.Backend = hostGW
	lab := labtest.Up(t, plan)
	plan.Network.Backend.Type = "ipsec"
	res := run(t, lab, suite.Options{}, "BE-05").Results[0]
	got := text(res)
	if res.Verdict != suite.Fail {
		t.Errorf("%s: %s", res.Verdict, got)
	}
	for _, want := range []string{"expected ESP", "in the clear, IP protocol 1", "expected 2 packets of ESP 172.16.1.8 > 172.16.1.9 at least", "0 packets of ESP, 12 packets in the clear, in 6 exchanges; mtu 1423"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
}
