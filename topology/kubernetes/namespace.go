package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/overlab/overlab/topology"
)

// namespace is the network of a node or pod, by way of a container that is in
// it: processes run there over the API, wherever the machine is.
type namespace struct {
	*client
	name           string // the plan's
	space, podName string
}

var (
	_ topology.Namespace = (*namespace)(nil)
	_ topology.Sheller   = (*namespace)(nil)
)

// Name implements topology.Namespace.
func (n *namespace) Name() string { return n.name }

// Run implements topology.Namespace. The process has the container's
// environment and folder, not the caller's: the API passes on neither. Without a
// terminal it gets no signals; one that ends this ends the stream, and with that
// the process's input.
func (n *namespace) Run(ctx context.Context, p topology.Process) (int, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	o := remotecommand.StreamOptions{Stdin: p.Stdin, Stdout: p.Stdout, Stderr: p.Stderr, Tty: p.TTY}
	if p.TTY {
		o.Stderr = nil // a terminal has one output
		sizes, restore, err := raw(p.Stdin)
		if err != nil {
			return 0, err
		}
		defer restore()
		o.TerminalSizeQueue = sizes
		defer sizes.close()
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	executor, err := n.executor(p.Argv, o)
	if err != nil {
		return 0, fmt.Errorf("run %s in %s: %w", p.Argv[0], n.name, err)
	}
	streamed := make(chan error, 1)
	go func() { streamed <- executor.StreamWithContext(ctx, o) }()
	for {
		select {
		case s := <-p.Signals:
			if number, ok := s.(unix.Signal); ok && (number == unix.SIGTERM || number == unix.SIGHUP || !p.TTY && number == unix.SIGINT) {
				end(errSignalled)
				<-streamed
				return 128 + int(number), nil
			}
		case err := <-streamed:
			return n.ended(ctx, p, err)
		}
	}
}

var errSignalled = errors.New("a signal has ended it")

// executor speaks WebSocket, and SPDY with a server that is older than that
// (Kubernetes 1.30).
func (n *namespace) executor(argv []string, o remotecommand.StreamOptions) (remotecommand.Executor, error) {
	at := n.execution(n.space, n.podName, &corev1.PodExecOptions{
		Container: container, Command: argv,
		Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil, TTY: o.Tty,
	})
	socket, err := remotecommand.NewWebSocketExecutor(n.config, "GET", at.String())
	if err != nil {
		return nil, err
	}
	spdy, err := remotecommand.NewSPDYExecutor(n.config, "POST", at)
	if err != nil {
		return nil, err
	}
	return remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
}

// ended makes an exit code of how a stream ended.
func (n *namespace) ended(ctx context.Context, p topology.Process, err error) (int, error) {
	var exit exec.CodeExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.Code, nil
	case ctx.Err() != nil:
		return 0, fmt.Errorf("run %s in %s: %w", p.Argv[0], n.name, context.Cause(ctx))
	}
	for said, code := range map[string]int{"executable file not found": 127, "no such file or directory": 127, "permission denied": 126} {
		if strings.Contains(err.Error(), said) {
			return 0, &topology.StartError{Code: code, Reason: fmt.Sprintf("the probe's image has no program %s that runs (--probe-image names another image)", p.Argv[0])}
		}
	}
	return 0, fmt.Errorf("run %s in %s: %w", p.Argv[0], n.name, err)
}

// Shell implements topology.Sheller: what an image has, it has as sh.
func (n *namespace) Shell() topology.Process { return topology.Process{Argv: []string{"sh"}} }

// raw hands the terminal over to the process at the other end, until restore.
func raw(stdin io.Reader) (*sizes, func(), error) {
	f, ok := stdin.(*os.File)
	if !ok {
		return nil, nil, errors.New("there is no terminal to hand over")
	}
	before, err := term.MakeRaw(int(f.Fd()))
	if err != nil {
		return nil, nil, fmt.Errorf("hand the terminal over: %w", err)
	}
	return newSizes(f), func() { _ = term.Restore(int(f.Fd()), before) }, nil
}
