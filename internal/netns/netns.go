// Package netns creates and enters Linux namespaces.
//
// A namespace is entered on an OS thread of its own that is thrown away
// afterwards: a thread that once changed its namespaces is never given back to
// the Go scheduler, so no goroutine can end up in the wrong network.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// A Set pins the namespaces of one node or pod by open descriptors. The
// kernel removes a namespace when the last Set, process and mount that refer
// to it are gone. A descriptor of -1 means "the caller's own".
type Set struct {
	Net, Mount, UTS int
}

// kinds lists what a Set holds, in the order in which it is entered: the mount
// namespace last, so that the others can still be opened by path.
func (s *Set) kinds() []struct {
	fd   *int
	flag int
	name string
} {
	return []struct {
		fd   *int
		flag int
		name string
	}{
		{&s.Net, unix.CLONE_NEWNET, "net"},
		{&s.UTS, unix.CLONE_NEWUTS, "uts"},
		{&s.Mount, unix.CLONE_NEWNS, "mnt"},
	}
}

// Thread calls fn on an OS thread of its own and throws the thread away.
func Thread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		// A panic must not be lost on this goroutine's stack, and a Goexit in
		// fn (a test's FailNow) must not leave the caller waiting.
		err := errors.New("the function ended its goroutine")
		defer func() { done <- err }()
		err = fn()
	}()
	return <-done
}

// Create makes new namespaces of the kinds in flags (CLONE_NEWNET,
// CLONE_NEWNS, CLONE_NEWUTS), calls setup inside them, and pins them.
// A Set whose setup failed is closed.
func Create(flags int, setup func() error) (*Set, error) {
	s := &Set{Net: -1, Mount: -1, UTS: -1}
	err := Thread(func() error {
		if err := unix.Unshare(flags | unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare namespaces: %w", err)
		}
		for _, k := range s.kinds() {
			if flags&k.flag == 0 {
				continue
			}
			fd, err := open("/proc/thread-self/ns/" + k.name)
			if err != nil {
				return err
			}
			*k.fd = fd
		}
		return setup()
	})
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Open pins namespaces by path; an empty path leaves that kind out.
func Open(netPath, mountPath, utsPath string) (*Set, error) {
	s := &Set{Net: -1, Mount: -1, UTS: -1}
	for i, path := range []string{netPath, utsPath, mountPath} {
		if path == "" {
			continue
		}
		fd, err := open(path)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		*s.kinds()[i].fd = fd
	}
	return s, nil
}

func open(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return fd, nil
}

// Enter moves the calling OS thread into the namespaces. The caller must have
// locked the goroutine to its thread and must never unlock it.
func (s *Set) Enter() error {
	if s.Mount >= 0 {
		// A thread that shares its root and working directory with others may
		// not change its mount namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare file system state: %w", err)
		}
	}
	for _, k := range s.kinds() {
		if *k.fd < 0 {
			continue
		}
		if err := unix.Setns(*k.fd, k.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", k.name, err)
		}
	}
	return nil
}

// Do calls fn inside the namespaces, on a thread that is thrown away. Sockets
// and processes that fn makes belong to the namespaces for good.
func (s *Set) Do(fn func() error) error {
	return Thread(func() error {
		if err := s.Enter(); err != nil {
			return err
		}
		return fn()
	})
}

// Dial connects from inside the network namespace; address holds a literal IP.
func (s *Set) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	var conn net.Conn
	err := s.Do(func() error {
		var err error
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Close lets go of the namespaces.
func (s *Set) Close() error {
	var errs []error
	for _, k := range s.kinds() {
		if *k.fd >= 0 {
			errs = append(errs, unix.Close(*k.fd))
			*k.fd = -1
		}
	}
	return errors.Join(errs...)
}
