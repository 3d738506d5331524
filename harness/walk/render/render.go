// Package render writes a walk for people (text, HTML, SVG, Mermaid) and for
// machines (JSON, pcapng). A form is a file and an entry of forms.
package render

import (
	"fmt"
	"io"

	"github.com/overlab/overlab/harness/walk"
)

// Options say how a form looks.
type Options struct {
	// Color uses ANSI colours in text. The caller knows whether the writer is
	// a terminal and what NO_COLOR says.
	Color bool
	// Width of text in columns, 80 if zero.
	Width int
}

type form struct {
	name  string
	write func(io.Writer, *walk.Report, Options) error
}

var forms = []form{
	{"text", text},
	{"json", asJSON},
	{"mermaid", mermaid},
	{"svg", svg},
	{"html", page},
	{"pcapng", pcapng},
}

// Forms are the names of the forms; the first is the usual one.
func Forms() []string {
	names := make([]string, len(forms))
	for i, f := range forms {
		names[i] = f.name
	}
	return names
}

// Write writes the walk in a form.
func Write(w io.Writer, name string, r *walk.Report, o Options) error {
	for _, f := range forms {
		if f.name != name {
			continue
		}
		if err := f.write(w, r, o); err != nil {
			return fmt.Errorf("write the walk as %s: %w", name, err)
		}
		return nil
	}
	return fmt.Errorf("write the walk as %s: the forms are %v", name, Forms())
}
