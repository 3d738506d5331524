package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/overlab/overlab/harness/oracle"
)

// DiffOptions say how a diff looks.
type DiffOptions struct {
	// Color uses ANSI colours.
	Color bool
	// Width in columns, 80 if zero.
	Width int
	// Mend shows the command that makes each entry right.
	Mend bool
}

// Diff writes how a lab differs from its plan: for each node and pod that
// differs and each table, a line an entry, and one line of the sum.
func Diff(w io.Writer, d *oracle.Diff, o DiffOptions) error {
	if o.Width == 0 {
		o.Width = 80
	}
	p := &diffPrinter{w: bufio.NewWriter(w), o: o}
	for _, space := range d.Compared {
		p.space(space, d.In(space))
	}
	for _, u := range d.Unread {
		p.wrapped("? ", "  ", "not compared: "+u)
	}
	p.wrapped("", "  ", d.Summary())
	return p.w.Flush()
}

type diffPrinter struct {
	w *bufio.Writer
	o DiffOptions
}

func (p *diffPrinter) space(name string, entries []oracle.Entry) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprintln(p.w, p.coloured("1", name))
	var kind oracle.Kind
	for _, e := range entries {
		if e.Kind != kind {
			kind = e.Kind
			fmt.Fprintf(p.w, "  %s\n", kind.Tool())
		}
		p.entry(e)
	}
	fmt.Fprintln(p.w)
}

func (p *diffPrinter) entry(e oracle.Entry) {
	text, colour := e.Want, "31"
	switch e.Verb {
	case oracle.Extra:
		text, colour = e.Have, "32"
	case oracle.Wrong:
		text, colour = e.Have, "33"
	}
	if p.o.Color {
		fmt.Fprintf(p.w, "\x1b[%sm", colour)
	}
	p.wrapped("  "+e.Verb.Mark()+" ", "      ", text)
	if p.o.Color {
		fmt.Fprint(p.w, "\x1b[0m")
	}
	for _, c := range e.Changes {
		p.wrapped("      ", "        ", c.String())
	}
	if e.For != "" {
		p.wrapped("      ", "        ", "# "+e.For)
	}
	if p.o.Mend && e.Mend != "" {
		fmt.Fprintf(p.w, "      $ %s\n", e.Mend) // to be copied, and so in one line
	}
}

// wrapped writes text that goes on in further lines where one is too long.
func (p *diffPrinter) wrapped(first, rest, text string) {
	line := first
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > p.o.Width:
			fmt.Fprintln(p.w, line)
			line = rest
		default:
			line += " "
		}
		line += word
	}
	fmt.Fprintln(p.w, line)
}

func (p *diffPrinter) coloured(code, text string) string {
	if !p.o.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
