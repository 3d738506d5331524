// Package rtnl sends rtnetlink messages in batches: many messages to one
// system call, and one acknowledgement for all that succeed. Programming the
// mesh of a node with 256 peers is two to three times faster so than with a
// call a message.
package rtnl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxBatch is how many messages go to the kernel at once. Each message that
// fails is answered, and the answers of one send must fit the default receive
// buffer (208 KiB, under 1 KiB an answer): an unprivileged caller cannot raise
// it.
const maxBatch = 200

// A Conn is an rtnetlink socket, or one of XFRM, in the network namespace of
// the thread that opened it. It is not safe for concurrent use.
type Conn struct {
	fd  int
	seq uint32
	rx  []byte
}

// Dial opens a socket in the calling thread's network namespace.
func Dial() (*Conn, error) { return dial(unix.NETLINK_ROUTE, "rtnetlink") }

// DialXFRM opens a socket for the IPsec messages, in the calling thread's
// network namespace.
func DialXFRM() (*Conn, error) { return dial(unix.NETLINK_XFRM, "XFRM netlink") }

func dial(protocol int, what string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", what, err)
	}
	// Short acknowledgements with the kernel's own words; kernels without
	// either option (before 4.12) still answer with the error number.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	return &Conn{fd: fd, rx: make([]byte, 64<<10)}, nil
}

// Close closes the socket.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Error is one message's refusal by the kernel.
type Error struct {
	// Op is the message in the words of ip(8), such as "route add …".
	Op string
	// Errno is the kernel's answer, Detail its explanation where it gave one.
	Errno  unix.Errno
	Detail string
}

func (e *Error) Error() string {
	if e.Detail != "" {
		return fmt.Sprintf("%s: %v: %s", e.Op, e.Errno, e.Detail)
	}
	return fmt.Sprintf("%s: %v", e.Op, e.Errno)
}

// Unwrap gives errors.Is the error number.
func (e *Error) Unwrap() error { return e.Errno }

// Do sends every message of the batch, in order. A message that the kernel
// refuses does not stop the ones behind it: the error joins one *Error for
// each refused message that did not tolerate its refusal. The batch is empty
// afterwards.
func (c *Conn) Do(b *Batch) error {
	defer func() { b.buf, b.ops = nil, nil }()
	var errs []error
	for len(b.ops) > 0 {
		n := min(len(b.ops), maxBatch)
		end := len(b.buf)
		if n < len(b.ops) {
			end = b.ops[n].off
		}
		if err := c.send(b.buf[b.ops[0].off:end], b.ops[:n], &errs); err != nil {
			return errors.Join(append(errs, err)...)
		}
		b.ops = b.ops[n:]
	}
	return errors.Join(errs...)
}

// send numbers and sends one chunk of messages and reads its answers.
func (c *Conn) send(buf []byte, ops []op, errs *[]error) error {
	first := c.seq + 1
	base := ops[0].off
	for _, o := range ops {
		c.seq++
		binary.NativeEndian.PutUint32(buf[o.off-base+8:], c.seq)
	}
	last := buf[ops[len(ops)-1].off-base:]
	flags := binary.NativeEndian.Uint16(last[6:])
	binary.NativeEndian.PutUint16(last[6:], flags|unix.NLM_F_ACK)
	if err := unix.Sendto(c.fd, buf, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send %d rtnetlink messages: %w", len(ops), err)
	}
	for {
		n, _, err := unix.Recvfrom(c.fd, c.rx, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read rtnetlink answers: %w", err)
		}
		for rest := c.rx[:n]; len(rest) >= unix.SizeofNlMsghdr; {
			size := int(binary.NativeEndian.Uint32(rest))
			if size < unix.SizeofNlMsghdr || size > len(rest) {
				return errors.New("read rtnetlink answers: truncated message")
			}
			msg := rest[:size]
			rest = rest[min(align(size), len(rest)):]
			seq := binary.NativeEndian.Uint32(msg[8:])
			if binary.NativeEndian.Uint16(msg[4:]) != unix.NLMSG_ERROR || seq-first >= uint32(len(ops)) {
				continue // an answer to an earlier, abandoned request
			}
			if e := refusal(msg, ops[seq-first]); e != nil {
				*errs = append(*errs, e)
			}
			if seq == c.seq {
				return nil
			}
		}
	}
}

// refusal reads an NLMSG_ERROR; nil where the kernel agreed or the message
// tolerates the refusal.
func refusal(msg []byte, o op) *Error {
	if len(msg) < unix.SizeofNlMsghdr+4 {
		return nil
	}
	code := int32(binary.NativeEndian.Uint32(msg[unix.SizeofNlMsghdr:]))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if slices.Contains(o.tolerate, errno) {
		return nil
	}
	return &Error{Op: o.what(), Errno: errno, Detail: extAck(msg)}
}

// extAck returns the kernel's explanation, NLMSGERR_ATTR_MSG.
func extAck(msg []byte) string {
	const (
		ackTLVs   = 0x200 // NLM_F_ACK_TLVS
		capped    = 0x100 // NLM_F_CAPPED
		msgAttr   = 1     // NLMSGERR_ATTR_MSG
		headerEnd = unix.SizeofNlMsghdr + 4
	)
	flags := binary.NativeEndian.Uint16(msg[6:])
	if flags&ackTLVs == 0 {
		return ""
	}
	off := headerEnd + unix.SizeofNlMsghdr
	if flags&capped == 0 && len(msg) >= headerEnd+4 {
		off = headerEnd + align(int(binary.NativeEndian.Uint32(msg[headerEnd:])))
	}
	for off+4 <= len(msg) {
		size := int(binary.NativeEndian.Uint16(msg[off:]))
		if size < 4 || off+size > len(msg) {
			return ""
		}
		if binary.NativeEndian.Uint16(msg[off+2:]) == msgAttr {
			return strings.TrimRight(string(msg[off+4:off+size]), "\x00")
		}
		off += align(size)
	}
	return ""
}

func align(n int) int { return (n + 3) &^ 3 }
