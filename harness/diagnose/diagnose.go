// Package diagnose says why a lab does not do what it must: it looks at what
// differs from the plan, at agents, the store, filters, settings and counters,
// sends a few packets, walks after some that are lost, and returns the causes
// that explain what it saw, the likeliest first, each with its evidence and the
// command that mends it.
//
// What a cause is, a rule says: data and one function from what was seen. The
// order of causes is that of what follows from what: a link that is down takes
// routes with it, so it comes before them. Where a walk ended is evidence for
// the cause that it met; where it met none that is known, it is a cause itself.
package diagnose

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/topology"
)

// A Cause is one thing that is wrong.
type Cause struct {
	// ID is the stable name of the sort of cause, as fdb-wrong.
	ID string `json:"id"`
	// Title says what is wrong, in one line.
	Title string `json:"title"`
	// Node is the node where it is wrong, empty for the network between them;
	// Pod the pod, if it is one's.
	Node string `json:"node,omitempty"`
	Pod  string `json:"pod,omitempty"`
	// Peer is the node or pod that is concerned besides.
	Peer string `json:"peer,omitempty"`
	// Evidence is what was seen, a line each.
	Evidence []string `json:"evidence"`
	// Mend are the commands that mend it, to be run in Space; none where it
	// takes more than commands.
	Space string   `json:"space,omitempty"`
	Mend  []string `json:"mend,omitempty"`

	rank rank
	// dev is the link that is concerned, where one is.
	dev string
}

// rank orders causes: what others follow from has a higher one.
type rank int

// Report is the result of a diagnosis.
type Report struct {
	APIVersion string `json:"apiVersion"`
	Lab        string `json:"lab"`
	// Causes are ranked, the likeliest first.
	Causes []Cause `json:"causes"`
	// Symptoms are the probes that did not end as they ought to.
	Symptoms []string `json:"symptoms,omitempty"`
	// Unread says what could not be looked at.
	Unread []string `json:"unread,omitempty"`
	// Took is how long it took.
	Took time.Duration `json:"tookNanoseconds"`
}

// Sessions opens the probe session of a node or pod, or returns the one that is
// open.
type Sessions interface {
	Session(ctx context.Context, name string) (*probe.Session, error)
}

// Run looks at a lab whose namespaces are local and finds the causes.
func Run(ctx context.Context, lab topology.Lab, open Sessions) (*Report, error) {
	began := time.Now()
	seen, err := look(ctx, lab, newCache(open))
	if err != nil {
		return nil, fmt.Errorf("look at lab %s: %w", lab.Plan().Name, err)
	}
	r := Judge(seen)
	r.Took = time.Since(began)
	return r, nil
}

// Judge finds the causes of what was seen.
func Judge(seen *Seen) *Report {
	r := &Report{APIVersion: topology.APIVersion, Lab: seen.Plan.Name, Causes: []Cause{}, Symptoms: seen.Symptoms}
	r.Unread = append(append(r.Unread, seen.Diff.Unread...), seen.Unread...)
	for _, rule := range rules() {
		for _, c := range rule.find(seen) {
			c.ID, c.rank = cmp.Or(c.ID, rule.id), max(c.rank, rule.rank)
			r.Causes = append(r.Causes, c)
		}
	}
	r.Causes = joined(r.Causes)
	r.Causes = withWalks(seen, r.Causes)
	slices.SortStableFunc(r.Causes, func(a, b Cause) int { return cmp.Compare(b.rank, a.rank) })
	counted(seen, r.Causes)
	if len(r.Causes) == 0 && len(seen.Symptoms) > 0 {
		r.Causes = append(r.Causes, Cause{ID: idUnknown, Title: "packets are lost, and nothing that was looked at explains it", Evidence: seen.Symptoms})
	}
	return r
}

// joined puts together what is one cause in several places of one namespace.
func joined(all []Cause) []Cause {
	out := []Cause{}
	for _, c := range all {
		i := slices.IndexFunc(out, func(o Cause) bool {
			return o.ID == c.ID && o.Node == c.Node && o.Pod == c.Pod && o.Title == c.Title
		})
		if i < 0 {
			out = append(out, c)
			continue
		}
		for _, e := range c.Evidence {
			if !slices.Contains(out[i].Evidence, e) {
				out[i].Evidence = append(out[i].Evidence, e)
			}
		}
		for _, m := range c.Mend {
			if !slices.Contains(out[i].Mend, m) {
				out[i].Mend = append(out[i].Mend, m)
			}
		}
	}
	return out
}

// ofEntry is the cause that a difference shows.
func ofEntry(e oracle.Entry, title string) Cause {
	c := Cause{Title: title, Node: e.Node, Pod: e.Pod, Peer: e.Peer, Space: e.Space(), Evidence: []string{evidence(e)}, dev: e.Dev}
	if e.Mend != "" {
		c.Mend = []string{e.Mend}
	}
	return c
}

// evidence is a difference in words.
func evidence(e oracle.Entry) string {
	text := fmt.Sprintf("%s on %s: ", e.Kind.Tool(), e.Space())
	switch e.Verb {
	case oracle.Missing:
		return text + "no " + e.Want
	case oracle.Extra:
		return text + e.Have
	}
	text += e.Have
	for _, x := range e.Changes {
		text += "; " + x.String()
	}
	return text
}
