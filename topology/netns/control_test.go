package netns

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connection is both ends of a control connection.
func connection(t *testing.T) (client, server *peer) {
	t.Helper()
	// Longer than the 107 bytes of a socket's path.
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, err := os.Stat(filepath.Join(dir, socketFile)); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v (%v), not its owner's alone", st.Mode(), err)
	}
	client, err = dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.conn.Close(); conn.Close() })
	return client, newPeer(conn)
}

func TestControlPassesMessagesAndFiles(t *testing.T) {
	client, server := connection(t)
	cred, err := server.credentials()
	if err != nil || int(cred.Pid) != os.Getpid() || int(cred.Uid) != os.Getuid() {
		t.Errorf("credentials %+v, %v", cred, err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := client.send(request{Op: opRun, Space: "node-1"}, r, w, w); err != nil {
		t.Fatal(err)
	}
	var req request
	files, err := server.receive(&req)
	if err != nil || req.Space != "node-1" || len(files) != 3 {
		t.Fatalf("received %+v with %d files, %v", req, len(files), err)
	}
	defer closeAll(files)
	if _, err := io.WriteString(files[1], "x"); err != nil {
		t.Error(err)
	}
	b := make([]byte, 1)
	if _, err := io.ReadFull(r, b); err != nil || b[0] != 'x' {
		t.Errorf("the file that was handed over is not the pipe: %q, %v", b, err)
	}
}

func TestControlRefuses(t *testing.T) {
	client, server := connection(t)
	err := client.send(request{Argv: []string{strings.Repeat("x", maxMessage)}})
	if err == nil || !strings.Contains(err.Error(), "too long") {
		t.Errorf("a message of %d bytes: %v", maxMessage, err)
	}
	if _, err := client.conn.Write([]byte("{")); err != nil {
		t.Fatal(err)
	}
	var req request
	if _, err := server.receive(&req); err == nil {
		t.Error("half a message is no error")
	}
	client.conn.Close()
	if _, err := server.receive(&req); !errors.Is(err, errHungUp) {
		t.Errorf("a closed connection: %v, want errHungUp", err)
	}
}

func TestDialWithoutALab(t *testing.T) {
	if _, err := dial(t.TempDir()); err == nil || !strings.Contains(err.Error(), "connect to the lab") {
		t.Errorf("dial = %v", err)
	}
}

// TestControlGivesUpWithItsContext: a supervisor that does not answer, as one
// that is stopped, keeps nobody who no longer wants to wait.
func TestControlGivesUpWithItsContext(t *testing.T) {
	dir := t.TempDir()
	l, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it never accepts
	for name, try := range map[string]func(context.Context) error{
		"ask":  func(ctx context.Context) error { _, err := ask(ctx, dir, request{Op: opStatus}); return err },
		"hold": func(ctx context.Context) error { _, err := hold(ctx, dir, request{Op: opHold}); return err },
	} {
		ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("nobody waits"))
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- try(ctx) }()
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "nobody waits") {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s waits on", name)
		}
	}
}

// TestControlOutlivesALackOfDescriptors: a lab that has too many files open for
// a moment answers again afterwards.
func TestControlOutlivesALackOfDescriptors(t *testing.T) {
	dir := t.TempDir()
	listener, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	p, err := dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.conn.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	log := slog.Default()
	defer slog.SetDefault(log)
	refused := make(chan struct{}, 100)
	slog.SetDefault(slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		refused <- struct{}{}
		return len(b), nil
	}), nil)))
	few := limit
	few.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	l := &lab{plan: planOf(t, "spec: {}\n")}
	go l.serve(listener)
	<-refused
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := p.exchange(ctx, request{Op: "nothing"}); err == nil || !strings.Contains(err.Error(), "unknown operation") {
		t.Errorf("the lab's answer: %v", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
