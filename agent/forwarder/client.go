package forwarder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client keeps one forwarder running, and tells it of the peers. It makes
// what a backend.Runner with a forwarder follows.
type Client struct {
	launcher Launcher
	want     hello
	lost     chan struct{}

	mu   sync.Mutex
	link *link           // nil without a forwarder
	told json.RawMessage // what it knows, nil before it knows anything
}

// link is a connection with its reader.
type link struct {
	*conn
	// replies is closed at the connection's end.
	replies chan reply
}

// NewClient returns a client without a forwarder: the first Update finds one,
// or starts it. options are the engine's, to be written as JSON.
func (l Launcher) NewClient(kind, device string, options any) (*Client, error) {
	raw, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("write the options of the forwarder of %s: %w", device, err)
	}
	return &Client{
		launcher: l, lost: make(chan struct{}, 1),
		want: hello{Build: build(), Spec: Spec{Kind: kind, Device: device, Options: raw}},
	}, nil
}

// Lost receives when the forwarder is gone that was told of the peers.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Update hands over the peers, to be written as JSON, to the forwarder, which
// it finds or starts. The device must be there, or come within seconds. It is
// for one caller at a time.
func (c *Client) Update(ctx context.Context, peers any) error {
	raw, err := json.Marshal(peers)
	if err != nil {
		return fmt.Errorf("write the peers for the forwarder of %s: %w", c.want.Spec.Device, err)
	}
	link, told := c.present()
	if link != nil && bytes.Equal(raw, told) {
		return nil
	}
	if link == nil {
		if link, err = c.connect(ctx); err != nil {
			return fmt.Errorf("the forwarder of %s: %w", c.want.Spec.Device, err)
		}
	}
	if err := link.update(raw); err != nil {
		c.forget(link)
		_ = link.Close() // the next attempt has another
		return fmt.Errorf("tell the forwarder of %s of the peers: %w", c.want.Spec.Device, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != link {
		return fmt.Errorf("the forwarder of %s: %w", c.want.Spec.Device, errEnded)
	}
	c.told = raw
	return nil
}

func (c *Client) present() (*link, json.RawMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.link, c.told
}

// forget reports whether the link was the present one, and had been told of
// peers.
func (c *Client) forget(l *link) (mattered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l {
		return false
	}
	mattered = c.told != nil
	c.link, c.told = nil, nil
	return mattered
}

// connect finds the forwarder that is wanted, or starts it in the place of any
// other.
func (c *Client) connect(ctx context.Context) (*link, error) {
	socket := socketOf(c.launcher.Folder, c.want.Spec.Device)
	conn, who, err := dial(socket)
	switch {
	case err == nil && !who.same(c.want):
		c.launcher.Log.Info("replacing the forwarder", "device", c.want.Spec.Device, "pid", who.PID)
		if err := errors.Join(conn.end(), conn.Close()); err != nil {
			return nil, err
		}
		fallthrough
	case err != nil:
		if err := c.launcher.start(socket, c.want.Spec); err != nil {
			return nil, err
		}
		if conn, who, err = dial(socket); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.launcher.Log.Info("forwarder", "device", c.want.Spec.Device, "pid", who.PID)
	l := &link{conn: conn, replies: make(chan reply, 1)}
	c.mu.Lock()
	c.link, c.told = l, nil
	c.mu.Unlock()
	go c.read(l)
	return l, nil
}

// read reads the replies until the connection ends.
func (c *Client) read(l *link) {
	for {
		var r reply
		if l.Decode(&r) != nil {
			break
		}
		l.replies <- r
	}
	close(l.replies)
	_ = l.Close() // both sides are done
	if c.forget(l) {
		select {
		case c.lost <- struct{}{}:
		default: // one is told of already
		}
	}
}

// update sends the peers and waits for the answer.
func (l *link) update(peers json.RawMessage) error {
	if err := l.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := l.Encode(request{Peers: peers}); err != nil {
		return err
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case r, ok := <-l.replies:
		switch {
		case !ok:
			return errEnded
		case r.Error != "":
			return errors.New(r.Error)
		}
		return nil
	case <-timeout.C:
		return fmt.Errorf("no answer within %v", patience)
	}
}

var errEnded = errors.New("it has ended; its reason is in the log")

// EndAll ends every forwarder that listens in the folder.
func EndAll(folder string, log *slog.Logger) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for forwarders: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.Type() == fs.ModeSocket && strings.HasSuffix(e.Name(), suffix) {
			errs = append(errs, endAt(filepath.Join(folder, e.Name()), log))
		}
	}
	return errors.Join(errs...)
}

// endAt ends the forwarder of a socket, if there is one, and removes the file
// of one that was killed.
func endAt(socket string, log *slog.Logger) error {
	conn, who, err := dial(socket)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, io.EOF) {
		return os.Remove(socket) // it was killed, if only just now
	}
	if err != nil {
		return err
	}
	log.Info("ended", "forwarder", who.Spec.Device, "pid", who.PID)
	return errors.Join(conn.end(), ignoreClosed(conn.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
