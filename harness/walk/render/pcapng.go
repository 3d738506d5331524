package render

import (
	"fmt"
	"io"
	"slices"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/walk"
)

// pcapng writes the captured frames, an interface a tap in the order of the
// steps; each frame's comment has its step.
func pcapng(w io.Writer, r *walk.Report, _ Options) error {
	var taps []string
	add := func(name string) {
		if !slices.Contains(taps, name) {
			taps = append(taps, name)
		}
	}
	for _, leg := range r.Legs() {
		for i := range leg.Steps {
			add(leg.Steps[i].Tap())
		}
	}
	for _, t := range r.Taps {
		add(t.Name)
	}
	out, err := capture.NewWriter(w, fmt.Sprintf("overlab walk: %s; %s", title(r), outcome(r)), taps)
	if err != nil {
		return err
	}
	for _, f := range r.Captured() {
		comment := "no step of the predicted way"
		if f.Step > 0 {
			comment = fmt.Sprintf("step %d: %s", f.Step, f.Does)
		}
		if err := out.Write(f.Frame, comment, "probe "+r.ID.String()); err != nil {
			return err
		}
	}
	return out.Flush()
}
