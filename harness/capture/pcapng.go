package capture

import (
	"fmt"
	"io"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// A Writer writes frames as pcapng, one interface a tap, so that Wireshark
// and tshark show where each frame was seen and why it was kept.
type Writer struct {
	w    *pcapgo.NgWriter
	taps map[string]int
}

// NewWriter begins a file; comment describes it. The taps become its
// interfaces in this order. tcpdump wants the same snapshot length on all.
func NewWriter(w io.Writer, comment string, taps []string) (*Writer, error) {
	if len(taps) == 0 {
		return nil, fmt.Errorf("write pcapng: a file needs at least one tap")
	}
	out := &Writer{taps: map[string]int{}}
	for _, tap := range taps {
		if _, ok := out.taps[tap]; ok {
			continue
		}
		link := pcapgo.NgInterface{Name: tap, LinkType: layers.LinkTypeEthernet, OS: "linux", SnapLength: maxFrame}
		id, err := 0, error(nil)
		if out.w == nil {
			info := pcapgo.NgSectionInfo{Application: "overlab", OS: "linux", Comment: comment}
			out.w, err = pcapgo.NewNgWriterInterface(w, link, pcapgo.NgWriterOptions{SectionInfo: info})
		} else {
			id, err = out.w.AddInterface(link)
		}
		if err != nil {
			return nil, fmt.Errorf("write pcapng interface %s: %w", tap, err)
		}
		out.taps[tap] = id
	}
	return out, nil
}

// Write adds a frame with its comments. The frame's tap must have been named
// to NewWriter.
func (w *Writer) Write(f Frame, comments ...string) error {
	id, ok := w.taps[f.Tap]
	if !ok {
		return fmt.Errorf("write pcapng: %s is no interface of the file", f.Tap)
	}
	flags := pcapgo.NgEpbFlags{Direction: pcapgo.NgEpbFlagDirectionInbound}
	if f.Direction == Out {
		flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	info := gopacket.CaptureInfo{
		Timestamp: f.Time, CaptureLength: len(f.Data), Length: max(f.Length, len(f.Data)), InterfaceIndex: id,
	}
	err := w.w.WritePacketWithOptions(info, f.Data, pcapgo.NgPacketOptions{Comments: comments, Flags: &flags})
	if err != nil {
		return fmt.Errorf("write pcapng packet: %w", err)
	}
	return nil
}

// Flush writes what is buffered.
func (w *Writer) Flush() error { return w.w.Flush() }
