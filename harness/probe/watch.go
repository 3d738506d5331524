package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// kindWatchFile begins a watch at the other end of a session, and kindWriting
// asks it.
const (
	kindWatchFile = "watch-file"
	kindWriting   = "writing"
)

// A FileWatch tells how a file is written.
type FileWatch struct {
	name, file string
	fd         int
	// there, where set, is the watch itself.
	there *far
}

// Writing is how a file was written since it was watched.
type Writing struct {
	// Moved says that another file took its place in one step (rename(2)),
	// InPlace that what is in it was changed: a reader can have seen a part.
	Moved, InPlace bool
}

// WatchFile watches a file of the namespace, which need not be there, in a
// folder that is. The caller closes the watch.
func (s *Session) WatchFile(path string) (*FileWatch, error) {
	if s.peer == nil {
		return s.watchFile(path)
	}
	there := &far{peer: s.peer}
	if err := s.peer.Ask(context.Background(), kindWatchFile, path, &there.id); err != nil {
		return nil, fmt.Errorf("%s in %s: %w", kindWatchFile, s.name, err)
	}
	return &FileWatch{name: s.name, there: there}, nil
}

func (s *Session) watchFile(path string) (*FileWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch files: %w", err)
	}
	folder, file := filepath.Split(path)
	err = s.local.Do(func() error {
		_, err := unix.InotifyAddWatch(fd, folder, unix.IN_MODIFY|unix.IN_MOVED_TO)
		return err
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s in %s: %w", folder, s.name, err), unix.Close(fd))
	}
	return &FileWatch{name: s.name, file: file, fd: fd}, nil
}

// Close ends the watch.
func (w *FileWatch) Close() error {
	if w.there != nil {
		return w.there.Close()
	}
	return unix.Close(w.fd)
}

// Written returns how the file was written since it was last asked.
func (w *FileWatch) Written() (Writing, error) {
	var out Writing
	if w.there != nil {
		err := w.there.peer.Ask(context.Background(), kindWriting, w.there.id, &out)
		if err != nil {
			err = fmt.Errorf("watch files in %s: %w", w.name, err)
		}
		return out, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(w.fd, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return out, nil
		case err != nil:
			return out, fmt.Errorf("watch files in %s: %w", w.name, err)
		}
		for rest := buf[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(rest[4:])
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(rest[12:]))
			if mask&unix.IN_Q_OVERFLOW != 0 {
				return out, fmt.Errorf("watch files in %s: the kernel dropped events", w.name)
			}
			if name := bytes.TrimRight(rest[unix.SizeofInotifyEvent:size], "\x00"); string(name) == w.file {
				out.Moved = out.Moved || mask&unix.IN_MOVED_TO != 0
				out.InPlace = out.InPlace || mask&unix.IN_MODIFY != 0
			}
			rest = rest[size:]
		}
	}
}
