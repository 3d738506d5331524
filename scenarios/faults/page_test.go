package faults

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// pageUpdate, set, lets TestPage write the list of docs/faults.md anew.
const pageUpdate = "OVERLAB_FAULTS_DOC"

// TestPage: the list of docs/faults.md is that of the table.
func TestPage(t *testing.T) {
	const path, begin, end = "../../docs/faults.md", "<!-- the table -->\n", "<!-- its end -->\n"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(b), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no marks of where its list is", path)
	}
	page := before + begin + list() + end + after
	if page == string(b) {
		return
	}
	if os.Getenv(pageUpdate) == "" {
		t.Fatalf("%s is not what the table says: make mutation writes it", path)
	}
	if err := os.WriteFile(path, []byte(page), 0o644); err != nil {
		t.Fatal(err)
	}
}

// list is a line a fault.
func list() string {
	words := strings.NewReplacer("pod {pod}", "a pod", "{pod}", "a pod", "{node}", "node-1", "{peer}", "node-2")
	var b strings.Builder
	b.WriteString("| fault | what is wrong | what it breaks | where it was met | checks |\n|---|---|---|---|---|\n")
	for _, f := range All() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", f.ID, words.Replace(f.Title), words.Replace(f.Breaks), words.Replace(f.Case), strings.Join(f.Checks, ", "))
	}
	return b.String()
}
