package walk

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
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
	// Size in bytes of the IP packet, 84 if zero; a SYN has its own.
	Size int
	// Protocol is icmp (also if empty) for an echo request, tcp for a SYN to
	// Port, or udp for a datagram to it.
	Protocol string
	Port     int
	// IPv6 walks over IPv6, in a lab of both families. So does an end that is
	// given by its IPv6 address.
	IPv6 bool
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

func (o *Options) defaults() error {
	if o.Protocol == "" {
		o.Protocol = "icmp"
	}
	if o.knocks() && o.Count > 1 {
		return fmt.Errorf("%d packets to a port: one is sent, and its answer is followed", o.Count)
	}
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
	return nil
}

// knocks says that the packet is for a port.
func (o *Options) knocks() bool { return o.Protocol != "icmp" }

// Run follows a packet from one node or pod of the lab to another. That it
// does not arrive is no error: the report says so. Where the lab's namespaces
// are not this machine's, what the kernel dropped is not traced.
func Run(ctx context.Context, lab topology.Lab, from, to string, o Options) (*Report, error) {
	if err := o.defaults(); err != nil {
		return nil, fmt.Errorf("walk from %s to %s: %w", from, to, err)
	}
	plan, err := viewed(lab.Plan(), &o, from, to)
	if err != nil {
		return nil, fmt.Errorf("walk from %s to %s: %w", from, to, err)
	}
	began := time.Now()
	src, err := endpoint(plan, from)
	if err != nil {
		return nil, err
	}
	dst, err := endpoint(plan, to)
	if err != nil {
		return nil, err
	}
	spaces, leftOut := lookedAt(plan, src, dst)
	all, err := open(ctx, lab, spaces)
	if err != nil {
		return nil, fmt.Errorf("walk from %s to %s: %w", from, to, err)
	}
	defer func() { _ = all.close() }()
	w := &run{lab: lab, plan: plan, sessions: all, o: o, report: &Report{
		APIVersion: topology.APIVersion, Kind: "Walk", Lab: plan.Name, Backend: plan.Network.Backend.Type,
		From: src, To: dst, ID: uuid.New(), Count: o.Count, Began: began, Limits: limits(leftOut),
	}}
	if err := w.walk(ctx); err != nil {
		return nil, fmt.Errorf("walk from %s to %s: %w", from, to, err)
	}
	w.report.Took = time.Since(began)
	return w.report, nil
}

// viewed is the plan as the packet's family sees it.
func viewed(p *topology.Plan, o *Options, ends ...string) (*topology.Plan, error) {
	for _, e := range ends {
		if a, err := netip.ParseAddr(e); err == nil && a.Is6() {
			o.IPv6 = true
		}
	}
	if !o.IPv6 || p.Is6() {
		return p, nil
	}
	if !p.Network.IPv6Network.IsValid() {
		return nil, fmt.Errorf("lab %s has no IPv6: it takes EnableIPv6 in its network", p.Name)
	}
	return p.Over6(), nil
}

// run is one walk under way.
type run struct {
	lab      topology.Lab
	plan     *topology.Plan // as the packet's family sees it
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
	var tracing *tracing
	if w.fails() {
		tracing = w.trace() // while the taps are opened
		defer tracing.close()
	}
	r := w.report
	at, leftOut := places(w.net, []Endpoint{r.From, r.To}, w.there, w.back)
	if leftOut > 0 {
		r.Limits = append(r.Limits, fmt.Sprintf("%d interfaces beside the predicted way are without a tap: what strays there is not seen", leftOut))
	}
	t := w.listen(ctx, at)
	// The kernel takes its time to let go of a ring, and nobody need wait.
	defer func() { go t.close() }()
	if tracing != nil {
		tracing.wait()
	}
	if err := w.send(ctx); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, w.o.Sentinel)
	defer cancel()
	w.compare(t.collect(waiting))
	switch {
	case tracing != nil:
		w.noteDrops(tracing, r.ID)
	case !r.Pong.Answered() && r.Pong.Refused == nil:
		if err := w.ask(ctx); err != nil {
			return err
		}
	}
	w.judge(ctx)
	return nil
}

// predict dumps the state and predicts both ways.
func (w *run) predict(ctx context.Context) error {
	var err error
	if w.net, err = gather(ctx, w.plan, w.sessions); err != nil {
		return err
	}
	r := w.report
	if w.o.Protocol == "tcp" {
		w.o.Size = probe.SYNSize(r.To.Address)
	}
	ttl := w.o.TTL
	if ttl == 0 {
		usual := "net/ipv4/ip_default_ttl"
		if w.o.IPv6 {
			usual = "net/ipv6/conf/all/hop_limit"
			if r.From.Node != r.From.Name { // a pod has one way out, and each interface its own
				usual = "net/ipv6/conf/eth0/hop_limit"
			}
		}
		if ttl, err = strconv.Atoi(w.net.Spaces[r.From.Name].Sysctls[usual]); err != nil {
			ttl = 64
		}
	}
	r.Packet = predict.Packet{Protocol: w.o.Protocol, Port: w.o.Port, Dst: r.To.Address, TTL: ttl, Size: w.o.Size, DF: w.o.DF}
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
	r.Pong, err = w.sendOne(ctx, r.ID, w.o.Count, wait)
	r.Answer = r.Pong.String()
	return err
}

// sendOne sends the packet, so many times, with a mark.
func (w *run) sendOne(ctx context.Context, id uuid.UUID, count int, wait time.Duration) (probe.Pong, error) {
	s, o, dst := w.sessions[w.report.From.Name], &w.o, w.report.To.Address
	if o.knocks() {
		return s.Knock(ctx, probe.Knock{Protocol: o.Protocol, Dst: dst, Port: o.Port, Size: o.Size, DF: o.DF, TTL: o.TTL, ID: id, Wait: wait})
	}
	return s.Ping(ctx, probe.Ping{Dst: dst, Size: o.Size, DF: o.DF, TTL: o.TTL, Count: count, ID: id, Wait: wait, Tries: 1})
}

// compare puts what was seen beside what was predicted.
func (w *run) compare(s *sighting) {
	r := w.report
	m := &matcher{frames: w.read(s), used: map[int]bool{}, machines: w.machines()}
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

// machines are the machines of the namespaces, nil where all are on this one.
func (w *run) machines() map[string]string {
	out := map[string]string{}
	for name, s := range w.sessions {
		if s.Peer() == nil {
			return nil
		}
		out[name] = name
		if pod := w.plan.Pod(name); pod != nil {
			out[name] = pod.Node
		}
	}
	return out
}

// reader knows a packet by its mark, and the ports of the lab's tunnels.
func (w *run) reader(id uuid.UUID) *reader {
	reader := &reader{mark: w.mark(id), ports: []uint16{0}}
	for _, name := range w.sessions.names() {
		for _, l := range w.net.Spaces[name].State.Links {
			if l.VXLAN != nil && !slices.Contains(reader.ports, uint16(l.VXLAN.Port)) {
				reader.ports = append(reader.ports, uint16(l.VXLAN.Port))
			}
		}
	}
	if b := w.plan.Network.Backend; b.Type == "udp" {
		reader.tunnel = uint16(b.Port)
	}
	return reader
}

// read decodes the frames, in the order of time.
func (w *run) read(s *sighting) []sighted {
	reader := w.reader(w.report.ID)
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
