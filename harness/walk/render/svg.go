package render

import (
	"bufio"
	"fmt"
	"html"
	"io"

	"github.com/overlab/overlab/harness/walk"
)

// Measures of the drawing, in pixels.
const (
	laneWidth  = 118
	headHeight = 70
	rowHeight  = 34
	margin     = 14
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
}

const svgStyle = `
text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1c2024}
.space{fill:#eef2f6;stroke:#b8c2cc}.name{font-weight:600}
.life{stroke:#b8c2cc;stroke-dasharray:3 4}
.arrow{stroke:#2f6f9f;stroke-width:2;fill:none}.arrow.reply{stroke:#5a7d3a}
.arrow.lost,.cross{stroke:#b3261e}.arrow.lost{stroke-dasharray:5 4}.cross{stroke-width:2;fill:none}
.head{fill:#2f6f9f}.head.reply{fill:#5a7d3a}.head.lost{fill:#b3261e}.bad{fill:#b3261e;font-weight:600}
.small{font-size:11px}
@media (prefers-color-scheme:dark){text{fill:#e6e8ea}.space{fill:#1f262d;stroke:#46525e}
.life{stroke:#46525e}.arrow{stroke:#6fb3e0}.arrow.reply{stroke:#9cc474}.arrow.lost,.cross{stroke:#f2837b}
.head{fill:#6fb3e0}.head.reply{fill:#9cc474}.head.lost,.bad{fill:#f2837b}}
`

func (d *drawing) printf(format string, args ...any) { fmt.Fprintf(d.out, format, args...) }

func (d *drawing) draw(r *walk.Report) {
	all := lanes(r)
	columns := 0
	for _, l := range all {
		columns += len(l.interfaces)
	}
	width := max(2*margin+columns*laneWidth, 480)
	height := headHeight + (steps(r)+3)*rowHeight
	d.printf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+"\n", width, height, width, height)
	d.printf("<title>%s</title>\n<style>%s</style>\n", html.EscapeString(title(r)), svgStyle)
	d.printf("<defs>")
	for _, name := range []string{"arrow", "reply", "lost"} {
		d.printf(`<marker id="head-%s" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="head %s" d="M0 0L8 4L0 8z"/></marker>`, name, name)
	}
	d.printf("</defs>\n")
	d.lanes(all, height)
	d.y = headHeight + rowHeight
	for _, leg := range r.Legs() {
		for i := range leg.Steps {
			from := &leg.Steps[max(i-1, 0)]
			d.step(from, &leg.Steps[i], leg.Name)
		}
	}
	class := ""
	if r.Verdict != walk.Arrived {
		class = ` class="bad"`
	}
	if r.Divergence != nil && steps(r) > 0 {
		d.end(lastStep(r))
	}
	d.printf(`<text x="%d" y="%d"%s>%s</text>`+"\n</svg>\n", margin, d.y, class, html.EscapeString(outcome(r)))
}

// end draws a cross where the packet was seen last.
func (d *drawing) end(s *walk.Step) {
	x, y := d.x[s.Tap()], d.y-rowHeight/2
	d.printf(`<path class="cross" d="M%d %dl12 12m0 -12l-12 12"/>`+"\n", x-6, y-6)
	d.y += rowHeight / 2
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
			d.printf(`<line class="life" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", mid, headHeight, mid, height-3*rowHeight)
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
	if s.Seen == nil {
		class, head = "arrow lost", "lost"
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
	d.printf(`<text class="small" x="%d" y="%d" text-anchor="%s">%s</text></g>`+"\n", x, d.y-6, anchor, html.EscapeString(label))
	d.y += rowHeight
}
