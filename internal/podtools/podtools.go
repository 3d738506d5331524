// Package podtools is what a pod has of its own image where this machine has
// no busybox: a program that waits, and the few commands by which an overlay is
// looked at, all of them the overlab program under another name.
package podtools

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// tool runs one command with its arguments until ctx ends.
type tool func(ctx context.Context, out io.Writer, args []string) error

// tools are the commands by the names that podimage.Tools has.
var tools = map[string]tool{"ip": ip, "pause": pause, "ping": ping, "sleep": sleep}

// Handles reports whether a program that was called by the name argv0 ought to
// call Main.
func Handles(argv0 string) bool {
	_, ok := tools[filepath.Base(argv0)]
	return ok
}

// Main runs a command line, whose first element is the name that it was called
// by, and returns its exit code. SIGINT and SIGTERM end it.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	name := filepath.Base(args[0])
	if err := tools[name](ctx, os.Stdout, args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// sleep waits for a time as Go writes it, a number of seconds, or infinity.
func sleep(ctx context.Context, _ io.Writer, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("write how long: a number of seconds, 1m30s, or infinity")
	}
	if args[0] == "infinity" {
		<-ctx.Done()
		return nil
	}
	d, err := time.ParseDuration(args[0])
	if err != nil {
		if d, err = time.ParseDuration(args[0] + "s"); err != nil {
			return fmt.Errorf("%q is no time: write a number of seconds, 1m30s, or infinity", args[0])
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return nil
}

// pause is a pod's process 1: it says what the pod is, and waits for its end,
// taking in the orphans that commands in the pod leave.
func pause(ctx context.Context, out io.Writer, _ []string) error {
	addresses, err := globalAddresses("eth0")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "pod %s has%s\n", os.Getenv("HOSTNAME"), addresses)
	orphans := make(chan os.Signal, 1)
	signal.Notify(orphans, unix.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-orphans:
			for {
				if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != nil || pid <= 0 {
					break
				}
			}
		}
	}
}
