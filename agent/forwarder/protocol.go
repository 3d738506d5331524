package forwarder

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"
)

// The two sides speak JSON, one value after another: the forwarder begins with
// a hello, and then answers each request with a reply.

// hello says who listens.
type hello struct {
	// Build identifies the executable.
	Build string `json:"build"`
	Spec  Spec   `json:"spec"`
	PID   int    `json:"pid"`
}

// same reports whether nothing but the process differs.
func (h hello) same(o hello) bool {
	return h.Build == o.Build && h.Spec.Kind == o.Spec.Kind && h.Spec.Device == o.Spec.Device && bytes.Equal(h.Spec.Options, o.Spec.Options)
}

// request asks for one of its fields.
type request struct {
	// Peers replaces the engine's peers.
	Peers json.RawMessage `json:"peers,omitempty"`
	// End ends the forwarder. The answer is the connection's end.
	End bool `json:"end,omitempty"`
}

// reply has an empty Error where the request was fulfilled.
type reply struct {
	Error string `json:"error,omitempty"`
}

// patience bounds one exchange.
const patience = 5 * time.Second

// conn is one side of a connection.
type conn struct {
	net.Conn
	*json.Encoder
	*json.Decoder
}

func newConn(c net.Conn) *conn { return &conn{c, json.NewEncoder(c), json.NewDecoder(c)} }

// dial connects to the forwarder of a socket and reads who it is.
func dial(socket string) (*conn, hello, error) {
	raw, err := net.DialTimeout("unix", socket, patience)
	if err != nil {
		return nil, hello{}, err
	}
	c := newConn(raw)
	h, err := c.greeting()
	if err != nil {
		return nil, hello{}, errors.Join(fmt.Errorf("ask the forwarder at %s who it is: %w", socket, err), c.Close())
	}
	return c, h, nil
}

func (c *conn) greeting() (h hello, err error) {
	if err = c.SetReadDeadline(time.Now().Add(patience)); err == nil {
		err = c.Decode(&h)
	}
	return h, errors.Join(err, c.SetReadDeadline(time.Time{}))
}

// end asks the forwarder to end, and waits until it has let go of the device.
func (c *conn) end() error {
	err := errors.Join(c.SetDeadline(time.Now().Add(patience)), c.Encode(request{End: true}))
	if err == nil {
		var one [1]byte
		_, err = c.Read(one[:])
		if err == nil {
			err = errors.New("it answered")
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil // it is gone
		}
	}
	if err != nil {
		return fmt.Errorf("end the forwarder: %w", err)
	}
	return nil
}

// suffix ends the name of every socket's file.
const suffix = ".sock"

func socketOf(folder, device string) string { return filepath.Join(folder, device+suffix) }

// build identifies the running executable by what Go's linker has noted in it,
// which differs whenever its content does.
func build() string {
	if f, err := elf.Open("/proc/self/exe"); err == nil {
		defer f.Close() // it was only read
		if s := f.Section(".note.go.buildid"); s != nil {
			if note, err := s.Data(); err == nil {
				return hex.EncodeToString(note)
			}
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return ""
}
