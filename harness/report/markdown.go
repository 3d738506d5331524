package report

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/overlab/overlab/harness/suite"
)

// Markdown writes the report in GitHub's Markdown, as a job's summary or a
// comment shows it: what is wrong and why first, every check folded below.
func Markdown(w io.Writer, r *suite.Results) error {
	m := &markdown{bufio.NewWriter(w)}
	m.head(r)
	m.why(r)
	for i := range r.Results {
		if troubles(r.Results[i].Verdict) {
			m.trouble(&r.Results[i])
		}
	}
	for i := range r.Attachments {
		m.attachment(&r.Attachments[i])
	}
	m.checks(r)
	if err := m.w.Flush(); err != nil {
		return fmt.Errorf("write Markdown report: %w", err)
	}
	return nil
}

// troubles reports whether a reader has to know of a check with this verdict.
func troubles(v suite.Verdict) bool {
	return v == suite.Fail || v == suite.Inconclusive || v == suite.Exempt
}

type markdown struct{ w *bufio.Writer }

func (m *markdown) printf(format string, args ...any) { fmt.Fprintf(m.w, format, args...) }

func (m *markdown) head(r *suite.Results) {
	m.printf("## overlab: %s\n\n**%s**\n\n", escapeMarkdown(r.Lab), Summary(r, TextOptions{}))
	a := r.About
	if a == nil {
		return
	}
	agent := a.Agent.Name
	if a.Agent.Version != "" {
		agent += " " + a.Agent.Version
	}
	m.printf("%s on %s, %s %s, %d nodes, %d pods, kernel %s, %s\n\n", escapeMarkdown(agent), r.Provider,
		a.Backend, a.Network, a.Nodes, a.Pods, escapeMarkdown(a.Kernel), a.Platform)
}

// why is the likeliest cause, with its evidence and what mends it.
func (m *markdown) why(r *suite.Results) {
	if r.Diagnosis == nil || len(r.Diagnosis.Causes) == 0 {
		return
	}
	c := r.Diagnosis.Causes[0]
	m.printf("### Why, most likely: %s\n\n", escapeMarkdown(c.Title))
	lines := append([]string{}, c.Evidence...)
	if len(c.Mend) > 0 {
		lines = append(lines, "to mend it on "+c.Space+":")
	}
	for _, x := range c.Mend {
		lines = append(lines, "  $ "+x)
	}
	m.code(strings.Join(lines, "\n"))
	if n := len(r.Diagnosis.Causes) - 1; n > 0 {
		m.printf("and %d more, which may follow from it\n\n", n)
	}
}

// code is a text in a fence.
func (m *markdown) code(text string) {
	fence := "```"
	for strings.Contains(text, fence) {
		fence += "`"
	}
	m.printf("%s\n%s\n%s\n\n", fence, strings.TrimRight(text, "\n"), fence)
}

// trouble is one check that did not pass, with what it found.
func (m *markdown) trouble(r *suite.Result) {
	m.printf("### %s %s: %s\n\n", label(r.Verdict), r.ID, escapeMarkdown(r.Title))
	for _, s := range []string{r.Evidence, r.Reason} {
		if s != "" {
			m.printf("%s\n\n", escapeMarkdown(s))
		}
	}
	if len(r.Findings) == 0 {
		return
	}
	m.printf("| where | expected | seen |\n|---|---|---|\n")
	shown := r.Findings[:min(len(r.Findings), markdownFindings)]
	for _, f := range shown {
		m.printf("| %s | %s | %s |\n", cell(f.Where), cell(f.Expected), cell(f.Seen))
	}
	m.printf("\n")
	if more := len(r.Findings) - len(shown) + r.More; more > 0 {
		m.printf("and %d more\n\n", more)
	}
}

// markdownFindings is how many findings of one check are shown: a summary is
// cut off at a mebibyte.
const markdownFindings = 20

// attachment is a text that explains; the first words of it are in view.
func (m *markdown) attachment(a *suite.Attachment) {
	if a.Type != "text/plain" && a.Type != "text/x-diff" {
		return
	}
	m.printf("<details><summary>%s</summary>\n\n", escapeMarkdown(a.Title))
	m.code(string(a.Data))
	m.printf("</details>\n\n")
}

// checks is the table of all, folded.
func (m *markdown) checks(r *suite.Results) {
	if len(r.Results) == 0 {
		return
	}
	m.printf("<details><summary>every check</summary>\n\n| verdict | check | what | evidence |\n|---|---|---|---|\n")
	for i := range r.Results {
		c := &r.Results[i]
		said := c.Evidence
		if c.Verdict != suite.Pass && c.Reason != "" {
			said = c.Reason
		}
		m.printf("| %s | %s | %s | %s |\n", label(c.Verdict), c.ID, cell(c.Title), cell(said))
	}
	m.printf("\n</details>\n")
}

// cell is a text in a table's cell: a line break ends the table's line.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", "<br>").Replace(escapeMarkdown(s))
}

// escapeMarkdown keeps a text as it is: what a lab's names and kernels' words
// hold is neither markup nor HTML.
func escapeMarkdown(s string) string {
	return strings.NewReplacer(
		`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`,
		"&", "&amp;", "<", "&lt;", ">", "&gt;",
	).Replace(s)
}
