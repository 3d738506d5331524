// Package report writes what a suite has found: text for people, JSON for
// machines, and the evidence (frames, dumps) as files.
package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/suite"
)

// TextOptions say how text looks.
type TextOptions struct {
	// Color uses ANSI colours. The caller knows whether the writer is a
	// terminal and what NO_COLOR says.
	Color bool
	// Width in columns, 80 if zero.
	Width int
	// Findings is how many findings of one check are shown, 5 if zero; Frames
	// how many captured frames, 2 if zero. A negative number shows all.
	Findings, Frames int
}

func (o *TextOptions) defaults() {
	if o.Width == 0 {
		o.Width = 80
	}
	o.Width = max(o.Width, 40)
	for _, n := range []struct {
		n     *int
		usual int
	}{{&o.Findings, 5}, {&o.Frames, 2}} {
		if *n.n == 0 {
			*n.n = n.usual
		}
		if *n.n < 0 {
			*n.n = 1 << 30
		}
	}
}

// Text writes the whole report: every check with its evidence, the captured
// packet, and the sum of it.
func Text(w io.Writer, r *suite.Results, o TextOptions) error {
	o.defaults()
	p := &printer{w: bufio.NewWriter(w), o: o}
	for i := range r.Results {
		p.result(&r.Results[i])
	}
	p.frames(r.Frames)
	p.recap(r)
	if err := p.diagnosis(r); err != nil {
		return err
	}
	p.line("")
	p.line(p.summary(r))
	return p.w.Flush()
}

// Summary is the last line of the text: how many checks had which verdict.
func Summary(r *suite.Results, o TextOptions) string {
	o.defaults()
	return (&printer{o: o}).summary(r)
}

type printer struct {
	w *bufio.Writer
	o TextOptions
}

// label is a verdict's word in the text, of up to 12 bytes.
func label(v suite.Verdict) string {
	switch v {
	case suite.Fail:
		return "FAIL"
	case suite.NotApplicable:
		return "n/a"
	}
	return string(v)
}

func (p *printer) color(v suite.Verdict, s string) string {
	if !p.o.Color {
		return s
	}
	code := "33" // yellow: neither pass nor fail
	switch v {
	case suite.Pass:
		code = "32"
	case suite.Fail:
		code = "1;31"
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

func (p *printer) dim(s string) string {
	if !p.o.Color {
		return s
	}
	return "\x1b[2m" + s + "\x1b[0m"
}

// Columns of the text: the verdict, the identifier, the rest.
const (
	verdictWidth = 13
	idWidth      = 7
	indent       = verdictWidth + idWidth
)

func (p *printer) result(r *suite.Result) {
	word := label(r.Verdict)
	head := p.color(r.Verdict, word) + strings.Repeat(" ", max(1, verdictWidth-len(word)))
	if len(r.ID) < idWidth {
		p.line(head + pad(r.ID, idWidth) + r.Title)
	} else {
		p.line(head + r.ID)
		p.wrapped(indent, indent, r.Title, nil)
	}
	if r.Evidence != "" {
		p.wrapped(indent, indent+2, r.Evidence, p.dim)
	}
	if r.Reason != "" {
		p.wrapped(indent, indent+2, r.Reason, nil)
	}
	shown := min(len(r.Findings), p.o.Findings)
	for _, f := range r.Findings[:shown] {
		p.wrapped(indent, indent+2, f.Where, nil)
		p.wrapped(indent+2, indent+11, "expected "+f.Expected, nil)
		p.wrapped(indent+2, indent+11, "seen     "+f.Seen, nil)
	}
	if more := len(r.Findings) - shown + r.More; more > 0 {
		p.wrapped(indent, indent, fmt.Sprintf("and %d more", more), nil)
	}
}

func (p *printer) frames(frames []suite.Frame) {
	if len(frames) == 0 {
		return
	}
	p.line("")
	p.line("Captured on the underlay:")
	for i, f := range frames {
		if i == p.o.Frames {
			p.line(fmt.Sprintf("and %d more frames", len(frames)-i))
			return
		}
		p.line("")
		p.wrapped(0, 2, fmt.Sprintf("frame %d, %s, %s, %s (%s)",
			f.Number, f.Tap, f.Direction, f.Time.Format("15:04:05.000000"), strings.Join(f.Checks, ", ")), p.dim)
		for _, l := range f.Lines {
			p.decoded(l)
		}
	}
}

// atAGlance is of how many checks a list is read without a recapitulation.
const atAGlance = 6

// recap lists what failed and what could not be judged, below a long list.
func (p *printer) recap(r *suite.Results) {
	if len(r.Results) <= atAGlance || r.Count(suite.Fail)+r.Count(suite.Inconclusive) == 0 {
		return
	}
	p.line("")
	for _, v := range []suite.Verdict{suite.Fail, suite.Inconclusive} {
		for i := range r.Results {
			if res := &r.Results[i]; res.Verdict == v {
				word := label(v)
				p.line(p.color(v, word) + strings.Repeat(" ", verdictWidth-len(word)) + pad(res.ID, idWidth) + res.Title)
			}
		}
	}
}

// diagnosis says why, as far as is known. Causes beyond the first few often
// follow from these.
func (p *printer) diagnosis(r *suite.Results) error {
	if r.Diagnosis == nil {
		return nil
	}
	const most = 3
	p.line("")
	p.line("Why, most likely:")
	p.line("")
	if err := p.w.Flush(); err != nil {
		return err
	}
	return Diagnosis(p.w, r.Diagnosis, most, DiffOptions{Color: p.o.Color, Width: p.o.Width})
}

// decoded writes a line of a decoded packet, that of the VXLAN header apart
// from the outer packet's.
func (p *printer) decoded(line string) {
	text := strings.TrimLeft(line, " ")
	at := 2 + len(line) - len(text)
	if outer, header, ok := strings.Cut(text, " VXLAN,"); ok {
		p.wrapped(at, at+4, outer, nil)
		text = "VXLAN," + header
	}
	p.wrapped(at, at+4, text, nil)
}

func (p *printer) summary(r *suite.Results) string {
	var parts []string
	for _, v := range suite.Verdicts() {
		if n := r.Count(v); n > 0 {
			parts = append(parts, p.color(v, fmt.Sprintf("%d %s", n, summaryWord(v))))
		}
	}
	if len(parts) == 0 {
		return "no checks ran"
	}
	noun := "checks"
	if len(r.Results) == 1 {
		noun = "check"
	}
	s := fmt.Sprintf("%d %s in %s: %s", len(r.Results), noun, seconds(r.Took), strings.Join(parts, ", "))
	if r.Interrupted {
		s += "; the run was interrupted"
	}
	return s
}

func summaryWord(v suite.Verdict) string {
	switch v {
	case suite.Pass:
		return "passed"
	case suite.Fail:
		return "failed"
	case suite.NotApplicable:
		return "not applicable"
	}
	return string(v)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func pad(s string, width int) string { return s + strings.Repeat(" ", max(1, width-len(s))) }

func (p *printer) line(s string) {
	p.w.WriteString(s)
	p.w.WriteByte('\n')
}

// wrapped writes text from column first, and what does not fit the width on
// further lines from column rest. Lines of the text itself begin anew.
func (p *printer) wrapped(first, rest int, text string, style func(string) string) {
	if style == nil {
		style = func(s string) string { return s }
	}
	at := first
	for part := range strings.SplitSeq(text, "\n") {
		for _, l := range wrap(part, p.o.Width-at, p.o.Width-rest) {
			p.line(strings.Repeat(" ", at) + style(l))
			at = rest
		}
	}
}

// wrap breaks text at spaces into a first line and further ones of at most so
// many columns. A word that is longer stays whole.
func wrap(text string, first, rest int) []string {
	var lines []string
	width := first
	for len(text) > width {
		// After a comma if that leaves no short line, else at any space.
		cut := strings.LastIndex(text[:width+1], ", ") + 1
		if cut < width/2 {
			cut = strings.LastIndexByte(text[:width+1], ' ')
		}
		if cut <= 0 {
			cut = strings.IndexByte(text, ' ')
			if cut < 0 {
				break
			}
		}
		lines = append(lines, strings.TrimRight(text[:cut], " "))
		text = strings.TrimLeft(text[cut:], " ")
		width = rest
	}
	return append(lines, text)
}
