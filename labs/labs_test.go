package labs

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestEveryLabExpands(t *testing.T) {
	all := All()
	if len(all) != 17 {
		t.Fatalf("%d labs ship, want default, five articles, eight for backends, one of dual stack, one of containers and one with a node without an agent", len(all))
	}
	for _, l := range all {
		t.Run(l.Name, func(t *testing.T) {
			spec, err := Load(l.Name)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := spec.Plan()
			if err != nil {
				t.Fatal(err)
			}
			if plan.Name != l.Label() {
				t.Errorf("metadata.name is %s; the folder's label is %s, and they ought to be one", plan.Name, l.Label())
			}
			if l.Title == "" || strings.HasPrefix(l.Title, "#") || !strings.HasPrefix(l.Readme, "# ") {
				t.Errorf("README.md does not begin with a heading: %.40q", l.Readme)
			}
		})
	}
}

// TestReadmeNamesEveryLab: the project's README has a line for each.
func TestReadmeNamesEveryLab(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range All() {
		line := fmt.Sprintf("| [`%s`](labs/%s/README.md) | %s |\n", l.Name, l.Name, l.Title)
		if !strings.Contains(string(readme), line) {
			t.Errorf("README.md lacks %s", line)
		}
	}
}

func TestFind(t *testing.T) {
	for name, want := range map[string]string{
		"000":            "000-vxlan-walk",
		"000-vxlan-walk": "000-vxlan-walk",
		"vxlan-walk":     "000-vxlan-walk",
		"default":        "default",
		"ttl":            "002-ttl",
		"004":            "004-model",
		"host-gw":        "host-gw",
	} {
		l, err := Find(name)
		if err != nil || l.Name != want {
			t.Errorf("Find(%q) = %s, %v; want %s", name, l.Name, err, want)
		}
	}
	for name, want := range map[string]string{
		"vxlan-wlak": "did you mean vxlan-walk?",
		"005":        "there are 000-vxlan-walk, 001-two-nics",
		"":           "there are 000-vxlan-walk, 001-two-nics",
		"nothing":    "there are 000-vxlan-walk, 001-two-nics",
	} {
		_, err := Find(name)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Find(%q): %v; want an error with %q", name, err, want)
		}
	}
}
