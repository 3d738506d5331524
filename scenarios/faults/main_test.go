package faults

import (
	"os/exec"
	"testing"

	"github.com/overlab/overlab/internal/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// needTools skips a test on a machine that lacks what faults are made with.
func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("SKIPPED, NOT TESTED: this machine has no %s in PATH", tool)
		}
	}
}
