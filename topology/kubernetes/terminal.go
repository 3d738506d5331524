package kubernetes

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	"k8s.io/client-go/tools/remotecommand"
)

// sizes tells of a terminal's size, at first and whenever it changes.
type sizes struct {
	terminal *os.File
	changed  chan os.Signal
	done     chan struct{}
}

func newSizes(terminal *os.File) *sizes {
	s := &sizes{terminal: terminal, changed: make(chan os.Signal, 1), done: make(chan struct{})}
	signal.Notify(s.changed, unix.SIGWINCH)
	s.changed <- unix.SIGWINCH
	return s
}

// Next implements remotecommand.TerminalSizeQueue.
func (s *sizes) Next() *remotecommand.TerminalSize {
	select {
	case <-s.done:
		return nil
	case <-s.changed:
	}
	width, height, err := term.GetSize(int(s.terminal.Fd()))
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}

func (s *sizes) close() {
	signal.Stop(s.changed)
	close(s.done)
}
