package render

import (
	"slices"

	"github.com/overlab/overlab/harness/walk"
)

// lane is a namespace with its interfaces, in the order in which the packet
// first comes by.
type lane struct {
	name       string
	interfaces []string
}

func lanes(r *walk.Report) []lane {
	var all []lane
	for _, leg := range r.Legs() {
		for _, s := range leg.Steps {
			i := slices.IndexFunc(all, func(l lane) bool { return l.name == s.Space })
			if i < 0 {
				i = len(all)
				all = append(all, lane{name: s.Space})
			}
			if !slices.Contains(all[i].interfaces, s.Interface) {
				all[i].interfaces = append(all[i].interfaces, s.Interface)
			}
		}
	}
	return all
}

// lastStep is the last one that was seen before it went wrong.
func lastStep(r *walk.Report) *walk.Step {
	last := &r.Request.Steps[0]
	for _, leg := range r.Legs() {
		for i := range leg.Steps {
			if leg.Steps[i].Seen != nil {
				last = &leg.Steps[i]
			}
		}
	}
	return last
}
