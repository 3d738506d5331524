package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestNotRun: what does not run is never taken for passed.
func TestNotRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out, progress bytes.Buffer
	o := options{cache: t.TempDir(), out: &out, progress: &progress}
	err := o.run(t.Context())
	var lack *lackError
	if !errors.As(err, &lack) {
		t.Fatalf("without any program: %v", err)
	}
	if err := skipAll(&out, err); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`{"Action":"skip","Package":"github.com/overlab/overlab/agent","Test":"^(TestIPIP|TestIPsec|TestWireGuard)"}`,
		"SKIPPED, NOT TESTED: there is no apt-get: this needs Debian",
		"there is no qemu-system-x86_64: sudo apt-get install qemu-system-x86",
		"there is no busybox: sudo apt-get install busybox-static",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if got := strings.Count(out.String(), `"skip"`); got != len(suites()) {
		t.Errorf("%d of %d suites are skipped", got, len(suites()))
	}
	out.Reset()
	if err := fail(&out, errors.New("no end")); err != nil || !strings.Contains(out.String(), `{"Action":"fail","Package":"github.com/overlab/overlab/internal/kerneltest"}`) {
		t.Errorf("%v, %s", err, out.String())
	}
}
