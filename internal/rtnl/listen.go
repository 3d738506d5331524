package rtnl

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrLost says that the kernel had to drop notifications: what the listener
// has been told of is no longer all that happened, and only a dump can tell.
var ErrLost = errors.New("the kernel dropped rtnetlink notifications")

// A Listener receives rtnetlink notifications in the network namespace of the
// thread that opened it. Wait may run beside the other methods.
type Listener struct {
	file *os.File
	raw  syscall.RawConn
	buf  []byte
}

// Listen subscribes to multicast groups (RTNLGRP_*) in the calling thread's
// network namespace.
func Listen(groups ...int) (*Listener, error) {
	return listen(unix.NETLINK_ROUTE, "rtnetlink", groups)
}

// ListenXFRM subscribes to changes of IPsec's states and policies, likewise.
func ListenXFRM() (*Listener, error) {
	return listen(unix.NETLINK_XFRM, "XFRM netlink", []int{nl.XFRMNLGRP_SA, nl.XFRMNLGRP_POLICY})
}

func listen(protocol int, what string, groups []int) (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("open %s socket: %w", what, err)
	}
	l := &Listener{file: os.NewFile(uintptr(fd), what), buf: make([]byte, 64<<10)}
	// A larger buffer loses less; only root of the machine may have it.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err == nil {
		l.raw, err = l.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe to %s: %w", what, err), l.file.Close())
	}
	return l, nil
}

// Wait blocks until there is something to drain, a loss included. Its error
// says that the listener is closed.
func (l *Listener) Wait() error {
	return l.raw.Read(func(fd uintptr) bool {
		// To ask for readiness, not to read: a reader would take the report of
		// a loss with it.
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
	})
}

// Drain calls fn for every notification that has arrived, and does not wait.
// After ErrLost it has drained the rest all the same.
func (l *Listener) Drain(fn func(Message) error) error {
	var errs []error
	err := l.raw.Control(func(fd uintptr) {
		for {
			n, _, err := unix.Recvfrom(int(fd), l.buf, 0)
			switch {
			case err == nil:
				if err := split(l.buf[:n], func(_ uint32, m Message) error { return fn(m) }); err != nil {
					errs = append(errs, err)
				}
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.ENOBUFS):
				errs = append(errs, ErrLost)
			case errors.Is(err, unix.EAGAIN):
				return
			default:
				errs = append(errs, fmt.Errorf("read rtnetlink notifications: %w", err))
				return
			}
		}
	})
	return errors.Join(append(errs, err)...)
}

// Close ends the subscription and every Wait.
func (l *Listener) Close() error { return l.file.Close() }

// SetReceiveBuffer sets the socket's receive buffer in bytes, which the kernel
// doubles and bounds.
func (l *Listener) SetReceiveBuffer(bytes int) error {
	var err error
	return errors.Join(l.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bytes)
	}), err)
}
