package probe

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// injection is what Inject asks for.
type injection struct {
	Interface string   `json:"interface"`
	Frames    [][]byte `json:"frames"`
}

// Inject sends whole Ethernet frames, as they are, out of an interface of the
// namespace. The error is the kernel's, such as EMSGSIZE for a frame that is
// longer than the interface takes.
func (s *Session) Inject(ctx context.Context, iface string, frames ...[]byte) error {
	return tell(ctx, s, kindInject, injection{iface, frames}, func() error { return s.inject(ctx, iface, frames) })
}

func (s *Session) inject(ctx context.Context, iface string, frames [][]byte) error {
	err := s.local.Do(func() error {
		link, err := net.InterfaceByName(iface)
		if err != nil {
			return err
		}
		// Protocol 0: the socket receives nothing.
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open packet socket: %w", err)
		}
		defer unix.Close(fd) // what was sent is sent
		to := &unix.SockaddrLinklayer{Ifindex: link.Index}
		for _, f := range frames {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := unix.Sendto(fd, f, 0, to); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("inject frames into %s:%s: %w", s.name, iface, err)
	}
	return nil
}
