// Package labs holds the labs that ship with overlab. Each is a folder with
// its topology (lab.yaml) and its exercise (README.md), both in the program.
// A lab that retells an article has the article's names and addresses, and in
// article.txt what the article's commands print, which a test compares with
// what they print in the lab.
package labs

import (
	"embed"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/overlab/overlab/topology"
)

//go:embed */lab.yaml */README.md
var files embed.FS

// Lab is one lab that ships.
type Lab struct {
	// Name is the lab's folder: a number and a label, as 000-vxlan-walk, or a
	// label alone.
	Name string
	// Title is the heading of the exercise.
	Title string
	// Spec is lab.yaml.
	Spec []byte
	// Readme is the exercise, in Markdown.
	Readme string
}

// Number is the part of the name before the label, empty if there is none.
func (l Lab) Number() string {
	number, _, found := strings.Cut(l.Name, "-")
	if !found || strings.Trim(number, "0123456789") != "" {
		return ""
	}
	return number
}

// Label is the part of the name after the number. It is also the metadata.name
// of the spec: what the lab is called when it runs.
func (l Lab) Label() string {
	if n := l.Number(); n != "" {
		return strings.TrimPrefix(l.Name, n+"-")
	}
	return l.Name
}

// All returns the labs in the order of their names.
func All() []Lab {
	var all []Lab
	entries, _ := files.ReadDir(".") // an embedded folder has no errors
	for _, e := range entries {
		spec, _ := files.ReadFile(path.Join(e.Name(), "lab.yaml"))
		readme, _ := files.ReadFile(path.Join(e.Name(), "README.md"))
		heading, _, _ := strings.Cut(string(readme), "\n")
		all = append(all, Lab{
			Name: e.Name(), Title: strings.TrimPrefix(heading, "# "),
			Spec: spec, Readme: string(readme),
		})
	}
	return all
}

// Find returns the lab of that name, number or label. Its error lists what
// there is.
func Find(name string) (Lab, error) {
	all := All()
	i := slices.IndexFunc(all, func(l Lab) bool {
		return name != "" && (name == l.Name || name == l.Number() || name == l.Label())
	})
	if i >= 0 {
		return all[i], nil
	}
	var names, words []string
	for _, l := range all {
		names = append(names, l.Name)
		words = append(words, l.Name, l.Label())
	}
	hint := ""
	if near := topology.Nearest(name, words); near != "" {
		hint = fmt.Sprintf(" did you mean %s?", near)
	}
	return Lab{}, fmt.Errorf("no lab called %q ships with overlab;%s there are %s", name, hint, strings.Join(names, ", "))
}

// Load reads the spec of the lab of that name, number or label.
func Load(name string) (*topology.Spec, error) {
	l, err := Find(name)
	if err != nil {
		return nil, err
	}
	return topology.Parse(path.Join("labs", l.Name, "lab.yaml"), l.Spec)
}
