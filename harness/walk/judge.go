package walk

import (
	"context"
	"fmt"

	"github.com/overlab/overlab/harness/walk/predict"
)

// judge finds the first divergence and its cause.
func (w *run) judge(ctx context.Context) {
	r := w.report
	w.forgive()
	for _, leg := range r.Legs() {
		if d := w.diverges(ctx, leg); d != nil {
			r.Divergence = d
			break
		}
	}
	switch {
	case r.Divergence == nil && (r.Pong.Answered() || r.Silent):
		r.Verdict = Arrived
	case r.Divergence == nil:
		r.Divergence = &Divergence{
			Leg: "reply", Where: r.From.Name, What: "the answer was seen on all of its way",
			Cause: fmt.Sprintf("%s did not take it: %s", r.From.Name, r.Answer),
		}
		r.Verdict = Diverged
	default:
		r.Verdict = Diverged
	}
	// What was not seen may have been there where frames are missing; what the
	// state predicts, and the sender confirms, does not hang on it.
	if len(r.Doubts) > 0 && r.Verdict == Diverged && !r.Divergence.Confirmed {
		r.Verdict = Inconclusive
	}
}

// forgive lets a datagram go unanswered that arrived and that nobody is known
// to have dropped.
func (w *run) forgive() {
	r := w.report
	if r.Packet.Protocol != "udp" || r.Reply == nil || r.Reply.Predicted != nil || r.Pong.Answered() || r.Pong.Error != nil {
		return
	}
	leg := NamedLeg{"request", &r.Request}
	last := lastSeen(r.Request.Steps)
	if last != len(r.Request.Steps)-1 || lastSeen(r.Reply.Steps) >= 0 || w.dropped(leg, last, r.To.Name) != nil {
		return
	}
	r.Silent, r.Reply = true, nil
	note := fmt.Sprintf("%s's port %d got it and answers nothing, as a service may; a closed port would be refused", r.To.Name, r.Packet.Port)
	if r.Untraced != "" {
		note += ". That nothing there dropped it is not certain: the kernel was not traced"
	}
	r.Notes = append(r.Notes, note)
}

// diverges returns where a leg went wrong, or nil.
func (w *run) diverges(ctx context.Context, leg NamedLeg) *Divergence {
	last := lastSeen(leg.Steps)
	// Headers that differ come first: what follows may be due to them.
	for i := range last + 1 {
		s := &leg.Steps[i]
		if s.Seen != nil && len(s.Differences) > 0 {
			return &Divergence{
				Leg: leg.Name, Step: s.Number, Where: s.Tap(), What: "the packet is not as predicted",
				Cause: "seen with " + s.Differences[0] + ": something that the dumped state does not show has changed it",
			}
		}
	}
	whole := last == len(leg.Steps)-1
	switch {
	case leg.Predicted != nil && (leg.Name == "reply" || !w.report.Pong.Answered()) && whole:
		return w.predicted(leg, last)
	case leg.Predicted != nil && whole:
		return &Divergence{Leg: leg.Name, Where: leg.Predicted.Space, What: "the packet arrived", Cause: "the state says that it would not: " + leg.Predicted.Cause}
	case whole:
		return nil
	case w.report.Pong.Refused != nil && leg.Name == "request":
		d := &Divergence{Leg: leg.Name, Where: w.report.From.Name, What: "the sender's kernel refused: " + w.report.Pong.Refused.String(), Cause: "the sender's kernel refused: " + w.report.Pong.Refused.String()}
		if leg.Predicted != nil {
			d.Cause, d.Mend, d.On = leg.Predicted.Cause, leg.Predicted.Mend, leg.Predicted.On
		}
		return d
	}
	d := absence(leg, last)
	missing := &leg.Steps[last+1]
	d.Dropped = w.dropped(leg, last, missing.Space)
	switch {
	case d.Dropped != nil && !d.Dropped.byNetfilter():
		d.Cause, d.Confirmed = d.Dropped.cause(), true
	case d.Dropped != nil:
		w.explain(ctx, d, d.Dropped.Space)
		d.Confirmed = true
	case len(w.report.Doubts) > 0:
		d.Cause = "nothing can be said: frames are missing from the capture"
	case d.Cause == "":
		w.explain(ctx, d, missing.Space)
	}
	return d
}

// predicted is the end that the state foretold.
func (w *run) predicted(leg NamedLeg, last int) *Divergence {
	p := leg.Predicted
	d := &Divergence{Leg: leg.Name, Where: place{space: p.Space, dev: p.Interface}.String(), Cause: p.Cause, Mend: p.Mend, On: p.On, Confirmed: true}
	if p.Interface == "" {
		d.Where = p.Space
	}
	d.What = "nothing left " + p.Space
	d.Dropped = w.dropped(leg, last, p.Space)
	if last >= 0 {
		s := &leg.Steps[last]
		d.Step, d.What = s.Number, fmt.Sprintf("last seen at %s, %s, as the state foretold", s.Tap(), s.Direction)
	}
	return d
}

// absence is an end that the state does not foretell: the step after the last
// was not seen.
func absence(leg NamedLeg, last int) *Divergence {
	missing := &leg.Steps[last+1]
	d := &Divergence{Leg: leg.Name, Where: missing.Tap(), What: fmt.Sprintf("not seen at %s, %s", missing.Tap(), missing.Direction)}
	if last < 0 {
		return d
	}
	s := &leg.Steps[last]
	d.Step, d.What = s.Number, fmt.Sprintf("seen at %s, %s, and not at %s, %s", s.Tap(), s.Direction, missing.Tap(), missing.Direction)
	if s.Direction == predict.Out && missing.Space != s.Space {
		d.Cause = fmt.Sprintf("what %s sent did not come out at %s: the link between them lost it", s.Tap(), missing.Tap())
	}
	return d
}

// explain looks for the cause of an end in a namespace's firewall. That it was
// the firewall is certain if the kernel says so.
func (w *run) explain(ctx context.Context, d *Divergence, space string) {
	found, err := w.netfilter(ctx, space)
	switch {
	case err != nil:
		d.Cause = fmt.Sprintf("%s dropped it, for a reason that its state does not show; its firewall could not be read: %v", space, err)
	case len(found) > 0:
		d.Cause, d.Mend, d.On = found[0].cause(space), found[0].Mend, space
		d.Confirmed = found[0].counted > 0
	case d.Dropped != nil:
		d.Cause = fmt.Sprintf("the firewall of %s drops it, and not by nftables: see iptables-legacy", space)
	default:
		d.Cause = fmt.Sprintf("%s dropped it, for a reason that neither its state nor its firewall (nftables) shows", space)
	}
}
