package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/overlab/overlab/topology"
)

// Enter opens a session in a namespace: in this process where the namespace can
// be entered from here, else by a program that runs there.
func Enter(ctx context.Context, ns topology.Namespace) (*Session, error) {
	if _, here := ns.(topology.Local); here {
		return Open(ctx, ns)
	}
	return OpenRemote(ctx, ns)
}

// Program is what a remote session runs in its namespace.
func Program() []string { return []string{"overlab", "probe"} }

// OpenRemote opens a session in a namespace that cannot be entered from here:
// it runs argv there (Program, if it is empty), which calls Serve, and speaks
// with it over its standard streams. The error says what the program printed,
// where it is not the one that it ought to be.
func OpenRemote(ctx context.Context, ns topology.Namespace, argv ...string) (*Session, error) {
	if len(argv) == 0 {
		argv = Program()
	}
	theirIn, in := io.Pipe()
	out, theirOut := io.Pipe()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	errs := new(tail)
	ended := make(chan error, 1)
	go func() {
		code, err := ns.Run(running, topology.Process{Argv: argv, Dir: "/", Stdin: theirIn, Stdout: theirOut, Stderr: errs})
		if err == nil {
			err = fmt.Errorf("%s has ended with exit code %d%s", strings.Join(argv, " "), code, errs)
		}
		ended <- err
		_ = theirOut.CloseWithError(err) // it never fails
		_ = theirIn.CloseWithError(err)
	}()
	p := newPipe(out, in, func() error {
		err := in.Close()
		<-ended // the program ends with its input
		stop()
		return err
	})
	s := Attach(ns.Name(), p)
	var spoken string
	err := p.Ask(ctx, kindHello, struct{}{}, &spoken)
	if err == nil && spoken != wireVersion {
		err = fmt.Errorf("it speaks %q, and this program %s", spoken, wireVersion)
	}
	if err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("open probe session in %s: %w", ns.Name(), err), s.Close())
	}
	return s, nil
}

// Dial makes a session with a Serve at the other end of two streams. close ends
// both.
func Dial(name string, in io.Reader, out io.Writer, closer func() error) *Session {
	return Attach(name, newPipe(in, out, closer))
}

// pipe is the near end of a session that is served elsewhere.
type pipe struct {
	closer func() error

	writing sync.Mutex
	out     *json.Encoder

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan reply
	// gone says why nothing more will come.
	gone error
	done chan struct{}
}

func newPipe(in io.Reader, out io.Writer, closer func() error) *pipe {
	p := &pipe{closer: closer, out: json.NewEncoder(out), waiting: map[uint64]chan reply{}, done: make(chan struct{})}
	go p.receive(in)
	return p
}

// receive hands replies to who waits for them, until the other end has gone.
func (p *pipe) receive(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxMessage)
	err := io.ErrUnexpectedEOF
	for lines.Scan() {
		var r reply
		if e := json.Unmarshal(lines.Bytes(), &r); e != nil {
			err = fmt.Errorf("it answers what is no reply: %.80q", lines.Text())
			break
		}
		p.mu.Lock()
		answer := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if answer != nil {
			answer <- r
		}
	}
	if e := lines.Err(); e != nil {
		err = e
	}
	p.mu.Lock()
	p.gone = fmt.Errorf("the probe has gone: %w", err)
	p.mu.Unlock()
	close(p.done)
	_, _ = io.Copy(io.Discard, in) // who writes must not wait for us
}

// Ask implements Peer.
func (p *pipe) Ask(ctx context.Context, kind string, request, answer any) error {
	text, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	p.mu.Lock()
	p.last++
	id, came := p.last, make(chan reply, 1)
	p.waiting[id] = came
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.waiting, id)
		p.mu.Unlock()
	}()
	if err := p.send(call{ID: id, Kind: kind, Request: text}); err != nil {
		return err
	}
	select {
	case r := <-came:
		return r.read(answer)
	case <-p.done:
		select {
		case r := <-came: // it was the last thing that came
			return r.read(answer)
		default:
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.gone
	case <-ctx.Done():
		// That the other end may have gone meanwhile changes nothing.
		_ = p.send(call{ID: id, Kind: kindCancel})
		return context.Cause(ctx)
	}
}

func (r *reply) read(answer any) error {
	if len(r.Answer) > 0 {
		if err := json.Unmarshal(r.Answer, answer); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
	if r.Error == "" {
		return nil
	}
	far := &farError{text: r.Error}
	for _, name := range r.Is {
		if known := knownErrors()[name]; known != nil {
			far.is = append(far.is, known)
		}
	}
	return far
}

func (p *pipe) send(c call) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.out.Encode(c); err != nil {
		return fmt.Errorf("the probe has gone: %w", err)
	}
	return nil
}

// Close implements Peer.
func (p *pipe) Close() error { return p.closer() }

// tail keeps the end of what a program says on its standard error.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	const most = 2048
	t.b = append(t.b, b...)
	t.b = t.b[max(0, len(t.b)-most):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if text := bytes.TrimSpace(t.b); len(text) > 0 {
		return ": " + string(text)
	}
	return ""
}
