package checks_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/suite"
)

// proofs are the checks that a test of their own proves, by the test's name:
// those whose faults are no commands that are put in and taken out. The page of
// mutations has them too.
func proofs(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("testdata/proofs.json")
	if err != nil {
		t.Fatal(err)
	}
	var out map[string][]string
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEveryCheckIsProven: no check without a fault that it finds, in the table of
// TestEveryFaultIsFound, in that of TestPluginFaults, or in a test of its own,
// which is there and speaks of it.
func TestEveryCheckIsProven(t *testing.T) {
	proven := map[string]bool{}
	for _, f := range pluginFaults() {
		proven[f.check] = true
	}
	for _, f := range faults() {
		proven[f.check] = true
	}
	bodies := testBodies(t)
	for name, ids := range proofs(t) {
		body, there := bodies[name]
		if !there {
			t.Errorf("%s, which is to prove %v, is not there", name, ids)
		}
		for _, id := range ids {
			proven[id] = true
			if !strings.Contains(body, `"`+id+`"`) {
				t.Errorf("%s says nothing of %s", name, id)
			}
		}
	}
	all := map[string]bool{}
	for _, c := range catalogue(t).Checks() {
		all[c.ID] = true
		if !proven[c.ID] {
			t.Errorf("%s: no fault proves it", c.ID)
		}
	}
	for id := range proven {
		if !all[id] {
			t.Errorf("%s is proven, and is no check", id)
		}
	}
}

// TestOnlyInformationJudgesNothing: the one check without a fault is that which
// records and does not judge.
func TestOnlyInformationJudgesNothing(t *testing.T) {
	for _, c := range catalogue(t).Checks() {
		if (c.Level == suite.Information) != (c.ID == "SE-04") {
			t.Errorf("%s has level %s", c.ID, c.Level)
		}
	}
}

// testBodies are the texts of the package's tests by their names.
func testBodies(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if fn, is := d.(*ast.FuncDecl); is && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				out[fn.Name.Name] = string(text[set.Position(fn.Pos()).Offset:set.Position(fn.End()).Offset])
			}
		}
	}
	return out
}
