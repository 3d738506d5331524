package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// hack/ci-test tells a GitHub job how its lab was judged, and leaves the reports
// and nothing else.
func TestCIScript(t *testing.T) {
	needLabs(t)
	script, err := filepath.Abs("../../hack/ci-test")
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("apiVersion: overlab/v1alpha1\nkind: Lab\nspec: {podz: []}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, lab, check string
		code             string
		output, summary  string
		files            string
	}{
		{"a sound lab", "default", "TTL-01", "0",
			"verdict=pass\nexit-code=0\n", "**1 check in ", "conformance.yaml evidence junit.xml report.html summary.md up.txt"},
		// Nobody programs the node by-hand.
		{"a broken lab", "by-hand", "CP-03", "1",
			"verdict=fail\nexit-code=1\n", "### FAIL CP-03", "conformance.yaml evidence junit.xml report.html summary.md up.txt"},
		{"no lab", broken, "TTL-01", "2",
			"verdict=broken\nexit-code=2\n", "broken.yaml:3:8: spec.podz", "summary.md up.txt"},
		{"no check", "default", "NONE", "2",
			"verdict=broken\nexit-code=2\n", "", "up.txt"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOverlab(t)
			dir := t.TempDir()
			report, temporary := filepath.Join(dir, "report"), filepath.Join(dir, "tmp")
			if err := os.Mkdir(temporary, 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("bash", "-c", `"$0" "$@"; echo "exit $?"`, script, c.check)
			cmd.Env = append(o.env, "OVERLAB="+program(), "LAB="+c.lab, "REPORT="+report, "TMPDIR="+temporary,
				"GITHUB_OUTPUT="+filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY="+filepath.Join(dir, "summary"))
			said, err := cmd.CombinedOutput()
			if err != nil || !strings.HasSuffix(string(said), "exit "+c.code+"\n") {
				t.Fatalf("not exit %s: %v\n%s", c.code, err, said)
			}
			if got := readFile(t, filepath.Join(dir, "output")); got != "report="+report+"\n"+c.output {
				t.Errorf("outputs:\n%s", got)
			}
			if c.summary != "" && !strings.Contains(readFile(t, filepath.Join(dir, "summary")), c.summary) {
				t.Errorf("no %q in the summary", c.summary)
			}
			if got := names(t, report); got != c.files {
				t.Errorf("the report has %s", got)
			}
			if got := names(t, temporary); got != "" {
				t.Errorf("left behind: %s", got)
			}
		})
	}
}

func readFile(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// names are those of a folder's files, in order.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}
