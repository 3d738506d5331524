package render

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/overlab/overlab/harness/walk"
)

// Colours of the text.
const (
	bold  = "1"
	dim   = "2"
	red   = "1;31"
	green = "32"
	amber = "33"
)

type printer struct {
	w     *bufio.Writer
	color bool
	width int
}

// text writes numbered steps, as the articles do that explain a packet's way.
func text(w io.Writer, r *walk.Report, o Options) error {
	if o.Width == 0 {
		o.Width = 80
	}
	p := &printer{w: bufio.NewWriter(w), color: o.Color, width: max(o.Width, 40)}
	p.wrapped(0, 2, title(r), bold)
	p.wrapped(0, 2, sent(r), dim)
	for _, leg := range r.Legs() {
		p.leg(leg)
	}
	p.line("")
	p.verdict(r)
	return p.w.Flush()
}

// Columns of a step: its number, what follows, and the text behind a label.
const (
	numberWidth = 4
	labelAt     = numberWidth + 2
	textAt      = labelAt + 11
)

func (p *printer) leg(leg walk.NamedLeg) {
	seen := 0
	for i := range leg.Steps {
		if leg.Steps[i].Seen != nil {
			seen = i + 1
		}
	}
	if leg.Name == "reply" {
		if seen == 0 && leg.Predicted == nil {
			return // the request did not come so far
		}
		p.line("")
		p.line(p.paint("and back:", bold))
	}
	shown := min(seen+1, len(leg.Steps)) // with the first that it did not take
	for i := range leg.Steps[:shown] {
		var before *walk.Step
		if i > 0 {
			before = &leg.Steps[i-1]
		}
		p.step(before, &leg.Steps[i])
	}
	if more := len(leg.Steps) - shown; more > 0 {
		p.line("")
		p.wrapped(numberWidth, labelAt, fmt.Sprintf("and %d more steps that it was to take", more), dim)
	}
	if leg.Predicted != nil {
		p.line("")
		p.rows(decided(leg.Predicted.Decisions), "")
		p.wrapped(numberWidth, labelAt, "here the state says that it ends", red)
	}
}

// step writes a step; headers that are as they were a step before are left out.
func (p *printer) step(before, s *walk.Step) {
	p.line("")
	head := fmt.Sprintf("%*d. %s %s, %s", numberWidth-2, s.Number, s.Space, s.Interface, s.Direction)
	time := after(s)
	gap := strings.Repeat(" ", max(2, p.width-utf8.RuneCountInString(head)-utf8.RuneCountInString(time)))
	style := dim
	if s.Seen == nil {
		style = red
	}
	p.line(p.paint(head, bold) + gap + p.paint(time, style))
	p.wrapped(numberWidth, numberWidth, s.Does, "")
	p.rows(decided(s.Decisions), "")
	f, port := frame(s)
	if rows := headers(f, port); before == nil || !slices.Equal(rows, headers(frame(before))) {
		p.rows(append(rows, transport(s)...), dim)
	}
	if s.Seen != nil && s.Seen.By != "" {
		p.rows([]row{{"known by", s.Seen.By}}, dim)
	}
	if s.Seen != nil && s.Seen.Fragment {
		p.rows([]row{{"fragment", "this is one of several"}}, dim)
	}
	for _, d := range s.Differences {
		p.rows([]row{{"DIFFERS", d}}, red)
	}
}

func (p *printer) rows(rows []row, style string) {
	for _, r := range rows {
		label := r.Label + strings.Repeat(" ", max(1, textAt-labelAt-len(r.Label)))
		p.wrapped(labelAt, textAt, label+r.Text, style)
	}
}

func (p *printer) verdict(r *walk.Report) {
	style := map[walk.Verdict]string{walk.Arrived: green, walk.Diverged: red, walk.Inconclusive: amber}[r.Verdict]
	p.wrapped(0, 2, outcome(r), style)
	for _, e := range explained(r) {
		p.wrapped(2, 10, fmt.Sprintf("%-8s%s", e.Label, e.Text), "")
	}
	p.line(p.paint(took(r), dim))
}

func (p *printer) paint(s, style string) string {
	if !p.color || style == "" {
		return s
	}
	return "\x1b[" + style + "m" + s + "\x1b[0m"
}

func (p *printer) line(s string) {
	p.w.WriteString(s)
	p.w.WriteByte('\n')
}

// wrapped writes text from column first on, and what does not fit from column
// rest on. A word that is longer than a line stays whole.
func (p *printer) wrapped(first, rest int, text, style string) {
	at := first
	for {
		line, more := fit(text, p.width-at)
		p.line(strings.Repeat(" ", at) + p.paint(line, style))
		if more == "" {
			return
		}
		text, at = more, rest
	}
}

// fit cuts text at the last space that leaves a line of at most width.
func fit(text string, width int) (line, more string) {
	if utf8.RuneCountInString(text) <= width {
		return text, ""
	}
	cut := strings.LastIndexByte(text[:width+1], ' ')
	if cut <= 0 || strings.TrimSpace(text[:cut]) == "" {
		if cut = strings.IndexByte(strings.TrimLeft(text, " "), ' '); cut < 0 {
			return text, ""
		}
		cut += len(text) - len(strings.TrimLeft(text, " "))
	}
	return strings.TrimRight(text[:cut], " "), strings.TrimLeft(text[cut:], " ")
}
