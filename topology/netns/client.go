package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/overlab/overlab/topology"
)

// ask sends a request that has one answer.
func ask(ctx context.Context, dir string, req request) (*response, error) {
	p, err := dial(dir)
	if err != nil {
		return nil, err
	}
	defer p.conn.Close()
	return p.exchange(ctx, req)
}

// lastWord is how long a supervisor may take to say why something was not done in
// time: it bounds itself, and knows more than that the time is up.
const lastWord = time.Second

// exchange sends a message and waits for its answer, as long as ctx lives.
func (p *peer) exchange(ctx context.Context, message any) (*response, error) {
	stop := context.AfterFunc(ctx, func() {
		end := time.Now()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			end = end.Add(lastWord)
		}
		_ = p.conn.SetDeadline(end) // the socket is open
	})
	defer stop()
	var resp response
	err := p.send(message)
	if err == nil {
		_, err = p.receive(&resp)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("the lab's supervisor gave no answer: %w", context.Cause(ctx))
	case err != nil:
		return nil, err
	case resp.Error != "":
		return nil, errors.New(resp.Error)
	}
	return &resp, nil
}

// hold sends a request whose effect lasts until release, or as long as the
// connection.
func hold(ctx context.Context, dir string, req request) (release func(context.Context) error, err error) {
	p, err := dial(dir)
	if err != nil {
		return nil, err
	}
	if _, err := p.exchange(ctx, req); err != nil {
		return nil, errors.Join(err, p.conn.Close())
	}
	return func(ctx context.Context) error {
		defer p.conn.Close() // the answer is all that is left to come
		_, err := p.exchange(ctx, struct{}{})
		return err
	}, nil
}

// runIn runs a process in a namespace of the lab whose state folder is dir.
func runIn(ctx context.Context, dir, space string, proc topology.Process) (int, error) {
	s, err := newStreams(proc)
	if err != nil {
		return 0, err
	}
	defer s.close()
	p, err := dial(dir)
	if err != nil {
		return 0, err
	}
	defer p.conn.Close()
	req := request{Op: opRun, Space: space, Argv: proc.Argv, Env: proc.Env, Dir: proc.Dir, TTY: proc.TTY}
	if err := p.send(req, s.theirs...); err != nil {
		return 0, err
	}
	s.handOver()

	answered := make(chan struct{})
	var resp response
	var readErr error
	go func() {
		defer close(answered)
		_, readErr = p.receive(&resp)
	}()
	for {
		select {
		case sig := <-proc.Signals:
			if n, ok := sig.(syscall.Signal); ok {
				// A process that has just ended is no error of the signal.
				_ = p.send(signalMessage{Signal: int(n)})
			}
		case <-ctx.Done():
			p.conn.Close() // the supervisor ends what runs for us
			<-answered
			return 0, fmt.Errorf("run %s: %w", proc.Argv[0], context.Cause(ctx))
		case <-answered:
			s.finish()
			switch {
			case readErr != nil:
				return 0, fmt.Errorf("run %s: the lab went away: %w", proc.Argv[0], readErr)
			case resp.Unstarted != 0:
				return 0, &topology.StartError{Code: resp.Unstarted, Reason: resp.Error}
			case resp.Error != "":
				return 0, errors.New(resp.Error)
			}
			return resp.Exit, nil
		}
	}
}

// streams connects a caller's streams to a process in the lab. A file is
// handed over; any other reader or writer is copied through a pipe; a terminal
// is stood in for by one of the process's own.
type streams struct {
	theirs []*os.File // the process's ends, in the order of descriptors
	owned  []*os.File // closed once the process has them
	ended  *os.File   // closed to tell the terminal's copier that the process has ended
	copies sync.WaitGroup
	start  []func()
	stop   []func()
}

func newStreams(proc topology.Process) (*streams, error) {
	s := new(streams)
	if proc.TTY {
		return s, s.terminal(proc)
	}
	in, err := s.input(proc.Stdin)
	if err != nil {
		s.close()
		return nil, err
	}
	out, err := s.output(proc.Stdout)
	if err != nil {
		s.close()
		return nil, err
	}
	errOut, err := s.output(proc.Stderr)
	if err != nil {
		s.close()
		return nil, err
	}
	s.theirs = []*os.File{in, out, errOut}
	return s, nil
}

func (s *streams) own(f *os.File) *os.File {
	s.owned = append(s.owned, f)
	return f
}

func (s *streams) input(r io.Reader) (*os.File, error) {
	switch r := r.(type) {
	case nil:
		f, err := os.Open(os.DevNull)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		return s.own(f), nil
	case *os.File:
		return r, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	s.own(pr)
	s.start = append(s.start, func() {
		go func() { // ends when the reader does or the process stops reading
			defer pw.Close()
			_, _ = io.Copy(pw, r)
		}()
	})
	return pr, nil
}

func (s *streams) output(w io.Writer) (*os.File, error) {
	switch w := w.(type) {
	case nil:
		f, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
		}
		return s.own(f), nil
	case *os.File:
		return w, nil
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	s.own(pw)
	s.start = append(s.start, func() {
		s.copies.Add(1)
		go func() {
			defer s.copies.Done()
			defer pr.Close()
			_, _ = io.Copy(w, pr)
		}()
	})
	return pw, nil
}

// terminal makes a terminal for the process, of the size of the caller's, and
// puts the caller's in raw mode.
func (s *streams) terminal(proc topology.Process) error {
	ours, ok := proc.Stdin.(*os.File)
	if !ok || !term.IsTerminal(int(ours.Fd())) {
		return errors.New("a terminal was asked for, but standard input is none")
	}
	master, slave, err := pty.Open()
	if err != nil {
		return fmt.Errorf("make a terminal: %w", err)
	}
	s.own(slave)
	s.theirs = []*os.File{slave, slave, slave}
	_ = pty.InheritSize(ours, master)
	over, ended, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("make a pipe: %w", err), master.Close(), slave.Close())
	}
	before, err := term.MakeRaw(int(ours.Fd()))
	if err != nil {
		return errors.Join(fmt.Errorf("set the terminal up: %w", err), master.Close(), slave.Close(), over.Close(), ended.Close())
	}
	s.ended = ended
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, unix.SIGWINCH)
	s.stop = append(s.stop, func() {
		signal.Stop(resized)
		close(resized)
		s.finish()
		_ = term.Restore(int(ours.Fd()), before)
		master.Close()
		over.Close()
	})
	out := proc.Stdout
	if out == nil {
		out = ours
	}
	s.start = append(s.start, func() {
		s.copies.Add(1)
		go func() {
			for range resized {
				_ = pty.InheritSize(ours, master)
			}
		}()
		go func() { _, _ = io.Copy(master, ours) }()
		go func() {
			defer s.copies.Done()
			show(out, master, over)
		}()
	})
	return nil
}

// show copies what the process prints until nothing holds its terminal any
// more. When over hangs up the process has ended, and then it copies only what
// is there: something left in the background may hold the terminal for ever.
func show(out io.Writer, master, over *os.File) {
	const quiet = 50 // ms, far more than a byte takes through a terminal
	poll := []unix.PollFd{{Fd: int32(master.Fd()), Events: unix.POLLIN}, {Fd: int32(over.Fd())}}
	timeout := -1
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Poll(poll, timeout)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil || n == 0:
			return
		case len(poll) == 2 && poll[1].Revents != 0:
			poll, timeout = poll[:1], quiet
			continue
		}
		n, err = master.Read(buf)
		if err != nil {
			return // EIO: nothing holds the other side
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return
		}
	}
}

// handOver begins to copy, and lets go of the ends that the process now has.
func (s *streams) handOver() {
	for _, start := range s.start {
		start()
	}
	for _, f := range s.owned {
		f.Close()
	}
	s.owned = nil
}

// finish waits until everything that the process, which has ended, printed is
// copied.
func (s *streams) finish() {
	if s.ended != nil {
		s.ended.Close()
	}
	s.copies.Wait()
}

func (s *streams) close() {
	for _, f := range s.owned {
		f.Close()
	}
	for _, stop := range s.stop {
		stop()
	}
	s.stop = nil
}
