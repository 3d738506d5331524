package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// pinger sends echo requests and hands the answers to those who wait.
//
// It has two raw sockets. One receives every answer and error of the
// namespace and sends what may be fragmented. The other only sends with DF:
// that is an option of the socket, and so is the error queue from which the
// MTU is read when the kernel refuses.
type pinger struct {
	*icmp
	plain, df *rawSocket
	id        uint16

	mu      sync.Mutex
	seq     uint16
	waiting map[uuid.UUID]*waiter
	bySeq   map[uint16]uuid.UUID

	inboxes sync.Pool
	sendDF  sync.Mutex // the error queue is read by who caused the error
	done    chan struct{}
}

// waiter is one ping's inbox.
type waiter struct {
	dst     netip.Addr
	answers chan answer
}

type answer struct {
	reply Reply
	err   *ICMPError
	at    time.Time
	seq   uint16
}

// newPinger opens the sockets in the calling thread's namespace.
func newPinger(f *icmp) (*pinger, error) {
	p := &pinger{
		icmp:    f,
		id:      uint16(time.Now().UnixNano()),
		waiting: map[uuid.UUID]*waiter{},
		bySeq:   map[uint16]uuid.UUID{},
		done:    make(chan struct{}),
		inboxes: sync.Pool{New: newInbox},
	}
	var err error
	if p.plain, err = openRaw(f); err != nil {
		return nil, err
	}
	if p.df, err = openRaw(f); err != nil {
		return nil, errors.Join(err, p.plain.file.Close())
	}
	if err := errors.Join(f.setUp(p.plain, false), f.setUp(p.df, true)); err != nil {
		return nil, errors.Join(err, p.plain.file.Close(), p.df.file.Close())
	}
	// More room where the caller is allowed to take it; the window of a
	// batch fits the default.
	_ = p.plain.option(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	return p, nil
}

func (p *pinger) start() { go p.receive() }

func (p *pinger) close() error { return errors.Join(p.plain.file.Close(), p.df.file.Close()) }

func (p *pinger) ping(ctx context.Context, r Ping) (Pong, error) {
	w := &waiter{dst: r.Dst, answers: make(chan answer, r.Count*r.Tries)}
	if err := p.register(r.ID, w); err != nil {
		return Pong{}, err
	}
	var seqs []uint16
	defer func() { p.forget(r.ID, seqs) }()
	pong := Pong{ID: r.ID}
	timer := time.NewTimer(r.Wait)
	defer timer.Stop()
	for range r.Count {
		answered := false
		began := time.Now()
		sent := map[uint16]time.Time{}
		for try := 0; try < r.Tries && !answered; try++ {
			seq := p.nextSeq(r.ID)
			seqs = append(seqs, seq)
			sent[seq] = time.Now()
			if err := p.send(r, seq); err != nil {
				var refused *refusedError
				if errors.As(err, &refused) {
					pong.Refused = &refused.Refusal
					return pong, nil
				}
				return pong, err
			}
			pong.Sent++
			p.poll()
			timer.Reset(r.Wait)
			for waiting := true; waiting; {
				select {
				case a := <-w.answers:
					if at, ours := sent[a.seq]; ours {
						answered, waiting = true, false
						pong.take(a, at)
					}
				case <-timer.C:
					waiting = false
				case <-ctx.Done():
					return pong, context.Cause(ctx)
				case <-p.done:
					return pong, errors.New("the session has ended")
				}
			}
		}
		if !answered {
			pong.Waited += time.Since(began)
		}
		if pong.Error != nil {
			return pong, nil
		}
	}
	return pong, nil
}

func (p *Pong) take(a answer, sent time.Time) {
	if a.err != nil {
		p.Error = a.err
		return
	}
	a.reply.RTT = a.at.Sub(sent)
	p.Replies = append(p.Replies, a.reply)
}

func (p *pinger) register(id uuid.UUID, w *waiter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[id] != nil {
		return fmt.Errorf("ping %s: it is under way already", id)
	}
	p.waiting[id] = w
	return nil
}

func (p *pinger) forget(id uuid.UUID, seqs []uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id)
	for _, s := range seqs {
		if p.bySeq[s] == id {
			delete(p.bySeq, s)
		}
	}
}

func (p *pinger) nextSeq(id uuid.UUID) uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq++
	p.bySeq[p.seq] = id
	return p.seq
}

// refusedError is the kernel's refusal to send.
type refusedError struct{ Refusal }

func (e *refusedError) Error() string { return e.String() }

func (p *pinger) send(r Ping, seq uint16) error {
	msg := make([]byte, r.Size-p.header)
	msg[0] = p.request
	binary.BigEndian.PutUint16(msg[4:], p.id)
	binary.BigEndian.PutUint16(msg[6:], seq)
	copy(msg[icmpHeader:], r.ID[:])
	for i := icmpHeader + len(r.ID); i < len(msg); i++ {
		msg[i] = byte(i)
	}
	if p.icmp == icmp4 { // the kernel fills in ICMPv6's, which covers addresses
		binary.BigEndian.PutUint16(msg[2:], checksum(msg))
	}
	oob, dst := p.control(r), p.address(r.Dst)
	if !r.DF {
		if err := p.plain.send(msg, oob, dst); err != nil {
			return refusal(err, 0)
		}
		return nil
	}
	p.sendDF.Lock()
	defer p.sendDF.Unlock()
	// An ICMP error for an earlier request makes the next send fail in its
	// place: an error counts only if the kernel queued it for this one.
	var err error
	for range 8 {
		p.df.drain(p.icmp)
		if err = p.df.send(msg, oob, dst); err == nil {
			return nil
		}
		if mtu, local := p.df.drain(p.icmp); local {
			return refusal(err, mtu)
		}
	}
	return refusal(err, 0)
}

func refusal(err error, mtu int) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return &refusedError{Refusal{Errno: unix.ErrnoName(errno), MTU: mtu}}
	}
	return err
}

// control builds the ancillary data that sets TTL and source of one packet.
func (f *icmp) control(r Ping) []byte {
	var oob []byte
	if r.TTL != 0 {
		oob = append(oob, cmsg(f.level, f.sendTTL, binary.NativeEndian.AppendUint32(nil, uint32(r.TTL)))...)
	}
	if r.Src.IsValid() {
		info := make([]byte, f.infoSize)
		copy(info[f.packetInfoAt:], r.Src.AsSlice())
		oob = append(oob, cmsg(f.level, f.packetInfo, info)...)
	}
	return oob
}

func cmsg(level, typ int, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

// receive reads the namespace's ICMP until the socket is closed.
func (p *pinger) receive() {
	defer close(p.done)
	in := newInbox().(*inbox)
	for {
		n, extra, from, err := p.plain.recv(in.buf, in.oob)
		if err != nil {
			return
		}
		p.take(in.buf[:n], in.oob[:extra], from)
	}
}

// inbox is where one who reads puts what comes.
type inbox struct{ buf, oob []byte }

func newInbox() any { return &inbox{make([]byte, 64<<10), make([]byte, 128)} }

// poll takes what has come already: on one machine an answer is there when the
// request has been sent, and who has sent it need not wait for another thread
// to be woken.
func (p *pinger) poll() {
	in := p.inboxes.Get().(*inbox)
	defer p.inboxes.Put(in)
	_ = p.plain.conn.Control(func(fd uintptr) {
		for {
			n, extra, _, from, err := unix.Recvmsg(int(fd), in.buf, in.oob, unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			p.take(in.buf[:n], in.oob[:extra], from)
		}
	})
}

// take reads one message of the socket.
func (p *pinger) take(msg, oob []byte, from unix.Sockaddr) {
	if r, ok := p.parse(msg, oob, from); ok && len(r.icmp) >= icmpHeader {
		p.dispatch(r, time.Now())
	}
}

func (p *pinger) dispatch(r received, at time.Time) {
	msg := r.icmp
	if msg[0] == p.reply {
		if p.idOf(msg) {
			p.deliver(msg, r.from, answer{at: at, reply: Reply{From: r.from, TTL: r.ttl, Size: r.size}})
		}
		return
	}
	quoted, ok := p.quoted(msg[icmpHeader:])
	if !ok || len(quoted) < icmpHeader || quoted[0] != p.request || !p.idOf(quoted) {
		return
	}
	e := &ICMPError{From: r.from, Type: msg[0], Code: msg[1]}
	if e.Type == p.tooBig.Type && e.Code == p.tooBig.Code {
		e.MTU = p.mtu(msg)
	}
	p.deliver(quoted, netip.Addr{}, answer{at: at, err: e})
}

func (p *pinger) idOf(icmp []byte) bool { return binary.BigEndian.Uint16(icmp[4:]) == p.id }

// deliver finds who waits for an echo by the identifier in its payload, or,
// where an error quotes too little of it, by its sequence number.
func (p *pinger) deliver(echo []byte, from netip.Addr, a answer) {
	a.seq = binary.BigEndian.Uint16(echo[6:])
	p.mu.Lock()
	defer p.mu.Unlock()
	var id uuid.UUID
	if len(echo) >= icmpHeader+len(id) {
		id = uuid.UUID(echo[icmpHeader:][:len(id)])
	} else {
		id = p.bySeq[a.seq]
	}
	w := p.waiting[id]
	if w == nil || from.IsValid() && from != w.dst {
		return
	}
	select {
	case w.answers <- a:
	default: // duplicates beyond what was sent
	}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// rawSocket is a raw ICMP socket that the Go scheduler waits for.
type rawSocket struct {
	file *os.File
	conn syscall.RawConn
}

func openRaw(f *icmp) (*rawSocket, error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, f.protocol)
	if err != nil {
		return nil, fmt.Errorf("open raw ICMP socket: %w", err)
	}
	s := &rawSocket{file: os.NewFile(uintptr(fd), "icmp")}
	if s.conn, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

func (s *rawSocket) option(level, name, value int) error {
	var err error
	if e := s.conn.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, name, value) }); e != nil {
		return e
	}
	if err != nil {
		return fmt.Errorf("set option %d of the raw ICMP socket: %w", name, err)
	}
	return nil
}

func (s *rawSocket) send(msg, oob []byte, dst unix.Sockaddr) error {
	var err error
	e := s.conn.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), msg, oob, dst, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return errors.Join(e, err)
}

func (s *rawSocket) recv(b, oob []byte) (n, extra int, from unix.Sockaddr, err error) {
	e := s.conn.Read(func(fd uintptr) bool {
		n, extra, _, from, err = unix.Recvmsg(int(fd), b, oob, 0)
		return !errors.Is(err, unix.EAGAIN)
	})
	return n, extra, from, errors.Join(e, err)
}

// drain empties the socket's error queue and clears its pending error. It
// reports whether the local kernel queued one of them, and the MTU it named.
func (s *rawSocket) drain(f *icmp) (mtu int, local bool) {
	// struct sock_extended_err of linux/errqueue.h.
	const origin, info, originLocal, size = 4, 8, 1, 16
	_ = s.conn.Control(func(fd uintptr) {
		_, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		oob := make([]byte, 512)
		for {
			_, n, _, _, err := unix.Recvmsg(int(fd), nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil {
				return
			}
			msgs, err := unix.ParseSocketControlMessage(oob[:n])
			if err != nil {
				continue
			}
			for _, m := range msgs {
				if m.Header.Level == int32(f.level) && m.Header.Type == int32(f.errors) &&
					len(m.Data) >= size && m.Data[origin] == originLocal {
					local = true
					mtu = int(binary.NativeEndian.Uint32(m.Data[info:]))
				}
			}
		}
	})
	return mtu, local
}
