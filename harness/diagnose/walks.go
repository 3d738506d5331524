package diagnose

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/walk"
)

// Walked is where a probe that failed was seen to end.
type Walked struct {
	Probe Probed `json:"probe"`
	// Verdict and Divergence are the walk's; Answer is what its sender was told.
	Verdict    walk.Verdict     `json:"verdict"`
	Divergence *walk.Divergence `json:"divergence,omitempty"`
	Answer     string           `json:"answer,omitempty"`
}

const (
	// maxWalks is how many of the failed probes are walked after: a walk costs as
	// much as all else together, and those of one fault end alike.
	maxWalks = 4
	// walkWait is how long a walk waits for an answer.
	walkWait = 250 * time.Millisecond
)

// walk follows some of the probes that failed, both families and each sort of
// probe among them, and those that come first before those that only large
// packets and connections suffer.
func (l *looker) walk(ctx context.Context) {
	chosen := toWalk(l.out.Probes)
	walks := make([]*Walked, len(chosen))
	wg := newGroup()
	for i, p := range chosen {
		wg.Go(func() {
			o := walk.Options{Size: p.Size, DF: p.Size > 0, IPv6: p.IPv6, Wait: walkWait}
			if p.Port != 0 {
				o.Protocol, o.Port = "tcp", p.Port
			}
			r, err := walk.Run(ctx, l.lab, p.From, p.To, o)
			if err != nil {
				l.unread("the way of a %s: %v", p.What, err)
				return
			}
			walks[i] = &Walked{Probe: p, Verdict: r.Verdict, Divergence: r.Divergence, Answer: r.Answer}
		})
	}
	wg.Wait()
	for _, w := range walks {
		if w != nil {
			l.out.Walks = append(l.out.Walks, *w)
		}
	}
}

// toWalk chooses the probes to walk after. Of a pair whose ping fails the other
// probes need none.
func toWalk(probes []Probed) []Probed {
	pair := func(p Probed) string { return fmt.Sprint(p.From, p.To, p.IPv6) }
	sort := func(p Probed) int {
		switch {
		case p.Port != 0:
			return 2
		case p.Size != 0:
			return 1
		}
		return 0
	}
	pings := map[string]bool{}
	var failed []Probed
	for _, p := range probes {
		if !p.OK {
			failed = append(failed, p)
			pings[pair(p)] = pings[pair(p)] || sort(p) == 0
		}
	}
	failed = slices.DeleteFunc(failed, func(p Probed) bool { return sort(p) > 0 && pings[pair(p)] })
	// The first of each sort and family, then the second of each.
	times := map[string]int{}
	turn := make(map[Probed]int, len(failed))
	for _, p := range failed {
		kind := fmt.Sprint(sort(p), p.IPv6)
		turn[p] = times[kind]
		times[kind]++
	}
	slices.SortStableFunc(failed, func(a, b Probed) int {
		return cmp.Or(cmp.Compare(turn[a], turn[b]), cmp.Compare(sort(a), sort(b)))
	})
	return failed[:min(maxWalks, len(failed))]
}

// evidence is a walk in a line: where it ended, and what the walk says of that.
func (w *Walked) evidence() string {
	d := w.Divergence
	over := ""
	if w.Probe.IPv6 {
		over = " over IPv6"
	}
	text := fmt.Sprintf("walk from %s to %s%s: the %s ended at %s: %s", w.Probe.From, w.Probe.To, over, d.Leg, d.Where, d.Cause)
	if d.Dropped != nil && !strings.Contains(d.Cause, d.Dropped.Reason) {
		text += fmt.Sprintf("; the kernel says %s in %s", d.Dropped.Reason, d.Dropped.Function)
	}
	return text
}

// places are the namespaces that a walk accuses, the likeliest first: where it
// could be mended, where the kernel dropped the packet, where it was not seen.
func (w *Walked) places() []string {
	d := w.Divergence
	var out []string
	if d.On != "" {
		out = append(out, d.On)
	}
	if d.Dropped != nil {
		out = append(out, d.Dropped.Space)
	}
	where, _, _ := strings.Cut(d.Where, ":")
	return append(out, where)
}

// withWalks adds to each cause the walk that met it, and lets it go before
// others of its rank. A walk that met no known cause is one.
func withWalks(seen *Seen, causes []Cause) []Cause {
	slices.SortStableFunc(causes, func(a, b Cause) int { return cmp.Compare(b.rank, a.rank) })
	met := make([]bool, len(causes))
	var alone []*Walked
	for i := range seen.Walks {
		w := &seen.Walks[i]
		if w.Verdict != walk.Diverged || w.Divergence == nil {
			continue
		}
		at := w.meets(seen, causes)
		if at < 0 {
			alone = append(alone, w)
			continue
		}
		met[at] = true
		if e := w.evidence(); !slices.Contains(causes[at].Evidence, e) {
			causes[at].Evidence = append(causes[at].Evidence, e)
		}
	}
	var first, rest []Cause
	for i, c := range causes {
		if met[i] {
			first = append(first, c)
		} else {
			rest = append(rest, c)
		}
	}
	explained := len(first) > 0
	return append(first, append(rest, joined(ended(seen, alone, explained))...)...)
}

// meets returns which of the ranked causes a walk met: the first that can lose
// a packet where the walk accuses, one for the walk's own peer before others of
// its rank; -1 for none.
func (w *Walked) meets(seen *Seen, causes []Cause) int {
	ends := []string{w.Probe.From, w.Probe.To, w.Probe.FromNode, w.Probe.ToNode}
	for _, place := range w.places() {
		found := -1
		for i, c := range causes {
			switch {
			case c.rank <= rankStore+2 || c.Space != place && c.Node != place && c.Pod != place && !holds(seen, place, c.Node):
			case found < 0, c.rank == causes[found].rank && c.Peer != "" && slices.Contains(ends, c.Peer) && !slices.Contains(ends, causes[found].Peer):
				found = i
			}
		}
		if found >= 0 {
			return found
		}
	}
	// What is dropped where it arrives may have been altered where it left.
	return slices.IndexFunc(causes, func(c Cause) bool { return c.Node == w.sender() && slices.Contains(altering(), c.ID) })
}

// sender is the node whose pod sent what did not arrive.
func (w *Walked) sender() string {
	if w.Divergence.Leg == "reply" {
		return w.Probe.ToNode
	}
	return w.Probe.FromNode
}

// altering are the causes that send packets on that nobody takes.
func altering() []string {
	return []string{"checksum", "masquerade", "rewrite", "ttl-rule", "vxlan-id", "vxlan-dstport", "vxlan-gbp", "wireguard-device", "ipsec-policy", "ipsec-state"}
}

// holds reports whether a place is a pod of a node.
func holds(seen *Seen, place, node string) bool {
	p := seen.Plan.Pod(place)
	return p != nil && p.Node == node
}

// ended are walks that met no known cause. Where others met theirs, or where it
// is not certain what ended them, they come after what is known to be wrong.
func ended(seen *Seen, walks []*Walked, explained bool) []Cause {
	var out []Cause
	for _, w := range walks {
		d := w.Divergence
		place := w.places()[0]
		c := inPlace(seen, place, strings.Replace(d.Cause, "the kernel dropped it at", "the kernel drops packets at", 1))
		c.ID, c.rank, c.Evidence = idWalk, rankGuess, []string{w.evidence()}
		if d.Confirmed && !explained {
			c.rank = rankWalk
		}
		if d.Dropped != nil {
			c.ID = idDrop
		}
		if place == underlay {
			c.Node = ""
		}
		if d.Mend != "" {
			c.Mend = []string{d.Mend}
		}
		out = append(out, c)
	}
	return out
}
