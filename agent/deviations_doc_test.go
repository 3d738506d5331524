package agent_test

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// deviations are how many entries the table of docs/flannel.md has.
const deviations = 16

// unproven are the deviations whose tests are not all in this tree.
var unproven = []int{1, 5, 7, 8, 12, 13, 14, 15, 16}

var (
	deviationRow  = regexp.MustCompile(`^\| K(\d+) \|.*\|([^|]*)\|$`)
	deviationTest = regexp.MustCompile(`TestK(\d+)\w*`)
	testFunction  = regexp.MustCompile(`^func (TestK(\d+)[A-Z]\w*)\(`)
)

// TestDeviationsAreProven: docs/flannel.md names for each deviation the tests
// that prove it, and no other, and these are in the tree.
func TestDeviationsAreProven(t *testing.T) {
	tests := deviationTests(t)
	doc, err := os.ReadFile("../docs/flannel.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for line := range strings.Lines(string(doc)) {
		m := deviationRow.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		rows++
		if m[1] != strconv.Itoa(rows) {
			t.Fatalf("row %d is of K%s", rows, m[1])
		}
		if slices.Contains(unproven, rows) {
			continue
		}
		named := deviationTest.FindAllString(m[2], -1)
		slices.Sort(named)
		if slices.Sort(tests[rows]); len(named) == 0 || !slices.Equal(named, tests[rows]) {
			t.Errorf("K%d: docs/flannel.md names %v, and the tree has %v", rows, named, tests[rows])
		}
	}
	if rows != deviations {
		t.Errorf("docs/flannel.md has %d rows, not %d", rows, deviations)
	}
}

// deviationTests finds the tests that are named after a deviation.
func deviationTests(t *testing.T) map[int][]string {
	t.Helper()
	found := map[int][]string{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != ".." {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if m := testFunction.FindStringSubmatch(s.Text()); m != nil {
				n, err := strconv.Atoi(m[2])
				if err != nil {
					return fmt.Errorf("%s: %s: %w", path, m[1], err)
				}
				found[n] = append(found[n], m[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
