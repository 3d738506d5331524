package walk

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/walk/predict"
	"github.com/overlab/overlab/topology"
)

// Options choose the packet. The zero value is one ping's.
type Options struct {
	// Size in bytes of the IP packet, 84 if zero.
	Size int
	// TTL of the request, 0 for the kernel's default.
	TTL int
	// DF sets the don't-fragment bit.
	DF bool
	// Count is how many packets are sent, 1 if zero.
	Count int
	// Wait is how long each answer is waited for, 1 s if zero; a fifth of it
	// where the state says that none will come.
	Wait time.Duration
	// Sentinel is how long a capture's end is waited for, 2 s if zero.
	Sentinel time.Duration
}

func (o *Options) defaults() {
	if o.Size == 0 {
		o.Size = 84
	}
	if o.Count == 0 {
		o.Count = 1
	}
	if o.Wait == 0 {
		o.Wait = time.Second
	}
	if o.Sentinel == 0 {
		o.Sentinel = 2 * time.Second
	}
}

// Run follows a packet from one node or pod of the lab to another. That it
// does not arrive is no error: the report says so. The lab's namespaces must
// be within reach (topology.Local).
func Run(ctx context.Context, lab topology.Lab, from, to string, o Options) (*Report, error) {
	o.defaults()
	plan := lab.Plan()
	began := time.Now()
	src, err := endpoint(plan, from)
	if err != nil {
		return nil, err
	}
	dst, err := endpoint(plan, to)
	if err != nil {
		return nil, err
	}
	all, err := open(ctx, lab, lookedAt(plan, src, dst))
	if err != nil {
		return nil, fmt.Errorf("walk from %s to %s: %w", from, to, err)
	}
	defer func() { _ = all.close() }()
	w := &run{lab: lab, sessions: all, o: o, report: &Report{
		APIVersion: topology.APIVersion, Kind: "Walk", Lab: plan.Name, Backend: plan.Network.Backend.Type,
		From: src, To: dst, ID: uuid.New(), Count: o.Count, Began: began,
	}}
	if err := w.walk(ctx); err != nil {
		return nil, fmt.Errorf("walk from %s to %s: %w", from, to, err)
	}
	w.report.Took = time.Since(began)
	return w.report, nil
}

// run is one walk under way.
type run struct {
	lab      topology.Lab
	sessions sessions
	o        Options
	report   *Report
	net      *predict.Network
	there    *predict.Path
	back     *predict.Path
}

func (w *run) walk(ctx context.Context) error {
	if err := w.predict(ctx); err != nil {
		return err
	}
	r := w.report
	t := listen(w.lab, places(w.net, []Endpoint{r.From, r.To}, w.there, w.back))
	// The kernel takes its time to let go of a ring, and nobody need wait.
	defer func() { go t.close() }()
	if err := w.send(ctx); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, w.o.Sentinel)
	defer cancel()
	w.compare(t.collect(waiting))
	w.judge(ctx)
	return nil
}

// predict dumps the state and predicts both ways.
func (w *run) predict(ctx context.Context) error {
	var err error
	if w.net, err = gather(ctx, w.lab.Plan(), w.sessions); err != nil {
		return err
	}
	r := w.report
	ttl := w.o.TTL
	if ttl == 0 {
		if ttl, err = strconv.Atoi(w.net.Spaces[r.From.Name].Sysctls["net/ipv4/ip_default_ttl"]); err != nil {
			ttl = 64
		}
	}
	r.Packet = predict.Packet{Dst: r.To.Address, TTL: ttl, Size: w.o.Size, DF: w.o.DF}
	w.there = w.net.Predict(r.From.Name, r.Packet)
	r.Request.Predicted = w.there.Drop
	if w.there.Arrived != nil {
		w.back = w.net.Reply(w.there)
		r.Reply = &Leg{Predicted: w.back.Drop}
	}
	return nil
}

// fails reports whether the state says that no answer will come.
func (w *run) fails() bool { return w.back == nil || w.back.Drop != nil }

func (w *run) send(ctx context.Context) error {
	r := w.report
	wait := w.o.Wait
	if w.fails() {
		wait /= 5
	}
	var err error
	r.Pong, err = w.sessions[r.From.Name].Ping(ctx, probe.Ping{
		Dst: r.To.Address, Size: w.o.Size, DF: w.o.DF, TTL: w.o.TTL, Count: w.o.Count, ID: r.ID, Wait: wait, Tries: 1,
	})
	r.Answer = r.Pong.String()
	return err
}

// compare puts what was seen beside what was predicted.
func (w *run) compare(s *sighting) {
	r := w.report
	m := &matcher{frames: w.read(s), used: map[int]bool{}}
	r.Request.Steps = m.leg(w.there, request, 1)
	if w.back != nil {
		r.Reply.Steps = m.leg(w.back, reply, 1+len(w.there.Hops))
	}
	r.Doubts, r.Taps = s.doubts, s.stats
	for i := range r.Taps {
		for _, f := range m.frames {
			if f.marked && f.at.String() == r.Taps[i].Name {
				r.Taps[i].Marked++
			}
		}
	}
	w.noteOthers(m)
	w.keep(m)
}

// read decodes the frames, in the order of time.
func (w *run) read(s *sighting) []sighted {
	reader := reader{id: w.report.ID, ports: []uint16{0}}
	for _, name := range w.sessions.names() {
		for _, l := range w.net.Spaces[name].State.Links {
			if l.VXLAN != nil && !slices.Contains(reader.ports, uint16(l.VXLAN.Port)) {
				reader.ports = append(reader.ports, uint16(l.VXLAN.Port))
			}
		}
	}
	if b := w.lab.Plan().Network.Backend; b.Type == "udp" {
		reader.tunnel = uint16(b.Port)
	}
	var all []sighted
	for at, frames := range s.frames {
		for _, f := range frames {
			all = append(all, reader.read(at, f))
		}
	}
	slices.SortStableFunc(all, func(a, b sighted) int { return a.Time.Compare(b.Time) })
	return all
}

// noteOthers tells of marked frames that no step has: floods, doubles, and
// ICMP errors.
func (w *run) noteOthers(m *matcher) {
	r := w.report
	elsewhere := map[string]bool{}
	for i := range m.frames {
		f := &m.frames[i]
		if !f.marked || m.used[i] {
			continue
		}
		if f.kind == failure {
			if f.at.space == r.From.Name {
				r.Notes = append(r.Notes, fmt.Sprintf("%s: ICMP %s from %s", f.at, f.icmp, f.from))
			}
			continue
		}
		if f.fragment {
			continue
		}
		elsewhere[fmt.Sprintf("also seen at %s, %s, where it was not expected", f.at, f.Direction)] = true
	}
	places := slices.Sorted(maps.Keys(elsewhere))
	const enough = 6 // a prediction that is wrong leaves all that follows over
	if more := len(places) - enough; more > 0 {
		places = append(places[:enough], fmt.Sprintf("and at %d more", more))
	}
	r.Notes = append(r.Notes, places...)
	for _, p := range []*predict.Path{w.there, w.back} {
		if p == nil {
			continue
		}
		if p.Arrived != nil && p.Astray != nil {
			r.Notes = append(r.Notes, fmt.Sprintf("it arrives by a detour: %s (on %s: %s)", p.Astray.Cause, p.Astray.On, p.Astray.Mend))
		}
	}
	for _, h := range w.there.Hops {
		for _, d := range h.Decisions {
			if d.Kind == "nat" {
				r.Notes = append(r.Notes, h.Space+": "+d.Entry)
			}
		}
	}
}

// keep remembers the frames for a file.
func (w *run) keep(m *matcher) {
	steps := map[string]*Step{}
	key := func(f *capture.Frame) string { return f.Tap + f.Direction.String() + f.Time.String() }
	for _, leg := range w.report.Legs() {
		for i := range leg.Steps {
			if s := &leg.Steps[i]; s.Seen != nil {
				steps[key(&s.Seen.raw)] = s
			}
		}
	}
	for i := range m.frames {
		f := &m.frames[i]
		step := steps[key(&f.Frame)]
		if !f.marked && step == nil && !m.used[i] {
			continue
		}
		c := Captured{Frame: f.Frame}
		if step != nil {
			c.Step, c.Does = step.Number, step.Does
		}
		w.report.captured = append(w.report.captured, c)
	}
}
