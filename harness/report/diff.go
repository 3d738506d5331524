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
		p.wrapped("? ", "  ", "not compared: "+u, true)
	}
	p.wrapped("", "  ", d.Summary(), true)
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
		if e.Kind == oracle.KindLink { // of whose many attributes few are wrong
			text = e.Dev
		}
	}
	if p.o.Color {
		fmt.Fprintf(p.w, "\x1b[%sm", colour)
	}
	line := "  " + e.Verb.Mark() + " " + text
	note := "# " + e.For
	beside := e.For != "" && len(e.Changes) == 0 && utf8.RuneCountInString(line)+2+utf8.RuneCountInString(note) <= p.o.Width
	p.wrapped("  "+e.Verb.Mark()+" ", "      ", text, !beside)
	if p.o.Color {
		fmt.Fprint(p.w, "\x1b[0m")
	}
	if beside {
		fmt.Fprintln(p.w, "  "+note)
	}
	for _, c := range e.Changes {
		p.wrapped("      ", "        ", c.String(), true)
	}
	if e.For != "" && !beside {
		p.wrapped("      ", "        ", note, true)
	}
	if p.o.Mend && e.Mend != "" {
		fmt.Fprintf(p.w, "      $ %s\n", e.Mend) // to be copied, and so in one line
	}
}

// wrapped writes text that goes on in further lines where one is too long, and
// ends the last one if asked to.
func (p *diffPrinter) wrapped(first, rest, text string, end bool) {
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
	fmt.Fprint(p.w, line)
	if end {
		fmt.Fprintln(p.w)
	}
}

func (p *diffPrinter) coloured(code, text string) string {
	if !p.o.Color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
