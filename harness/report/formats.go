package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// formats are the forms of a report, by name. A new form is one line.
var formats = []struct {
	name  string
	write func(io.Writer, *suite.Results) error
}{
	{"text", func(w io.Writer, r *suite.Results) error { return Text(w, r, TextOptions{}) }},
	{"json", JSON},
	{"jsonl", jsonLines},
	{"junit", JUnit},
	{"markdown", Markdown},
	{"html", HTML},
	{"conformance", ConformanceYAML},
}

// Formats returns the names of the forms; text is the first.
func Formats() []string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	return names
}

// Write writes a report in the form of that name.
func Write(w io.Writer, format string, r *suite.Results) error {
	for _, f := range formats {
		if f.name == format {
			return f.write(w, r)
		}
	}
	return fmt.Errorf("a report has no form %q: it is one of %s", format, strings.Join(Formats(), ", "))
}

// Known reports whether there is a form of that name.
func Known(format string) bool { return slices.Contains(Formats(), format) }
