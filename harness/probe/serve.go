package probe

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"sync"

	"github.com/overlab/overlab/topology"
)

// maxMessage bounds one line of the protocol, in bytes: a dump of a large node
// has some megabytes.
const maxMessage = 64 << 20

// Serve answers the calls that come from in, each on its own, until in ends or
// ctx does. What is under way then is cancelled, and waited for. Calls of the
// kinds in more are answered by its handlers. The error says that in or out is
// broken; it is nil at the end of in.
func Serve(ctx context.Context, s *Session, in io.Reader, out io.Writer, more map[string]Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	v := &server{session: s, out: json.NewEncoder(out), calls: map[uint64]context.CancelFunc{}}
	known := handlers()
	maps.Copy(known, flowHandlers())
	maps.Copy(known, more)
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		var c call
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			v.fail(fmt.Errorf("read a call: %w", err))
			break
		}
		if c.Kind == kindCancel {
			v.cancel(c.ID)
			continue
		}
		h := known[c.Kind]
		if h == nil {
			v.reply(c.ID, nil, fmt.Errorf("this probe knows no requests of kind %q", c.Kind))
			continue
		}
		calling, end := context.WithCancel(ctx)
		v.begin(c.ID, end)
		v.under.Go(func() {
			defer v.cancel(c.ID)
			answer, err := h(calling, s, c.Request)
			v.reply(c.ID, answer, err)
		})
	}
	cancel()
	v.under.Wait()
	return errors.Join(v.err, lines.Err())
}

// server is the far end of a session.
type server struct {
	session *Session
	under   sync.WaitGroup

	mu    sync.Mutex
	calls map[uint64]context.CancelFunc

	writing sync.Mutex
	out     *json.Encoder
	err     error
}

func (v *server) begin(id uint64, end context.CancelFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.calls[id] = end
}

// cancel ends a call; one that is over already is none.
func (v *server) cancel(id uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if end := v.calls[id]; end != nil {
		end()
		delete(v.calls, id)
	}
}

func (v *server) reply(id uint64, answer any, err error) {
	r := reply{ID: id}
	text, failed := json.Marshal(answer)
	if failed != nil {
		err = errors.Join(err, failed)
	} else {
		r.Answer = text
	}
	if err != nil {
		r.Error = err.Error()
		for name, known := range knownErrors() {
			if errors.Is(err, known) {
				r.Is = append(r.Is, name)
			}
		}
	}
	v.writing.Lock()
	failed = v.out.Encode(r)
	v.writing.Unlock()
	if failed != nil {
		v.fail(fmt.Errorf("write a reply: %w", failed))
	}
}

func (v *server) fail(err error) {
	v.writing.Lock()
	defer v.writing.Unlock()
	if v.err == nil {
		v.err = err
	}
}

// Here is the namespace that this process is in: `overlab probe` opens its
// session in it.
type Here struct{}

// Name implements topology.Namespace.
func (Here) Name() string { return "here" }

// Run implements topology.Namespace; a probe runs nothing.
func (Here) Run(context.Context, topology.Process) (int, error) {
	return 0, errors.New("a probe runs no processes")
}

// Do implements topology.Local.
func (Here) Do(fn func() error) error { return fn() }

// Dial implements topology.Local.
func (Here) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, network, address)
}
