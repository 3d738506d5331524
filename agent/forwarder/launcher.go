package forwarder

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// Command is the first argument of the executable that makes it a forwarder.
const Command = "forward"

// Launcher says where a node's forwarders listen, and how they are started.
type Launcher struct {
	// Folder holds the sockets: that of subnet.env.
	Folder string
	// Program is the executable that calls Main with what follows Command;
	// empty is the running one.
	Program string
	// Env is added to the environment that they have from the agent.
	Env []string
	Log *slog.Logger
}

// start starts a forwarder in a session of its own, with the agent's standard
// error. The socket listens from the start, so that nobody has to wait for the
// process.
func (l Launcher) start(socket string, s Spec) error {
	listening, err := listen(socket)
	if err != nil {
		return err
	}
	defer listening.Close() // the forwarder has its own
	cmd := exec.Command(cmp.Or(l.Program, "/proc/self/exe"), append([]string{Command}, arguments(socket, s)...)...)
	cmd.Args[0] = os.Args[0]
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), l.Env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.ExtraFiles = []*os.File{listening}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start it: %w", err)
	}
	go func() {
		if err := cmd.Wait(); err != nil { // whose child it is while this agent lives
			l.Log.Warn("the forwarder ended", "device", s.Device, "err", err)
		}
	}()
	return nil
}

// listen makes the socket in the place of one that a killed forwarder left. The
// file stays when this process ends.
func listen(socket string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, fmt.Errorf("make the folder of its socket: %w", err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make its socket: %w", err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make its socket: %w", err)
	}
	listener.SetUnlinkOnClose(false)
	file, err := listener.File()
	return file, errors.Join(err, listener.Close(), os.Chmod(socket, 0o600))
}
