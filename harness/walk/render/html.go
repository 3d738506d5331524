package render

import (
	"html/template"
	"io"
	"strings"

	"github.com/overlab/overlab/harness/walk"
)

// page writes one HTML file that needs no other: the drawing, the verdict, and
// every step.
func page(w io.Writer, r *walk.Report, o Options) error {
	var drawing strings.Builder
	if err := svg(&drawing, r, o); err != nil {
		return err
	}
	return pageTemplate().Execute(w, struct {
		*walk.Report
		Title, Sent, Outcome, Took string
		Explained                  []row
		Drawing                    template.HTML
	}{r, title(r), sent(r), outcome(r), took(r), explained(r), template.HTML(drawing.String())})
}

func pageTemplate() *template.Template {
	return template.Must(template.New("walk").Funcs(template.FuncMap{
		"decided": decided,
		"headers": func(s walk.Step) []row { return headers(frame(&s)) },
		"after":   func(s walk.Step) string { return after(&s) },
	}).Parse(pageText))
}

const pageText = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>
:root{color-scheme:light dark;--ink:#1c2024;--dim:#5d6670;--back:#fff;--line:#d6dce2;--bad:#b3261e;--good:#3c6b1e;--card:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--dim:#9aa4ae;--back:#14181c;--line:#333c45;--bad:#f2837b;--good:#9cc474;--card:#1b2127}}
body{font:15px/1.5 ui-sans-serif,system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem;margin:0}h2{font-size:1.05rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
.dim{color:var(--dim)}.arrived{color:var(--good)}.diverged,.inconclusive,.bad{color:var(--bad)}
.verdict{border-left:4px solid;padding:.4rem .8rem;margin:1rem 0;background:var(--card)}
.verdict b{font-size:1.05rem}.verdict table{color:var(--ink)}
.drawing{overflow-x:auto;border:1px solid var(--line);border-radius:6px;padding:.5rem}
.drawing svg{max-width:100%;min-width:46rem;height:auto;display:block}
ol{list-style:none;padding:0}li{border:1px solid var(--line);border-radius:6px;padding:.5rem .8rem;margin:.5rem 0}
li.lost{border-color:var(--bad)}
.head{display:flex;justify-content:space-between;gap:1rem;font-weight:600}
table{border-collapse:collapse;font:13px/1.45 ui-monospace,monospace;margin:.3rem 0}
td{padding:0 .8rem 0 0;vertical-align:top;overflow-wrap:anywhere}td:first-child{white-space:pre;color:var(--dim)}
</style></head><body>
<h1>{{.Title}}</h1>
<p class="dim">{{.Sent}}</p>
<div class="verdict {{.Verdict}}"><b>{{.Outcome}}</b>
{{if .Explained}}<table>{{range .Explained}}<tr><td>{{.Label}}</td><td>{{.Text}}</td></tr>{{end}}</table>{{end}}</div>
<div class="drawing">{{.Drawing}}</div>
{{range .Legs}}<h2>{{.Name}}</h2>
<ol>{{range .Steps}}<li{{if not .Seen}} class="lost"{{end}}>
<div class="head"><span>{{.Number}}. {{.Space}} {{.Interface}}, {{.Direction}}</span><span{{if .Seen}} class="dim"{{else}} class="bad"{{end}}>{{after .}}</span></div>
<p>{{.Does}}</p>
<table>{{range decided .Decisions}}<tr><td>{{.Label}}</td><td>{{.Text}}</td></tr>{{end}}
{{range headers .}}<tr class="dim"><td>{{.Label}}</td><td>{{.Text}}</td></tr>{{end}}
{{range .Differences}}<tr class="bad"><td>differs</td><td>{{.}}</td></tr>{{end}}</table>
</li>{{end}}</ol>
{{with .Predicted}}<p class="bad">Here the state says that it ends: {{.Cause}}</p>{{end}}{{end}}
<p class="dim">{{.Took}}, {{.Began.Format "2006-01-02 15:04:05 MST"}}</p>
</body></html>
`
