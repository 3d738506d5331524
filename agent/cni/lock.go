package cni

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// lockNode serialises the plugin's work on one node: the kernel's own lock
// lets one at a time through anyway, and it makes undoing a failed ADD exact.
// It locks the directory of the records, so that no further file is needed.
func lockNode(ctx context.Context, dir string) (unlock func(), err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	release := func() { _ = unix.Close(fd) } // closing unlocks
	locked := make(chan error, 1)
	// The kernel wakes one waiter at a time. A hundred that look again and again
	// leave no processor to the one that has the lock.
	go func() {
		err := unix.Flock(fd, unix.LOCK_EX)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(fd, unix.LOCK_EX)
		}
		locked <- err
	}()
	select {
	case err = <-locked:
	case <-ctx.Done():
		go func() {
			<-locked // it is given back as soon as it comes
			release()
		}()
		return nil, fmt.Errorf("wait for the lock on %s: %w", dir, context.Cause(ctx))
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return release, nil
}
