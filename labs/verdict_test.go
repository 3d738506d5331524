package labs

import "testing"

// TestLabs: each lab that retells no article, and needs nobody's hands, passes
// the checks. OVERLAB_TIMEOUT_SCALE is for slow machines.
func TestLabs(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT TESTED: -short leaves the labs out")
	}
	bin := programs(t)
	for _, l := range All() {
		if l.Number() != "" || l.Name == "by-hand" {
			continue
		}
		t.Run(l.Name, func(t *testing.T) {
			lab := up(t, bin, l)
			if out, err := lab.command(t.Context(), "test", "--name", lab.name).CombinedOutput(); err != nil {
				t.Errorf("overlab test: %v\n%s", err, out)
			}
		})
	}
}
