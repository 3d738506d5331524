package walk

import (
	"fmt"
	"slices"
	"time"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/walk/predict"
)

// differences lists what a captured packet has other than predicted. What the
// prediction leaves open is not compared, nor is the size of a fragment.
func differences(want, seen *predict.Frame, fragment bool) []string {
	var out []string
	note := func(differs bool, format string, args ...any) {
		if differs {
			out = append(out, fmt.Sprintf(format, args...))
		}
	}
	note(want.SrcMAC != seen.SrcMAC, "source MAC %s, not %s", seen.SrcMAC, want.SrcMAC)
	note(want.DstMAC != seen.DstMAC, "destination MAC %s, not %s", seen.DstMAC, want.DstMAC)
	note(want.Src != seen.Src, "source %s, not %s", seen.Src, want.Src)
	note(want.Dst != seen.Dst, "destination %s, not %s", seen.Dst, want.Dst)
	note(want.TTL != 0 && want.TTL != seen.TTL, "ttl %d, not %d", seen.TTL, want.TTL)
	note(want.Size != 0 && !fragment && want.Size != seen.Size, "%d bytes, not %d", seen.Size, want.Size)
	switch {
	case want.Encap == nil && seen.Encap == nil:
	case want.Encap == nil:
		out = append(out, fmt.Sprintf("encapsulated (%s)", seen.Encap))
	case seen.Encap == nil:
		out = append(out, fmt.Sprintf("not encapsulated (%s)", want.Encap))
	default:
		note(*want.Encap != *seen.Encap, "%s, not %s", seen.Encap, want.Encap)
		if want.Inner != nil && seen.Inner != nil {
			for _, d := range differences(want.Inner, seen.Inner, fragment) {
				out = append(out, "inner "+d)
			}
		}
	}
	return out
}

// matcher gives captured frames to steps.
type matcher struct {
	frames []sighted // in the order of time
	used   map[int]bool
	last   time.Time
	// machines are those of the namespaces where there are several, each with a
	// clock of its own; on is that of the frame that last is of.
	machines map[string]string
	on       string
}

// apart reports whether a frame of a namespace was timed by another clock than
// the last one.
func (m *matcher) apart(space string) bool {
	return !m.last.IsZero() && m.machines[space] != m.on
}

// older reports whether a frame came before the last one.
func (m *matcher) older(f *sighted) bool {
	return !m.apart(f.at.space) && f.Time.Before(m.last)
}

// leg fills the steps of one leg.
func (m *matcher) leg(path *predict.Path, k kind, first int) []Step {
	steps := make([]Step, len(path.Hops))
	for i, h := range path.Hops {
		steps[i] = Step{Number: first + i, Hop: h}
		before := m.last
		at := m.find(&h, k)
		if at < 0 {
			continue
		}
		f := &m.frames[at]
		seen := &Seen{
			Time: f.Time, Frame: f.frame, Length: f.Length, Fragment: f.fragment, Transport: f.transport, Count: m.count(&h, k), raw: f.Frame,
		}
		switch {
		case before.IsZero():
		case m.apart(h.Space):
			seen.Apart = true
		default:
			seen.After = f.Time.Sub(before)
		}
		if h.Frame.Encap != nil && h.Frame.Encap.Kind != "ipip" {
			seen.SourcePort = f.srcPort
		}
		if h.Frame.Hidden() {
			seen.By, seen.Count = "addresses, port and time: the mark is encrypted", 1
		}
		steps[i].Seen, steps[i].Differences = seen, differences(&h.Frame, &f.frame, f.fragment)
		m.last, m.on = f.Time, m.machines[h.Space]
	}
	return steps
}

// find returns the frame of a step, or -1: the first that no step has yet, that
// is not older than the step before, and that is as predicted. A bridge that
// floods, or a detour, shows others at the same place.
func (m *matcher) find(h *predict.Hop, k kind) int {
	best, bestScore := -1, 0
	for i := range m.frames {
		f := &m.frames[i]
		if !m.is(f, h, k) {
			continue
		}
		score := 1
		if !m.used[i] {
			score++
		}
		if !m.older(f) {
			score++
		}
		if len(differences(&h.Frame, &f.frame, f.fragment)) == 0 {
			score++
		}
		if score > bestScore {
			best, bestScore = i, score
		}
	}
	if best >= 0 {
		m.used[best] = true
	}
	return best
}

// count is how many of the packets were seen at a step; what of them is as
// predicted needs no further mention.
func (m *matcher) count(h *predict.Hop, k kind) int {
	seqs := map[uint16]bool{}
	for i := range m.frames {
		f := &m.frames[i]
		if !m.is(f, h, k) {
			continue
		}
		seqs[f.seq] = true
		if len(differences(&h.Frame, &f.frame, f.fragment)) == 0 {
			m.used[i] = true
		}
	}
	return len(seqs)
}

func (m *matcher) is(f *sighted, h *predict.Hop, k kind) bool {
	if f.at.space != h.Space || f.at.dev != h.Interface || (f.Direction == capture.Out) != (h.Direction == predict.Out) {
		return false
	}
	if h.Frame.Hidden() {
		return f.wireguard && f.frame.Src == h.Frame.Src && f.frame.Dst == h.Frame.Dst && !m.older(f)
	}
	return f.kind == k
}

// lastSeen returns the index of the last step that was seen, -1 for none.
func lastSeen(steps []Step) int {
	for i, s := range slices.Backward(steps) {
		if s.Seen != nil {
			return i
		}
	}
	return -1
}
