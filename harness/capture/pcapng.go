package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

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

// commentUnready marks a frame whose transport checksum is not computed yet;
// pcapng has no flag for it.
const commentUnready = "the checksum is left to hardware, and not yet there"

// Write adds a frame with its comments. The frame's tap must have been named
// to NewWriter. A VLAN tag that the kernel had taken off is put back.
func (w *Writer) Write(f Frame, comments ...string) error {
	id, ok := w.taps[f.Tap]
	if !ok {
		return fmt.Errorf("write pcapng: %s is no interface of the file", f.Tap)
	}
	flags := pcapgo.NgEpbFlags{} // zero: the direction is not known
	switch f.Direction {
	case In:
		flags.Direction = pcapgo.NgEpbFlagDirectionInbound
	case Out:
		flags.Direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	if f.ChecksumNotReady {
		comments = append(slices.Clone(comments), commentUnready)
	}
	data, length := f.whole()
	info := gopacket.CaptureInfo{
		Timestamp: f.Time, CaptureLength: len(data), Length: max(length, len(data)), InterfaceIndex: id,
	}
	err := w.w.WritePacketWithOptions(info, data, pcapgo.NgPacketOptions{Comments: comments, Flags: &flags})
	if err != nil {
		return fmt.Errorf("write pcapng packet: %w", err)
	}
	return nil
}

// whole is the frame as it was on the wire, with its VLAN tag (IEEE 802.1Q).
func (f *Frame) whole() (data []byte, length int) {
	const addresses, tag = 12, 4
	if !f.Tagged || len(f.Data) < addresses {
		return f.Data, f.Length
	}
	data = append(make([]byte, 0, len(f.Data)+tag), f.Data[:addresses]...)
	data = binary.BigEndian.AppendUint16(data, etherVLAN)
	data = binary.BigEndian.AppendUint16(data, f.VLAN)
	return append(data, f.Data[addresses:]...), f.Length + tag
}

// Stats adds what was counted at a tap: what its filter let through, and what
// was dropped of that.
func (w *Writer) Stats(tap string, s Stats, began, ended time.Time) error {
	id, ok := w.taps[tap]
	if !ok {
		return fmt.Errorf("write pcapng: %s is no interface of the file", tap)
	}
	err := w.w.WriteInterfaceStats(id, pcapgo.NgInterfaceStatistics{
		LastUpdate: ended, StartTime: began, EndTime: ended,
		PacketsReceived: s.Received, PacketsDropped: s.Dropped,
	})
	if err != nil {
		return fmt.Errorf("write pcapng statistics of %s: %w", tap, err)
	}
	return nil
}

// Flush writes what is buffered.
func (w *Writer) Flush() error { return w.w.Flush() }

// ReadPcapng reads the frames of a file that a Writer wrote. Their taps are the
// file's interfaces.
func ReadPcapng(r io.Reader) ([]Frame, error) {
	in, err := pcapgo.NewNgReader(r, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		return nil, fmt.Errorf("read pcapng: %w", err)
	}
	var frames []Frame
	for {
		data, info, options, err := in.ReadPacketDataWithOptions()
		if errors.Is(err, io.EOF) {
			return frames, nil
		}
		if err != nil {
			return frames, fmt.Errorf("read pcapng packet %d: %w", len(frames)+1, err)
		}
		tap, err := in.Interface(info.InterfaceIndex)
		if err != nil {
			return frames, fmt.Errorf("read pcapng packet %d: %w", len(frames)+1, err)
		}
		f := Frame{Tap: tap.Name, Time: info.Timestamp, Data: data, Length: info.Length, Direction: Other,
			ChecksumNotReady: slices.Contains(options.Comments, commentUnready)}
		if options.Flags != nil {
			switch options.Flags.Direction {
			case pcapgo.NgEpbFlagDirectionInbound:
				f.Direction = In
			case pcapgo.NgEpbFlagDirectionOutbound:
				f.Direction = Out
			}
		}
		frames = append(frames, f)
	}
}
