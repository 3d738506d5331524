package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

func (c command) exec() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "exec NODE|POD -- COMMAND [ARG…]",
		Short: "Run a command on a node or in a pod",
		Long: `Exec runs a command on a node, in a pod, on a router, or in the namespace of
the underlay's bridges (underlay). It passes standard input, signals and the
exit code; on a terminal, the command has one of its own.`,
		Example: `  overlab exec node-1 -- ip route
  overlab exec pod-3 -- ping -c3 10.244.2.2
  overlab exec node-1 -- cat /run/flannel/subnet.env`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 2 {
				return errors.New("exec needs a node or pod and a command: overlab exec node-1 -- ip route")
			}
			return nil
		},
		ValidArgsFunction: c.completeSpaces(&name),
	}
	cmd.Flags().SetInterspersed(false)
	c.labFlags(cmd, &name)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		argv := args[1:]
		if argv[0] == "--" {
			argv = argv[1:]
		}
		if len(argv) == 0 {
			return fmt.Errorf("exec needs a command: overlab exec %s -- ip route", args[0])
		}
		return c.runOn(cmd, name, args[0], topology.Process{Argv: argv, Env: os.Environ(), Dir: "/"})
	}
	return cmd
}

func (c command) shell() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "shell NODE|POD",
		Short: "Open a shell on a node or in a pod",
		Long: `Shell opens a shell on a node or in a pod, with a prompt named after it. The
articles' commands work in it: ip netns, bridge fdb, ip neigh, tcpdump, and
stand-ins for kubectl and docker that answer from the lab.`,
		Example: "  overlab shell node-1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("shell needs one node or pod: overlab shell node-1")
			}
			return nil
		},
		ValidArgsFunction: c.completeSpaces(&name),
	}
	c.labFlags(cmd, &name)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.runOn(cmd, name, args[0], topology.Process{Env: os.Environ(), Dir: "/"})
	}
	return cmd
}

// withShell fills in the command of a shell.
func withShell(ns topology.Namespace, p topology.Process) topology.Process {
	if s, ok := ns.(topology.Sheller); ok {
		own := s.Shell()
		p.Argv, p.Env = own.Argv, append(p.Env, own.Env...)
		return p
	}
	p.Argv = netns.ShellCommand()
	return p
}

// runOn runs a process with this command's streams and ends with its exit
// code; 126 or 127 where it could not be started, as in a shell. Without a
// command it is the interactive shell of the place.
func (c command) runOn(cmd *cobra.Command, name, space string, p topology.Process) error {
	lab, err := c.open(cmd.Context(), name)
	if err != nil {
		return err
	}
	defer lab.Close()
	ns, err := lab.Namespace(space)
	if err != nil {
		return err
	}
	if len(p.Argv) == 0 {
		p = withShell(ns, p)
	}
	code, err := c.attached(cmd.Context(), p, func(p topology.Process) (int, error) {
		// The process gets the signals that would end this command, and ends
		// it by ending.
		return ns.Run(context.WithoutCancel(cmd.Context()), p)
	})
	if unstarted := new(topology.StartError); errors.As(err, &unstarted) {
		return &exitError{code: unstarted.Code, err: err}
	}
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// attached runs a process with this command's streams, terminal and signals.
func (c command) attached(ctx context.Context, p topology.Process, run func(topology.Process) (int, error)) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	if err := ctx.Err(); err != nil {
		return 0, err // a signal came before there was a process to pass it to
	}
	p.Stdin, p.Stdout, p.Stderr, p.Signals = c.in, c.out, c.streams.err, signals
	p.TTY = isTerminal(c.in) && isTerminal(c.out)
	return run(p)
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
