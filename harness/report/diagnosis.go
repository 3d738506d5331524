package report

import (
	"bufio"
	"fmt"
	"io"

	"github.com/overlab/overlab/harness/diagnose"
)

// Diagnosis writes the causes that a diagnosis found, the likeliest first, with
// at most as many as most, 0 for all.
func Diagnosis(w io.Writer, r *diagnose.Report, most int, o DiffOptions) error {
	if o.Width == 0 {
		o.Width = 80
	}
	p := &diffPrinter{w: bufio.NewWriter(w), o: o}
	for i, c := range r.Causes {
		if most > 0 && i == most {
			fmt.Fprintf(p.w, "and %d more, which may follow from these (overlab diagnose --all)\n\n", len(r.Causes)-most)
			break
		}
		p.cause(i+1, c)
	}
	for _, u := range r.Unread {
		p.wrapped("? ", "  ", "not looked at: "+u, true)
	}
	p.wrapped("", "  ", diagnosisSummary(r), true)
	return p.w.Flush()
}

func (p *diffPrinter) cause(number int, c diagnose.Cause) {
	fmt.Fprintf(p.w, "%d. %s\n", number, p.coloured("1", c.Title))
	for _, e := range c.Evidence {
		p.wrapped("   ", "     ", e, true)
	}
	if len(c.Mend) > 0 {
		fmt.Fprintf(p.w, "   to mend it on %s:\n", c.Space)
	}
	for _, m := range c.Mend {
		fmt.Fprintf(p.w, "     $ %s\n", m) // to be copied, and so in one line
	}
	fmt.Fprintln(p.w)
}

// diagnosisSummary is the whole in one line.
func diagnosisSummary(r *diagnose.Report) string {
	probes := "every probe was answered"
	if n := len(r.Symptoms); n > 0 {
		probes = fmt.Sprintf("%d probes were not answered as they ought to be", n)
		if n == 1 {
			probes = "one probe was not answered as it ought to be"
		}
	}
	if len(r.Causes) == 0 {
		return "nothing wrong was found, and " + probes
	}
	if len(r.Causes) == 1 {
		return "one cause; " + probes
	}
	return fmt.Sprintf("%d causes; %s", len(r.Causes), probes)
}
