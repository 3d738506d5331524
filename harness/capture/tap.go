// Package capture sees frames where they pass: a memory-mapped ring of the
// kernel (TPACKET_V3, packet_mmap in the kernel's documentation) on one
// interface of one namespace, a BPF filter in front of it, and a decoder that
// shows the outer and the inner headers of an overlay's packets.
//
// A tap that Open has returned is bound: no frame from then on is missed but
// those that Stats counts as dropped.
package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/topology"
)

// Options say what a tap sees and how much memory it takes.
type Options struct {
	// Interface is the name of the link inside the namespace.
	Interface string
	// Filter chooses the frames; the zero Filter is all of them.
	Filter filter.Filter
	// SnapLen is how many bytes of a frame are kept, 262144 if zero.
	SnapLen int
	// Ring is the size of the kernel's buffer.
	Ring Ring
	// Handle, when set, is called for each frame as it comes, on the tap's
	// own goroutine, and Stop returns no frames. The frame is the callee's.
	Handle func(Frame)
	// MaxBytes bounds what the tap collects when Handle is nil; what exceeds
	// it counts as dropped. 64 MiB if zero.
	MaxBytes int

	// program, where set, is the assembled filter of who has a tap opened here
	// from elsewhere.
	program []bpf.RawInstruction
}

// Ring is the size of the kernel's buffer. A frame must fit into one block,
// or it is cut; with segmentation offload, frames of 64 KB are usual.
//
// A block that holds a single frame is handed over when its time has come,
// and holds no other until it was read. So the reader may be late by Blocks
// times Retire before the first frame is dropped, however few there are.
type Ring struct {
	// BlockSize in bytes is a power of two and a multiple of the page size,
	// 128 KiB if zero.
	BlockSize int
	// Blocks is their number, 32 if zero.
	Blocks int
	// Retire is after how long a block that is not full is handed over, in
	// whole milliseconds; 8 ms if zero. A sentinel takes as long.
	Retire time.Duration
}

func (o *Options) defaults() {
	if o.SnapLen == 0 {
		o.SnapLen = maxFrame
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 20
	}
}

func (r *Ring) defaults() error {
	if r.BlockSize == 0 {
		r.BlockSize = 128 << 10
	}
	if r.Blocks == 0 {
		r.Blocks = 32
	}
	if r.Retire == 0 {
		r.Retire = 8 * time.Millisecond
	}
	if page := os.Getpagesize(); r.BlockSize < page || bits.OnesCount(uint(r.BlockSize)) != 1 {
		return fmt.Errorf("ring block of %d bytes: it must be a power of two and at least a page of %d", r.BlockSize, page)
	}
	if r.Blocks < 1 || r.Retire < time.Millisecond {
		return fmt.Errorf("ring of %d blocks retired after %v: it takes at least one block and one millisecond", r.Blocks, r.Retire)
	}
	return nil
}

// Direction says where a frame was going.
type Direction uint8

// The directions, seen from the tapped interface's namespace.
const (
	// In is a frame for this host, or broadcast or multicast.
	In Direction = iota
	// Out is a frame that this host sends.
	Out
	// Other is a frame for another host, seen because of a bridge or
	// promiscuous mode.
	Other
)

func (d Direction) String() string { return [...]string{"in", "out", "other"}[d] }

// MarshalText implements encoding.TextMarshaler.
func (d Direction) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Direction) UnmarshalText(text []byte) error {
	for _, known := range []Direction{In, Out, Other} {
		if string(text) == known.String() {
			*d = known
			return nil
		}
	}
	return fmt.Errorf("direction %q is none of in, out, other", text)
}

// A Frame is one captured frame.
type Frame struct {
	// Tap is the name of the tap, as "node-1:ens3".
	Tap  string
	Time time.Time
	// Data is what was kept of the frame, from its Ethernet header on.
	Data []byte
	// Length in bytes of the whole frame.
	Length    int
	Direction Direction
	// ChecksumNotReady says that the transport checksum was left to hardware
	// that is not there: it is not wrong, it is not computed yet.
	ChecksumNotReady bool
	// VLAN is the tag that the kernel had taken off the frame, where Tagged.
	VLAN   uint16
	Tagged bool
}

// Contains reports whether the frame carries the identifier of a probe.
func (f *Frame) Contains(id uuid.UUID) bool { return bytes.Contains(f.Data, id[:]) }

// Decode reads the frame's headers; see the function Decode.
func (f *Frame) Decode(vxlanPort uint16) Packet { return Decode(f.Data, vxlanPort) }

// Stats counts what happened to the frames that passed the filter.
type Stats struct {
	// Received frames reached the ring or were dropped before it.
	Received uint64
	// Dropped frames found no place: evidence is missing.
	Dropped uint64
	// Freezes counts the times that the ring was full.
	Freezes uint64
}

// A Tap is a capture that runs.
type Tap struct {
	name  string
	o     Options
	file  *os.File // the ring's socket
	raw   syscall.RawConn
	ring  []byte
	block int
	mac   net.HardwareAddr
	send  int // a socket of its own: a packet socket does not see what it sends

	mu        sync.Mutex
	frames    []Frame
	size      int
	overflow  uint64
	sentinels map[uuid.UUID]chan struct{}
	// signals counts the sentinels that were seen, of any tap.
	signals uint64
	stats   Stats
	err     error

	done    chan struct{}
	stopped bool

	// far, where set, is the tap itself: this one stands for it.
	far *farTap
}

// etherSentinel is the EtherType of the sentinel's frame: IEEE 802 local
// experimental 1, which nothing forwards by meaning.
const etherSentinel = 0x88b5

// maxFrame is the longest frame that Linux hands to a packet socket, and the
// default for SnapLen.
const maxFrame = 256 << 10

// Open starts a capture inside a namespace of this machine; OpenIn starts one
// wherever a probe session is.
func Open(ns topology.Namespace, o Options) (*Tap, error) {
	local, ok := ns.(topology.Local)
	if !ok {
		return nil, fmt.Errorf("capture on %s:%s: the namespace is not on this machine", ns.Name(), o.Interface)
	}
	o.defaults()
	t := &Tap{
		name:      ns.Name() + ":" + o.Interface,
		send:      -1,
		sentinels: map[uuid.UUID]chan struct{}{},
		done:      make(chan struct{}),
	}
	err := o.Ring.defaults()
	if err == nil {
		t.o = o
		err = local.Do(t.open)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture on %s: %w", t.name, err), t.release())
	}
	go t.read()
	return t, nil
}

// Name returns the tap's name, as "node-1:ens3".
func (t *Tap) Name() string { return t.name }

// open runs inside the namespace. The order matters: until it is bound, a
// socket with protocol 0 receives nothing, so nothing unfiltered slips in.
func (t *Tap) open() error {
	link, err := net.InterfaceByName(t.o.Interface)
	if err != nil {
		return err
	}
	t.mac = link.HardwareAddr
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	t.file = os.NewFile(uintptr(fd), t.name)
	if t.raw, err = t.file.SyscallConn(); err != nil {
		return err
	}
	if t.send, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open packet socket: %w", err)
	}
	if err := unix.Bind(t.send, &unix.SockaddrLinklayer{Ifindex: link.Index}); err != nil {
		return fmt.Errorf("bind sentinel socket: %w", err)
	}
	if err := t.attach(fd); err != nil {
		return err
	}
	if err := t.mapRing(fd); err != nil {
		return err
	}
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(unix.ETH_P_ALL), Ifindex: link.Index})
	if err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func (t *Tap) attach(fd int) error {
	code, err := t.o.assemble()
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(code)), Filter: (*unix.SockFilter)(unsafe.Pointer(&code[0]))}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &prog); err != nil {
		return fmt.Errorf("attach filter %s: %w", t.o.Filter, err)
	}
	return nil
}

// assemble makes the kernel's program of the filter, which lets sentinels pass.
func (o *Options) assemble() ([]bpf.RawInstruction, error) {
	if len(o.program) > 0 {
		return o.program, nil
	}
	code, err := o.Filter.Or(filter.EtherType(etherSentinel)).Assemble(uint32(o.SnapLen))
	if err != nil {
		return nil, fmt.Errorf("assemble filter %s: %w", o.Filter, err)
	}
	return code, nil
}

func (t *Tap) mapRing(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VERSION, unix.TPACKET_V3); err != nil {
		return fmt.Errorf("ask for TPACKET_V3: %w", err)
	}
	const frameSize = 2048 // of no consequence in version 3, but checked
	r := t.o.Ring
	req := unix.TpacketReq3{
		Block_size: uint32(r.BlockSize), Block_nr: uint32(r.Blocks),
		Frame_size: frameSize, Frame_nr: uint32(r.BlockSize / frameSize * r.Blocks),
		Retire_blk_tov: uint32(r.Retire.Milliseconds()),
	}
	if err := unix.SetsockoptTpacketReq3(fd, unix.SOL_PACKET, unix.PACKET_RX_RING, &req); err != nil {
		return fmt.Errorf("make a ring of %d blocks of %d bytes: %w", r.Blocks, r.BlockSize, err)
	}
	ring, err := unix.Mmap(fd, 0, r.BlockSize*r.Blocks, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the ring: %w", err)
	}
	t.ring = ring
	return nil
}

// read hands blocks on until the socket's deadline is set to the past.
func (t *Tap) read() {
	defer close(t.done)
	for {
		var status *uint32
		err := t.raw.Read(func(uintptr) bool {
			status = t.blockStatus()
			return atomic.LoadUint32(status)&unix.TP_STATUS_USER != 0
		})
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.mu.Lock()
				t.err = err
				t.mu.Unlock()
			}
			return
		}
		t.drain()
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		t.block = (t.block + 1) % t.o.Ring.Blocks
	}
}

// Offsets into struct tpacket_block_desc and struct tpacket3_hdr of
// linux/if_packet.h; the address (struct sockaddr_ll) follows the header.
const (
	blockStatus, blockPackets, blockFirst = 8, 12, 16

	hdrNext, hdrSec, hdrNsec, hdrSnap, hdrLen, hdrStatus, hdrMAC = 0, 4, 8, 12, 16, 20, 24
	hdrVLAN                                                      = 32
	hdrAddr                                                      = 48
	addrType                                                     = hdrAddr + 10
)

func (t *Tap) blockStatus() *uint32 {
	return (*uint32)(unsafe.Pointer(&t.ring[t.block*t.o.Ring.BlockSize+blockStatus]))
}

// drain copies the frames out of the current block.
func (t *Tap) drain() {
	order := binary.NativeEndian
	b := t.ring[t.block*t.o.Ring.BlockSize:][:t.o.Ring.BlockSize]
	at := order.Uint32(b[blockFirst:])
	for range order.Uint32(b[blockPackets:]) {
		h := b[at:]
		mac, snap := order.Uint16(h[hdrMAC:]), order.Uint32(h[hdrSnap:])
		data := h[mac:][:snap]
		if !t.sentinel(data) {
			status := order.Uint32(h[hdrStatus:])
			t.keep(Frame{
				Tap:              t.name,
				Time:             time.Unix(int64(order.Uint32(h[hdrSec:])), int64(order.Uint32(h[hdrNsec:]))),
				Data:             data,
				Length:           int(order.Uint32(h[hdrLen:])),
				Direction:        direction(h[addrType]),
				ChecksumNotReady: status&unix.TP_STATUS_CSUMNOTREADY != 0,
				VLAN:             uint16(order.Uint32(h[hdrVLAN:])),
				Tagged:           status&unix.TP_STATUS_VLAN_VALID != 0,
			})
		}
		at += order.Uint32(h[hdrNext:])
	}
}

func direction(pkttype uint8) Direction {
	switch pkttype {
	case unix.PACKET_OUTGOING:
		return Out
	case unix.PACKET_OTHERHOST:
		return Other
	}
	return In
}

func (t *Tap) keep(f Frame) {
	if t.o.Handle != nil {
		f.Data = bytes.Clone(f.Data)
		t.o.Handle(f)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.size += len(f.Data); t.size > t.o.MaxBytes {
		t.overflow++
		return
	}
	f.Data = bytes.Clone(f.Data)
	t.frames = append(t.frames, f)
}

// sentinel reports whether the frame is a sentinel, of any tap.
func (t *Tap) sentinel(frame []byte) bool {
	if len(frame) < 30 || binary.BigEndian.Uint16(frame[12:]) != etherSentinel {
		return false
	}
	id := uuid.UUID(frame[14:30])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.signals++
	if seen, ok := t.sentinels[id]; ok {
		close(seen)
		delete(t.sentinels, id)
	}
	return true
}

// resend is how long a sentinel may take before another is sent: a full ring
// drops sentinels too.
const resend = 20 * time.Millisecond

// Flush sends a sentinel through the interface and waits until the tap has
// seen it: every frame that passed before has then been handed on. That it
// comes also proves that the tap sees what passes.
func (t *Tap) Flush(ctx context.Context) error {
	if t.far != nil {
		return t.fetch(ctx, true)
	}
	id, seen := uuid.New(), make(chan struct{})
	t.mu.Lock()
	t.sentinels[id] = seen
	t.mu.Unlock()
	frame := make([]byte, 60)
	// To itself: a switch does not send a frame back to the port it came from.
	copy(frame, t.mac)
	copy(frame[6:], t.mac)
	binary.BigEndian.PutUint16(frame[12:], etherSentinel)
	copy(frame[14:], id[:])
	again := time.NewTicker(resend)
	defer again.Stop()
	for {
		if _, err := unix.Write(t.send, frame); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("capture on %s: send sentinel: %w", t.name, err)
		}
		select {
		case <-seen:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("capture on %s: the sentinel was not seen: %w", t.name, context.Cause(ctx))
		case <-t.done:
			return fmt.Errorf("capture on %s: the tap has stopped", t.name)
		case <-again.C:
		}
	}
}

// Collect sends a sentinel, waits for it and returns what was seen up to it;
// the capture goes on. An error says that the frames may not be all that
// passed; they are returned even so.
func (t *Tap) Collect(ctx context.Context) ([]Frame, Stats, error) {
	err := t.Flush(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count()
	return slices.Clone(t.frames), t.stats, errors.Join(err, t.err)
}

// Stop is Collect and Close. Closing takes the kernel some 20 ms (it waits
// until no processor can still be using the ring); who is in a hurry calls
// Collect, and Close aside.
func (t *Tap) Stop(ctx context.Context) ([]Frame, Stats, error) {
	frames, stats, err := t.Collect(ctx)
	return frames, stats, errors.Join(err, t.Close())
}

// Stats returns the counts up to now.
func (t *Tap) Stats() Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count()
	return t.stats
}

// count adds the kernel's counters, which it clears as they are read.
func (t *Tap) count() {
	if t.stopped || t.far != nil {
		return
	}
	_ = t.raw.Control(func(fd uintptr) {
		s, err := unix.GetsockoptTpacketStatsV3(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err != nil {
			return
		}
		t.stats.Received += uint64(s.Packets)
		t.stats.Dropped += uint64(s.Drops)
		t.stats.Freezes += uint64(s.Freeze_q_cnt)
	})
	t.stats.Dropped += t.overflow
	t.overflow = 0
}

// Close ends the capture at once. It is safe to call again.
func (t *Tap) Close() error {
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return nil
	}
	t.count()
	t.stopped = true
	t.mu.Unlock()
	if t.far != nil {
		return t.far.close()
	}
	if err := t.file.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("capture on %s: stop: %w", t.name, err)
	}
	<-t.done
	return t.release()
}

func (t *Tap) release() error {
	// Each socket's closing waits for the kernel, so they wait together.
	sent := make(chan error, 1)
	go func() {
		if t.send < 0 {
			sent <- nil
			return
		}
		sent <- unix.Close(t.send)
	}()
	var errs []error
	if t.ring != nil {
		errs = append(errs, unix.Munmap(t.ring))
	}
	if t.file != nil {
		errs = append(errs, t.file.Close())
	}
	return errors.Join(append(errs, <-sent)...)
}

func networkOrder(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
