package forwarder

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/tuntap"
)

const (
	// attachPatience is how long a forwarder waits for its device, which the
	// agent may be making anew, or for its predecessor to let go of it.
	attachPatience = 3 * time.Second
	attachPause    = 2 * time.Millisecond
	// look is the pause between two looks at the socket's file.
	look = time.Second
	// socketFD is the listening socket that the launcher hands down.
	socketFD = 3
)

// arguments are what Main takes.
func arguments(socket string, s Spec) []string {
	return []string{s.Kind, "--device=" + s.Device, "--socket=" + socket, "--options=" + string(s.Options)}
}

func parse(args []string) (socket string, s Spec, err error) {
	if len(args) == 0 {
		return "", s, errors.New("no kind of forwarder is named; the agent starts forwarders by itself")
	}
	s.Kind = args[0]
	f := flag.NewFlagSet(Command, flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller reports the error
	f.StringVar(&s.Device, "device", "", "")
	f.StringVar(&socket, "socket", "", "")
	options := f.String("options", "{}", "")
	err = f.Parse(args[1:])
	s.Options = json.RawMessage(*options)
	if err == nil && (s.Device == "" || socket == "" || !json.Valid(s.Options)) {
		err = errors.New("--device, --socket and --options are needed; the agent starts forwarders by itself")
	}
	return socket, s, err
}

// Main is the forwarder's process. It returns nil when it was asked to end, by
// ctx or through the socket.
func Main(ctx context.Context, args []string, engines map[string]NewEngine, log *slog.Logger) error {
	socket, spec, err := parse(args)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	log = log.With("forwarder", spec.Device)
	// The log may be a pipe whose reader ends before this process does.
	signal.Ignore(unix.SIGPIPE)
	newEngine, ok := engines[spec.Kind]
	if !ok {
		return fmt.Errorf("forward: there is no forwarder of the kind %q, but %s", spec.Kind, strings.Join(slices.Sorted(maps.Keys(engines)), ", "))
	}
	listener, err := net.FileListener(os.NewFile(socketFD, socket))
	if err != nil {
		return fmt.Errorf("forward: take over the socket: %w; the agent starts forwarders by itself", err)
	}
	s := &server{spec: spec, socket: socket, listener: listener, log: log}
	if s.file, err = os.Lstat(socket); err != nil {
		return fmt.Errorf("forward: find the socket: %w", err)
	}
	defer s.close()
	device, err := attach(ctx, spec.Device)
	if err != nil {
		return err
	}
	if s.engine, err = newEngine(device, spec.Options, log); err != nil {
		return fmt.Errorf("start forwarding: %w", err)
	}
	return s.run(ctx)
}

// attach waits for the device.
func attach(ctx context.Context, name string) (fd int, err error) {
	ctx, cancel := context.WithTimeout(ctx, attachPatience)
	defer cancel()
	tick := time.NewTicker(attachPause)
	defer tick.Stop()
	for {
		fd, err := tuntap.Attach(name)
		if !errors.Is(err, tuntap.ErrNoDevice) && !errors.Is(err, tuntap.ErrBusy) {
			return fd, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return -1, fmt.Errorf("%w (%w)", err, ctx.Err())
		}
	}
}

// server answers the agent.
type server struct {
	spec     Spec
	socket   string
	file     fs.FileInfo // the socket's file as it was
	listener net.Listener
	engine   Engine
	log      *slog.Logger

	updating sync.Mutex
}

// run forwards until something ends it.
func (s *server) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ran := make(chan error, 1)
	go func() { ran <- s.engine.Run() }()
	go s.accept(cancel)
	go s.watch(ctx, cancel)
	var err error
	select {
	case err = <-ran:
		err = errors.Join(err, s.engine.Close())
	case <-ctx.Done():
		if cause := context.Cause(ctx); !errors.Is(cause, errAsked) && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		err = errors.Join(err, s.engine.Close(), <-ran)
	}
	return err
}

var errAsked = errors.New("it was asked to end")

// close leaves no socket behind, unless it is another's by now. Connections end
// with the process, after the device was let go of.
func (s *server) close() {
	if s.present() {
		_ = os.Remove(s.socket) // or whoever comes next does
	}
	_ = s.listener.Close() // the process ends
}

// present reports whether the socket's file is still this one's.
func (s *server) present() bool {
	now, err := os.Lstat(s.socket)
	return err == nil && os.SameFile(now, s.file)
}

// watch ends a forwarder that no agent can find any more.
func (s *server) watch(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if !s.present() {
				end(fmt.Errorf("%s is gone: no agent can find this forwarder any more", s.socket))
				return
			}
		}
	}
}

func (s *server) accept(end context.CancelCauseFunc) {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			end(fmt.Errorf("accept at %s: %w", s.socket, err))
			return
		}
		go s.serve(newConn(c), end)
	}
}

// serve answers one agent.
func (s *server) serve(c *conn, end context.CancelCauseFunc) {
	defer c.Close() // whoever was there has gone
	if c.Encode(hello{Build: build(), Spec: s.spec, PID: os.Getpid()}) != nil {
		return
	}
	for {
		var r request
		if c.Decode(&r) != nil {
			return
		}
		if r.End {
			end(errAsked)
			select {} // the connection ends with the process
		}
		var answer reply
		if err := s.update(r.Peers); err != nil {
			answer.Error = err.Error()
		}
		if c.Encode(answer) != nil {
			return
		}
	}
}

func (s *server) update(peers json.RawMessage) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	return s.engine.Update(peers)
}
