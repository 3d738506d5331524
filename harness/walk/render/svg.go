package render

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/overlab/overlab/harness/walk"
)

// Measures of the drawing, in pixels.
const (
	laneWidth  = 98
	headHeight = 70
	rowHeight  = 34
	margin     = 14
	lineHeight = 18
	// letterWidth is about that of a letter of the text.
	letterWidth = 7
)

// svg draws a sequence: a column for each interface, grouped by namespace, and
// an arrow from step to step. Colours are classes, so that the drawing heeds
// the reader's wish for light or dark.
func svg(w io.Writer, r *walk.Report, _ Options) error {
	d := &drawing{out: bufio.NewWriter(w), x: map[string]int{}}
	d.draw(r)
	return d.out.Flush()
}

type drawing struct {
	out *bufio.Writer
	// x is the middle of an interface's column, by namespace and name.
	x map[string]int
	y int
	// lost says that the first step that was not seen is drawn.
	lost bool
}

const svgStyle = `
text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1c2024}
.space{fill:#eef2f6;stroke:#b8c2cc}.name{font-weight:600}
.life{stroke:#b8c2cc;stroke-dasharray:3 4}
.arrow{stroke:#2f6f9f;stroke-width:2;fill:none}.arrow.reply{stroke:#5a7d3a}
.arrow.lost,.cross{stroke:#b3261e}.arrow.lost{stroke-dasharray:5 4}.cross{stroke-width:2;fill:none}
.head{fill:#2f6f9f}.head.reply{fill:#5a7d3a}.head.lost{fill:#b3261e}.bad{fill:#b3261e;font-weight:600}
.small{font-size:11px}.arrow.never{stroke:#b8c2cc;stroke-dasharray:2 5}.head.never{fill:#b8c2cc}text.never{fill:#8a949e}
@media (prefers-color-scheme:dark){text{fill:#e6e8ea}.space{fill:#1f262d;stroke:#46525e}
.life{stroke:#46525e}.arrow{stroke:#6fb3e0}.arrow.reply{stroke:#9cc474}.arrow.lost,.cross{stroke:#f2837b}
.head{fill:#6fb3e0}.head.reply{fill:#9cc474}.head.lost,.bad{fill:#f2837b}
.arrow.never{stroke:#46525e}.head.never{fill:#46525e}text.never{fill:#7d8790}}
`

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *drawing) draw(r *walk.Report) {
	all := lanes(r)
	columns := 0
	for _, l := range all {
		columns += len(l.interfaces)
	}
	width := max(2*margin+columns*laneWidth, 720)
	below := ending(r, (width-2*margin)/letterWidth)
	height := headHeight + (steps(r)+1)*rowHeight + len(below)*lineHeight + margin
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", width, height, width, height)
	d.printf("<title>%s</title>\n<style>%s</style>\n", html.EscapeString(title(r)), svgStyle)
	d.printf("<defs>")
	for _, name := range []string{"arrow", "reply", "lost", "never"} {
		d.printf(`<marker id="head-%s" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" markerWidth="10" markerHeight="10" orient="auto"><path class="head %s" d="M0 0L8 4L0 8z"/></marker>`, name, name)
	}
	d.printf("</defs>\n")
	d.lanes(all, headHeight+(steps(r)+1)*rowHeight)
	d.y = headHeight + rowHeight
	for _, leg := range r.Legs() {
		for i := range leg.Steps {
			from := &leg.Steps[max(i-1, 0)]
			d.step(from, &leg.Steps[i], leg.Name)
		}
	}
	if r.Divergence != nil && steps(r) > 0 && !d.lost {
		last := lastStep(r) // all were seen, and the last was not as it ought to be
		d.cross(d.x[last.Tap()], d.y-rowHeight)
	}
	for _, l := range below {
		d.printf(`<text x="%d" y="%d"%s>%s</text>`+"\n", margin, d.y, l.Label, html.EscapeString(l.Text))
		d.y += lineHeight
	}
	d.printf("</svg>\n")
}

// ending is what stands below the drawing, in lines of so many letters: what
// became of the packet, why, and what mends it. Its labels are attributes.
func ending(r *walk.Report, letters int) []row {
	class := ""
	if r.Verdict != walk.Arrived {
		class = ` class="bad"`
	}
	lines := []row{{class, outcome(r)}}
	if dv := r.Divergence; dv != nil {
		for _, text := range []string{dv.Cause, dv.Mend} {
			for _, l := range wrap(text, letters) {
				lines = append(lines, row{"", l})
			}
		}
	}
	return lines
}

// wrap breaks text at spaces into lines of at most so many letters, if it can.
func wrap(text string, letters int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > letters:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}

// cross marks where the packet was lost.
func (d *drawing) cross(x, y int) {
	d.printf(`<path class="cross" d="M%d %dl12 12m0 -12l-12 12"/>`+"\n", x-6, y-6)
}

func (d *drawing) lanes(all []lane, height int) {
	x := margin
	for _, l := range all {
		w := len(l.interfaces) * laneWidth
		d.printf(`<rect class="space" x="%d" y="4" width="%d" height="%d" rx="6"/>`, x+2, w-4, headHeight-8)
		d.printf(`<text class="name" x="%d" y="24" text-anchor="middle">%s</text>`+"\n", x+w/2, html.EscapeString(l.name))
		for _, dev := range l.interfaces {
			mid := x + laneWidth/2
			d.x[l.name+":"+dev] = mid
			d.printf(`<text class="small" x="%d" y="50" text-anchor="middle">%s</text>`, mid, html.EscapeString(dev))
			d.printf(`<line class="life" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", mid, headHeight, mid, height-rowHeight/2)
			x += laneWidth
		}
	}
}

func (d *drawing) step(from, s *walk.Step, leg string) {
	a, b := d.x[from.Tap()], d.x[s.Tap()]
	class, head := "arrow", "arrow"
	if leg == "reply" {
		class, head = "arrow reply", "reply"
	}
	text, first := "small", false
	switch {
	case s.Seen == nil && d.lost: // it was not to be seen any more
		class, head, text = "arrow never", "never", "small never"
	case s.Seen == nil:
		class, head, first, d.lost = "arrow lost", "lost", true, true
	}
	label := fmt.Sprintf("%d. %s", s.Number, short(s))
	d.printf(`<g><title>%s</title>`, html.EscapeString(s.Does))
	if a == b {
		d.printf(`<circle class="%s" cx="%d" cy="%d" r="4"/>`, class, b, d.y)
	} else {
		d.printf(`<line class="%s" x1="%d" y1="%d" x2="%d" y2="%d" marker-end="url(#head-%s)"/>`, class, a, d.y, b, d.y, head)
	}
	anchor, x := "start", min(a, b)+6
	if a > b {
		anchor, x = "end", max(a, b)-6
	}
	d.printf(`<text class="%s" x="%d" y="%d" text-anchor="%s">%s</text></g>`+"\n", text, x, d.y-6, anchor, html.EscapeString(label))
	if first {
		d.cross((a+b)/2, d.y)
	}
	d.y += rowHeight
}
