package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// Flow asks for a stream of numbered datagrams to another session.
type Flow struct {
	// To is an address of the other session's namespace.
	To netip.Addr `json:"to"`
	// Rate is how many datagrams leave in a second, 100 if zero.
	Rate int `json:"rate,omitempty"`
	// Size is the length of each payload in bytes, 64 if zero, at least 24.
	Size int `json:"size,omitempty"`
	// ID marks every datagram; a fresh one if unset.
	ID uuid.UUID `json:"id,omitzero"`
	// Wait is how long the last datagrams may take to arrive, 400 ms if zero.
	Wait time.Duration `json:"wait,omitempty"`
}

const (
	defaultRate = 100
	defaultLoad = 64
	// flowHeader is an identifier and a number of 8 bytes, big endian.
	flowHeader = len(uuid.UUID{}) + 8
)

func (f *Flow) defaults() error {
	if f.Rate == 0 {
		f.Rate = defaultRate
	}
	if f.Size == 0 {
		f.Size = defaultLoad
	}
	if f.Wait == 0 {
		f.Wait = defaultWait
	}
	if f.ID == (uuid.UUID{}) {
		f.ID = uuid.New()
	}
	switch {
	case !f.To.IsValid() || f.To.IsMulticast() || f.To.Zone() != "":
		return fmt.Errorf("to %s: not the address of one machine", f.To)
	case f.Rate < 1 || f.Rate > 10000:
		return fmt.Errorf("%d datagrams a second: it must be 1 to 10000", f.Rate)
	case f.Size < flowHeader || f.Size > 65507:
		return fmt.Errorf("payloads of %d bytes: they must have %d to 65507", f.Size, flowHeader)
	}
	return nil
}

// FlowReport is what became of a Flow.
type FlowReport struct {
	ID uuid.UUID `json:"id"`
	// Sent and Received count datagrams; one that came twice is received once.
	Sent     int `json:"sent"`
	Received int `json:"received"`
	// Lost are those that never came, in the order of their numbers.
	Lost []LostDatagram `json:"lost,omitempty"`
	// Duplicated counts those that came again, Reordered those that came after
	// one of a higher number.
	Duplicated int `json:"duplicated,omitempty"`
	Reordered  int `json:"reordered,omitempty"`
	// Overflowed counts what the receiving socket had no room for: those came,
	// and are among the lost all the same.
	Overflowed int       `json:"overflowed,omitempty"`
	Began      time.Time `json:"began"`
	Ended      time.Time `json:"ended"`
	// LongestPause is that between two sendings: on a busy machine a timer is
	// late, and what was not sent cannot tell of the path.
	LongestPause time.Duration `json:"longestPause"`
}

// LostDatagram is one that was sent and never came.
type LostDatagram struct {
	// Number counts from 0.
	Number int `json:"number"`
	// From and Until are when the sending began, and when the kernel was done
	// with it: on one machine a datagram goes its way in between, or nearly.
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	// Failure says why the sender's own kernel refused it, if it did.
	Failure string `json:"failure,omitempty"`
}

func (r *FlowReport) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d sent, %d received", r.Sent, r.Received)
	if len(r.Lost) > 0 {
		fmt.Fprintf(&b, ", %d lost (number %d", len(r.Lost), r.Lost[0].Number)
		if last := r.Lost[len(r.Lost)-1]; len(r.Lost) > 1 {
			fmt.Fprintf(&b, " to %d, over %v", last.Number, last.Until.Sub(r.Lost[0].From).Round(time.Millisecond))
		}
		b.WriteByte(')')
	}
	for _, n := range []struct {
		count int
		what  string
	}{{r.Duplicated, "duplicated"}, {r.Reordered, "reordered"}, {r.Overflowed, "more than the socket could hold"}} {
		if n.count > 0 {
			fmt.Fprintf(&b, ", %d %s", n.count, n.what)
		}
	}
	return b.String()
}

// A Stream is a Flow that runs.
type Stream struct {
	flow Flow
	from string
	out  source
	in   sink
}

// source sends a flow, and sink receives it: in this process, or where the
// session is served.
type (
	source interface {
		// reach returns how many datagrams have been sent, once they are so many.
		reach(ctx context.Context, total int) (int, error)
		// stop ends the sending.
		stop(ctx context.Context) ([]sending, error)
	}
	sink interface {
		// expect begins to count, and returns the port to send to.
		expect(ctx context.Context, id uuid.UUID) (port uint16, err error)
		// collect ends a flow when so many different datagrams have come, or after
		// the time.
		collect(ctx context.Context, id uuid.UUID, wanted int, wait time.Duration) (arrivals, error)
	}
)

// sending is one datagram that was handed to the kernel.
type sending struct {
	From    time.Time `json:"from"`
	Until   time.Time `json:"until"`
	Failure string    `json:"failure,omitempty"`
}

// StartFlow begins to send datagrams to another session, and goes on until
// the stream is stopped or ctx ends.
func (s *Session) StartFlow(ctx context.Context, to *Session, f Flow) (*Stream, error) {
	if err := f.defaults(); err != nil {
		return nil, fmt.Errorf("flow from %s: %w", s.name, err)
	}
	st := &Stream{flow: f, from: s.name, in: to.flows}
	if to.peer != nil {
		st.in = farSink{to.peer}
	}
	port, err := st.in.expect(ctx, f.ID)
	if err == nil {
		at := netip.AddrPortFrom(f.To, port)
		if s.peer != nil {
			st.out, err = s.farSource(ctx, f, at)
		} else {
			st.out = s.flows.begin(ctx, f, at)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("flow from %s to %s: %w", s.name, to.name, err)
	}
	return st, nil
}

// Sent returns how many datagrams have been sent so far; 0 if that cannot be
// asked any more.
func (st *Stream) Sent() int {
	n, _ := st.out.reach(context.Background(), 0) // Reach and Stop tell of it
	return n
}

// Reach returns when that many datagrams have been sent since the beginning.
func (st *Stream) Reach(ctx context.Context, total int) error {
	if _, err := st.out.reach(ctx, total); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("flow from %s: %w", st.from, err)
	}
	return nil
}

// Stop ends the sending, waits for what is still on its way, and tells what
// became of each datagram. A second Stop is an error.
func (st *Stream) Stop(ctx context.Context) (*FlowLog, error) {
	sent, err := st.out.stop(ctx)
	var got arrivals
	if err == nil {
		got, err = st.in.collect(ctx, st.flow.ID, len(sent), st.flow.Wait)
	}
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("flow from %s: %w", st.from, err)
	}
	return log(st.flow.ID, sent, got), nil
}

// sender sends one flow.
type sender struct {
	flow   Flow
	to     netip.AddrPort
	conn   *net.UDPConn
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing is sent any more

	mu   sync.Mutex
	sent []sending
	grew chan struct{} // closed and replaced with each sending
}

// A FlowLog is a Flow datagram by datagram, from which its report is derived.
type FlowLog struct {
	ID    uuid.UUID `json:"id"`
	Began time.Time `json:"began"`
	// Sent are the datagrams in the order of their numbers, Arrived the numbers
	// of those that came, in the order in which they did.
	Sent    []SentDatagram `json:"sent"`
	Arrived []uint64       `json:"arrived"`
	// Overflowed counts what the receiving socket had no room for.
	Overflowed int `json:"overflowed,omitempty"`
}

// SentDatagram is one that was handed to the kernel, in nanoseconds since the
// flow began: from when, until when, and what the kernel said if it refused it.
type SentDatagram struct {
	From    time.Duration `json:"f"`
	Until   time.Duration `json:"u"`
	Failure string        `json:"e,omitempty"`
}

// begin begins to send.
func (f *flows) begin(ctx context.Context, flow Flow, to netip.AddrPort) *sender {
	s := &sender{flow: flow, to: to, conn: f.client, done: make(chan struct{}), grew: make(chan struct{})}
	ctx, s.cancel = context.WithCancel(ctx)
	go s.send(ctx)
	return s
}

// send sends each datagram when it is due. One that is late is sent at once,
// so that the rate holds on the average and no number is left out.
func (s *sender) send(ctx context.Context) {
	defer close(s.done)
	payload := make([]byte, s.flow.Size)
	copy(payload, s.flow.ID[:])
	interval := time.Second / time.Duration(s.flow.Rate)
	due := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := uint64(0); ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		binary.BigEndian.PutUint64(payload[len(uuid.UUID{}):], n)
		x := sending{From: time.Now()}
		if _, err := s.conn.WriteToUDPAddrPort(payload, s.to); err != nil {
			x.Failure = bare(err)
		}
		x.Until = time.Now()
		s.mu.Lock()
		s.sent = append(s.sent, x)
		close(s.grew)
		s.grew = make(chan struct{})
		s.mu.Unlock()
		due = due.Add(interval)
		timer.Reset(time.Until(due))
	}
}

func (s *sender) reach(ctx context.Context, total int) (int, error) {
	for {
		s.mu.Lock()
		sent, grew := len(s.sent), s.grew
		s.mu.Unlock()
		if sent >= total {
			return sent, nil
		}
		select {
		case <-grew:
		case <-s.done:
			return sent, errors.New("it has ended")
		case <-ctx.Done():
			return sent, context.Cause(ctx)
		}
	}
}

func (s *sender) stop(context.Context) ([]sending, error) {
	s.cancel()
	<-s.done
	return s.sent, nil
}

// Close implements io.Closer.
func (s *sender) Close() error {
	_, err := s.stop(context.Background())
	return err
}

// log is what was sent, and what came.
func log(id uuid.UUID, sent []sending, got arrivals) *FlowLog {
	l := &FlowLog{ID: id, Arrived: got.Numbers, Overflowed: got.Overflowed}
	for i, x := range sent {
		if i == 0 {
			l.Began = x.From.Round(0) // of the wall clock alone, as it is read back
		}
		l.Sent = append(l.Sent, SentDatagram{From: x.From.Sub(sent[0].From), Until: x.Until.Sub(sent[0].From), Failure: x.Failure})
	}
	return l
}

// Report compares what was sent with what came.
func (l *FlowLog) Report() *FlowReport {
	r := &FlowReport{ID: l.ID, Sent: len(l.Sent), Overflowed: l.Overflowed}
	seen := make([]bool, len(l.Sent))
	highest := -1
	for _, n := range l.Arrived {
		switch {
		case n >= uint64(len(l.Sent)): // none of ours
		case seen[n]:
			r.Duplicated++
		default:
			seen[n] = true
			r.Received++
			if int(n) < highest {
				r.Reordered++
			}
			highest = max(highest, int(n))
		}
	}
	for n, x := range l.Sent {
		if n > 0 {
			r.LongestPause = max(r.LongestPause, x.From-l.Sent[n-1].From)
		}
		if !seen[n] {
			r.Lost = append(r.Lost, LostDatagram{Number: n, From: l.Began.Add(x.From), Until: l.Began.Add(x.Until), Failure: x.Failure})
		}
	}
	if len(l.Sent) > 0 {
		r.Began, r.Ended = l.Began, l.Began.Add(l.Sent[len(l.Sent)-1].Until)
	}
	return r
}

// arrivals are the numbers that came of one flow, in their order.
type arrivals struct {
	Numbers    []uint64 `json:"numbers"`
	Overflowed int      `json:"overflowed"`
}

// flows are a session's socket for flows that it receives, and the one for
// those that it sends.
type flows struct {
	server, client *net.UDPConn

	mu sync.Mutex
	// dropped is what the server's socket had no room for since it is open.
	dropped  uint32
	expected map[uuid.UUID]*expectation
}

type expectation struct {
	arrivals
	distinct map[uint64]bool
	dropped  uint32 // the socket's count when the flow began
	grew     chan struct{}
}

// newFlows opens the sockets in the calling thread's namespace.
func newFlows() (*flows, error) {
	f := &flows{expected: map[uuid.UUID]*expectation{}}
	var err error
	if f.server, err = net.ListenUDP("udp", nil); err != nil {
		return nil, fmt.Errorf("open UDP socket for flows: %w", err)
	}
	if f.client, err = net.ListenUDP("udp", nil); err != nil {
		return nil, errors.Join(fmt.Errorf("open UDP socket for flows: %w", err), f.server.Close())
	}
	if err := f.countOverflow(); err != nil {
		return nil, errors.Join(err, f.close())
	}
	return f, nil
}

// countOverflow asks the kernel to tell what the receiving socket dropped, and
// for room enough that it need not where the caller may have it.
func (f *flows) countOverflow() error {
	raw, err := f.server.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
		option = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	})
	if err := errors.Join(err, option); err != nil {
		return fmt.Errorf("set up UDP socket for flows: %w", err)
	}
	return nil
}

func (f *flows) start() { go f.receive() }

func (f *flows) close() error { return errors.Join(f.server.Close(), f.client.Close()) }

func (f *flows) port() uint16 { return f.server.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// expect implements sink.
func (f *flows) expect(_ context.Context, id uuid.UUID) (uint16, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expected[id] != nil {
		return 0, fmt.Errorf("a flow of the identifier %s runs already", id)
	}
	f.expected[id] = &expectation{distinct: map[uint64]bool{}, dropped: f.dropped, grew: make(chan struct{}, 1)}
	return f.port(), nil
}

// collect implements sink.
func (f *flows) collect(ctx context.Context, id uuid.UUID, wanted int, wait time.Duration) (arrivals, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	f.mu.Lock()
	x := f.expected[id]
	f.mu.Unlock()
	if x == nil {
		return arrivals{}, errors.New("it was stopped before")
	}
	for {
		f.mu.Lock()
		if len(x.distinct) >= wanted || ctx.Err() != nil {
			delete(f.expected, id)
			x.Overflowed = int(f.dropped - x.dropped)
			f.mu.Unlock()
			return x.arrivals, nil
		}
		f.mu.Unlock()
		select {
		case <-x.grew:
		case <-ctx.Done():
		}
	}
}

func (f *flows) receive() {
	buf, oob := make([]byte, 65536), make([]byte, 128)
	for {
		n, m, _, _, err := f.server.ReadMsgUDPAddrPort(buf, oob)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < flowHeader {
			continue
		}
		f.note(uuid.UUID(buf[:16]), binary.BigEndian.Uint64(buf[16:]), oob[:m])
	}
}

func (f *flows) note(id uuid.UUID, number uint64, oob []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	msgs, _ := unix.ParseSocketControlMessage(oob)
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_RXQ_OVFL && len(m.Data) >= 4 {
			f.dropped = binary.NativeEndian.Uint32(m.Data)
		}
	}
	x := f.expected[id]
	if x == nil {
		return
	}
	x.Numbers = append(x.Numbers, number)
	x.distinct[number] = true
	select {
	case x.grew <- struct{}{}:
	default:
	}
}
