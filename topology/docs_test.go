package topology

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What docs/spec.md shows is what the loader does.
func TestDocumentedExamples(t *testing.T) {
	doc, err := os.ReadFile("../docs/spec.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for i, part := range strings.Split(string(doc), "```") {
		if i%2 == 1 {
			_, text, _ := strings.Cut(part, "\n")
			blocks = append(blocks, text)
		}
	}
	if len(blocks) != 7 {
		t.Fatalf("%d code blocks, want the smallest lab, an example and its plan, perNode, a conflist, a broken lab and its errors", len(blocks))
	}
	parse := func(text string) *Spec {
		s, err := Parse("broken.yaml", []byte(text))
		if err != nil {
			t.Errorf("%s\n%v", text, err)
		}
		return s
	}
	parse(blocks[0])
	parse(blocks[3])
	parse(blocks[4])
	p, err := parse(blocks[1]).Plan()
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	if err := WriteTable(&table, p); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(blocks[2], table.String()); diff != "" {
		t.Errorf("the plan (-documented +real):\n%s", diff)
	}
	_, err = Parse("broken.yaml", []byte(blocks[5]))
	if err == nil {
		t.Fatal("the broken lab is accepted")
	}
	if diff := cmp.Diff(blocks[6], err.Error()+"\n"); diff != "" {
		t.Errorf("the errors (-documented +real):\n%s", diff)
	}
}
