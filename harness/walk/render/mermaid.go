package render

import (
	"bufio"
	"fmt"
	"io"
	"strings"

	"github.com/overlab/overlab/harness/walk"
)

// mermaid writes a sequence diagram: a participant for each interface, a box
// around those of a namespace, and an arrow from step to step.
func mermaid(w io.Writer, r *walk.Report, _ Options) error {
	out := bufio.NewWriter(w)
	fmt.Fprintln(out, "sequenceDiagram")
	fmt.Fprintf(out, "  title %s\n", plain(title(r)))
	for _, s := range lanes(r) {
		fmt.Fprintf(out, "  box %s\n", plain(s.name))
		for _, dev := range s.interfaces {
			fmt.Fprintf(out, "  participant %s as %s\n", participant(s.name, dev), plain(dev))
		}
		fmt.Fprintln(out, "  end")
	}
	for _, leg := range r.Legs() {
		mermaidLeg(out, leg)
	}
	if d := r.Divergence; d != nil && steps(r) > 0 {
		s := lastStep(r)
		fmt.Fprintf(out, "  note over %s: %s\n", participant(s.Space, s.Interface), plain(d.Cause))
	}
	return out.Flush()
}

func mermaidLeg(out io.Writer, leg walk.NamedLeg) {
	arrow := "->>"
	if leg.Name == "reply" {
		arrow = "-->>"
	}
	for i := range leg.Steps {
		s := &leg.Steps[i]
		from := s
		if i > 0 {
			from = &leg.Steps[i-1]
		}
		head := arrow
		if s.Seen == nil {
			head = "-x"
		}
		fmt.Fprintf(out, "  %s%s%s: %d. %s\n",
			participant(from.Space, from.Interface), head, participant(s.Space, s.Interface), s.Number, plain(short(s)))
	}
}

// participant is a name of letters, digits and underscores.
func participant(space, dev string) string {
	return "p_" + strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, space+"_"+dev)
}

// plain takes away what ends a line or a statement in Mermaid.
func plain(s string) string {
	return strings.NewReplacer(";", ",", "#", "", "\n", " ").Replace(s)
}
