package render

import (
	"fmt"
	"strings"
	"time"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/harness/walk/predict"
)

// row is a labelled line of a step.
type row struct{ Label, Text string }

// decided are the rows of what decided on the way to a step.
func decided(ds []predict.Decision) []row {
	var rows []row
	for _, d := range ds {
		rows = append(rows, row{d.Kind, d.Entry})
	}
	return rows
}

// headers are the rows of a frame, the outer headers first.
func headers(f *predict.Frame, sourcePort uint16) []row {
	var rows []row
	if !f.SrcMAC.IsZero() || !f.DstMAC.IsZero() {
		rows = append(rows, row{"eth", fmt.Sprintf("%s > %s", f.SrcMAC, f.DstMAC)})
	}
	ip := fmt.Sprintf("%s > %s", f.Src, f.Dst)
	if f.TTL != 0 {
		ip += fmt.Sprintf(", ttl %d", f.TTL)
	}
	if f.Size != 0 {
		ip += fmt.Sprintf(", %d bytes", f.Size)
	}
	if f.DF {
		ip += ", DF"
	}
	rows = append(rows, row{"ip", ip})
	if e := f.Encap; e != nil {
		ports := fmt.Sprintf("%d > %d", sourcePort, e.Port)
		if sourcePort == 0 {
			ports = fmt.Sprintf("to %d", e.Port)
		}
		switch e.Kind {
		case "vxlan":
			rows = append(rows, row{"udp", ports}, row{"vxlan", fmt.Sprintf("vni %d", e.VNI)})
		case "ipip":
		case "wireguard":
			rows = append(rows, row{"udp", ports}, row{"wg", "encrypted: what is inside is not to be read"})
			return rows
		default:
			rows = append(rows, row{"udp", ports})
		}
	}
	if f.Inner != nil {
		for _, inner := range headers(f.Inner, 0) {
			rows = append(rows, row{"  " + inner.Label, inner.Text})
		}
	}
	return rows
}

// transport is the row of the innermost header, where the packet is for a port.
func transport(s *walk.Step) []row {
	if s.Seen == nil || s.Seen.Transport == "" {
		return nil
	}
	label, text, _ := strings.Cut(s.Seen.Transport, " ")
	label = strings.ToLower(label)
	if s.Seen.Frame.Inner != nil {
		label = "  " + label
	}
	return []row{{label, text}}
}

// frame is the step's frame: as it was seen, else as it was predicted.
func frame(s *walk.Step) (*predict.Frame, uint16) {
	if s.Seen != nil {
		return &s.Seen.Frame, s.Seen.SourcePort
	}
	return &s.Frame, 0
}

// after is the time since the step before, for a column.
func after(s *walk.Step) string {
	if s.Seen == nil {
		return "not seen"
	}
	if s.Seen.Apart {
		return "other clock"
	}
	return fmt.Sprintf("+%.1f µs", float64(s.Seen.After.Nanoseconds())/1000)
}

// innermost is what is in the tunnel, or the frame itself.
func innermost(f *predict.Frame) *predict.Frame {
	if f.Inner != nil {
		return f.Inner
	}
	return f
}

// short is a frame in a few words, for a drawing.
func short(s *walk.Step) string {
	f, _ := frame(s)
	var words []string
	if e := f.Encap; e != nil {
		words = append(words, strings.Split(e.String(), ",")[0], fmt.Sprintf("%s > %s", f.Src, f.Dst))
	}
	if f.Encap == nil || f.Encap.Kind != "wireguard" {
		words = append(words, fmt.Sprintf("ttl %d", innermost(f).TTL))
	}
	return strings.Join(words, ", ")
}

// title is the walk in a line.
func title(r *walk.Report) string {
	return fmt.Sprintf("%s to %s (lab %s, %s)", r.From, r.To, r.Lab, r.Backend)
}

// sent says what was sent.
func sent(r *walk.Report) string {
	icmp := "ICMP"
	if r.Packet.Dst.Is6() {
		icmp = "ICMPv6"
	}
	s := fmt.Sprintf("one %s echo request", icmp)
	switch {
	case r.Packet.Protocol == "tcp":
		s = fmt.Sprintf("one TCP SYN to port %d", r.Packet.Port)
	case r.Packet.Protocol == "udp":
		s = fmt.Sprintf("one UDP datagram to port %d", r.Packet.Port)
	case r.Count > 1:
		s = fmt.Sprintf("%d %s echo requests", r.Count, icmp)
	}
	s += fmt.Sprintf(" of %d bytes, ttl %d", r.Packet.Size, r.Packet.TTL)
	if r.Packet.DF {
		s += ", DF"
	}
	return s + ", marked " + r.ID.String()
}

// steps counts those of all legs.
func steps(r *walk.Report) int {
	n := 0
	for _, leg := range r.Legs() {
		n += len(leg.Steps)
	}
	return n
}

// Outcome is what became of the packet, and why, in a line.
func Outcome(r *walk.Report) string {
	if r.Divergence != nil && r.Divergence.Cause != "" {
		return outcome(r) + ": " + r.Divergence.Cause
	}
	return outcome(r)
}

// outcome is the verdict's sentence.
func outcome(r *walk.Report) string {
	switch r.Verdict {
	case walk.Arrived:
		if r.Silent {
			return fmt.Sprintf("arrived, and was not answered; %d steps, all as predicted", steps(r))
		}
		return fmt.Sprintf("arrived and answered: %s; %d steps, all as predicted", r.Answer, steps(r))
	case walk.Inconclusive:
		return "inconclusive: the capture lacks frames"
	}
	return fmt.Sprintf("diverged on the %s, at %s", r.Divergence.Leg, r.Divergence.Where)
}

// explained are the rows below the verdict.
func explained(r *walk.Report) []row {
	var rows []row
	if d := r.Divergence; d != nil {
		rows = append(rows, row{"seen", d.What}, row{"cause", d.Cause})
		if d.Mend != "" {
			mend := d.Mend
			if d.On != "" {
				mend = "on " + d.On + ": " + mend
			}
			rows = append(rows, row{"mend", mend})
		}
		if d.Dropped != nil {
			rows = append(rows, row{"kernel", d.Dropped.String()})
		}
		rows = append(rows, row{"sender", r.Answer})
	}
	for _, d := range r.Doubts {
		rows = append(rows, row{"doubt", d})
	}
	for _, n := range r.Notes {
		rows = append(rows, row{"note", n})
	}
	for _, l := range r.Limits {
		rows = append(rows, row{"limit", l})
	}
	return rows
}

// took is how long the walk took, in words.
func took(r *walk.Report) string {
	return fmt.Sprintf("%d taps, %v", len(r.Taps), r.Took.Round(time.Millisecond))
}
