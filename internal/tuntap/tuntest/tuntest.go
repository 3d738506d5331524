// Package tuntest helps tests that need TUN devices.
package tuntest

import (
	"testing"

	"github.com/overlab/overlab/internal/tuntap"
)

// Require skips the test where this process cannot use the TUN driver.
func Require(t testing.TB) {
	t.Helper()
	if err := tuntap.Usable(); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
}
