// Package trace tells what the kernel drops and why, from the tracepoint
// kfree_skb: the reason (enum skb_drop_reason) and the function that gave it.
//
// It needs root of the machine itself, and a kernel that describes itself in
// BTF (CONFIG_DEBUG_INFO_BTF) and gives reasons (Linux 5.17). The program is
// put together at run time from the offsets that BTF names, so that no compiler
// is needed, neither to build nor to run.
package trace

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// ErrUnavailable says that this machine, or this user, cannot trace.
var ErrUnavailable = errors.New("the kernel's drops cannot be traced")

// A Drop is a packet that the kernel has thrown away.
type Drop struct {
	Time time.Time
	// Namespace is the inode of the network namespace, and Ifindex that of the
	// interface in it: of the one that the packet came in by, or, if it is the
	// namespace's own, was to leave by.
	Namespace uint32
	Ifindex   int
	// Reason is the kernel's, as NETFILTER_DROP.
	Reason string
	// Function is the kernel's function that dropped it.
	Function string
	// Packet is the packet, cut after 512 bytes. It begins with the
	// header that the kernel was at, or before it; its network header, where
	// the kernel knew of one, is at Network, else that is negative.
	Packet  []byte
	Network int
}

// Tracer sees drops from Open on.
type Tracer struct {
	objects []interface{ Close() error }
	reader  *ringbuf.Reader
	reasons map[uint32]string
	lost    *ebpf.Map
}

// ringSize in bytes is that of 400 drops.
const ringSize = 256 << 10

// Open begins to trace the network namespaces of these inodes. The error wraps
// ErrUnavailable and says what is missing.
func Open(namespaces []uint32) (*Tracer, error) {
	t := &Tracer{}
	if err := t.open(namespaces); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), t.Close())
	}
	return t, nil
}

func (t *Tracer) open(namespaces []uint32) error {
	// First, for it costs nothing and tells whether the rest is worth while.
	maps, err := t.maps(namespaces)
	if errors.Is(err, os.ErrPermission) {
		return errors.New("only root of the machine itself may (CAP_BPF and CAP_PERFMON)")
	}
	if err != nil {
		return err
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("read the kernel's BTF: %w", err)
	}
	if t.reasons, err = reasons(kernel); err != nil {
		return err
	}
	at, err := find(kernel)
	if err != nil {
		return err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "overlab_drops", Type: ebpf.RawTracepoint, License: "GPL", Instructions: program(at, maps),
	})
	if err != nil {
		return fmt.Errorf("load the program: %w", brief(err))
	}
	t.objects = append(t.objects, prog)
	attached, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: "kfree_skb", Program: prog})
	if err != nil {
		return fmt.Errorf("attach to kfree_skb: %w", err)
	}
	t.objects = append(t.objects, attached)
	return nil
}

// brief leaves out the verifier's log, which is for who writes programs.
func brief(err error) error {
	var v *ebpf.VerifierError
	if errors.As(err, &v) {
		return v.Cause
	}
	return err
}

// maps makes what the program and this side share.
func (t *Tracer) maps(namespaces []uint32) (*shared, error) {
	var failed error
	add := func(spec *ebpf.MapSpec) *ebpf.Map {
		if failed != nil {
			return nil
		}
		m, err := ebpf.NewMap(spec)
		if err != nil {
			failed = fmt.Errorf("make map %s: %w", spec.Name, err)
			return nil
		}
		t.objects = append(t.objects, m)
		return m
	}
	watched := &ebpf.MapSpec{Name: "namespaces", Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: uint32(max(1, len(namespaces)))}
	for _, inode := range namespaces {
		watched.Contents = append(watched.Contents, ebpf.MapKV{Key: inode, Value: uint32(1)})
	}
	s := &shared{
		namespaces: add(watched),
		drops:      add(&ebpf.MapSpec{Name: "drops", Type: ebpf.RingBuf, MaxEntries: ringSize}),
		lost:       add(&ebpf.MapSpec{Name: "lost", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}),
		format: add(&ebpf.MapSpec{
			Name: "format", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: unix.BPF_F_RDONLY_PROG,
			Contents: []ebpf.MapKV{{Key: uint32(0), Value: []byte("%ps\x00")}},
		}),
	}
	if failed != nil {
		return nil, failed
	}
	if err := s.format.Freeze(); err != nil {
		return nil, fmt.Errorf("freeze map format: %w", err)
	}
	t.lost = s.lost
	var err error
	if t.reader, err = ringbuf.NewReader(s.drops); err != nil {
		return nil, fmt.Errorf("read map drops: %w", err)
	}
	return s, nil
}

// Drops returns what has been dropped since Open or the last call, in the
// order of time. The error is of drops that did not fit the ring.
func (t *Tracer) Drops() ([]Drop, error) {
	var drops []Drop
	t.reader.SetDeadline(time.Now())
	var clock unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock); err != nil {
		return nil, fmt.Errorf("read the clock: %w", err)
	}
	booted := time.Now().Add(-time.Duration(clock.Nano()))
	for {
		record, err := t.reader.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return drops, fmt.Errorf("read drops: %w", err)
		}
		var e event
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			return drops, fmt.Errorf("read a drop of %d bytes: %w", len(record.RawSample), err)
		}
		drops = append(drops, t.drop(&e, booted))
	}
	var lost uint64
	if err := t.lost.Lookup(uint32(0), &lost); err != nil {
		return drops, fmt.Errorf("count what is lost: %w", err)
	}
	if lost > 0 {
		return drops, fmt.Errorf("the kernel dropped more than was read: %d drops are not known", lost)
	}
	return drops, nil
}

func (t *Tracer) drop(e *event, booted time.Time) Drop {
	d := Drop{
		Time: booted.Add(time.Duration(e.Time)), Namespace: e.Namespace, Ifindex: int(e.Ifindex),
		Function: string(bytes.TrimRight(e.Function[:], "\x00")),
		Packet:   e.Packet[:min(int(e.Length), len(e.Packet))], Network: int(e.Network),
	}
	var known bool
	if d.Reason, known = t.reasons[e.Reason]; !known {
		// A module's own: the upper half is its number (dropreason.h).
		d.Reason = fmt.Sprintf("reason %#x", e.Reason)
	}
	return d
}

// reasons are the kernel's own names.
func reasons(kernel *btf.Spec) (map[uint32]string, error) {
	var enum *btf.Enum
	if err := kernel.TypeByName("skb_drop_reason", &enum); err != nil {
		return nil, fmt.Errorf("the kernel gives no reasons for drops: %w", err)
	}
	names := map[uint32]string{}
	for _, v := range enum.Values {
		names[uint32(v.Value)] = strings.TrimPrefix(v.Name, "SKB_DROP_REASON_")
	}
	return names, nil
}

// Close ends the trace. It waits for the kernel to let go of the tracepoint,
// which takes some milliseconds.
func (t *Tracer) Close() error {
	var errs []error
	if t.reader != nil {
		errs = append(errs, t.reader.Close())
	}
	for i := len(t.objects) - 1; i >= 0; i-- {
		errs = append(errs, t.objects[i].Close())
	}
	return errors.Join(errs...)
}
