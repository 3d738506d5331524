package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/harness/walk/render"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

// walkFlags are the flags of `overlab walk`.
type walkFlags struct {
	name    string
	file    string
	options walk.Options
	tcp     int
	udp     int
	output  *format
}

func (c command) walk() *cobra.Command {
	var f walkFlags
	cmd := &cobra.Command{
		Use:   "walk FROM TO",
		Short: "Follow one packet from pod to pod, hop by hop",
		Long: `Walk predicts the way of a packet from the dumped state of every namespace,
sends one that is marked, captures it at every interface, and shows what was
predicted and what was seen: the route, the neighbour and the forwarding entry
that decide at each step, the headers, and the time since the step before.
Where it goes wrong first, it names the cause and the command that mends it.

FROM and TO are pods or nodes, by name or address; that of IPv6 walks over IPv6.
It exits with 0 if the packet and its answer went the predicted way, 1 if not, 2
if the lab or the usage is broken, and 3 if the capture lost frames, so that
nothing can be said.`,
		Example: `  overlab walk pod-3 pod-5
  overlab walk node-1 pod-5 --size 1451 --df
  overlab walk pod-3 pod-5 --tcp 80
  overlab walk pod-3 pod-5 -o html -w walk.html
  overlab walk pod-3 pod-5 -o pcapng | wireshark -k -i -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return errors.New("walk needs two nodes or pods: overlab walk pod-3 pod-5")
			}
			return nil
		},
		ValidArgsFunction: c.completeEnds(&f.name),
	}
	c.labFlags(cmd, &f.name)
	flags := cmd.Flags()
	flags.IntVar(&f.options.Size, "size", 84, "length of the IP packet in bytes, at least 44")
	flags.IntVar(&f.tcp, "tcp", 0, "send a TCP SYN to this port, not an ICMP echo request")
	flags.IntVar(&f.udp, "udp", 0, "send a UDP datagram to this port")
	cmd.MarkFlagsMutuallyExclusive("tcp", "udp")
	cmd.MarkFlagsMutuallyExclusive("tcp", "size")
	flags.BoolVarP(&f.options.IPv6, "ipv6", "6", false, "walk over IPv6, in a lab of both families")
	flags.IntVar(&f.options.TTL, "ttl", 0, "TTL of the packet (default the kernel's, 64)")
	flags.BoolVar(&f.options.DF, "df", false, "set the don't-fragment bit")
	flags.IntVar(&f.options.Count, "count", 1, "send so many packets; the steps show the first")
	flags.DurationVar(&f.options.Wait, "wait", 0, "how long to wait for an answer (default 1s)")
	flags.StringVarP(&f.file, "write", "w", "", "write to this file, not to standard output")
	f.output = outputFlag(cmd, render.Forms()...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.options.Count < 1 || f.options.Wait < 0 {
			return fmt.Errorf("--count=%d --wait=%v: at least one packet, and no time below 0", f.options.Count, f.options.Wait)
		}
		if err := f.port(cmd); err != nil {
			return err
		}
		if f.output.value == "pcapng" && f.file == "" && isTerminal(c.out) {
			return errors.New("pcapng is not for a terminal: give a file with --write, or a pipe")
		}
		lab, err := c.open(cmd.Context(), f.name)
		if err != nil {
			return err
		}
		defer lab.Close()
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			return c.walkInside(cmd.Context(), outside, f, args)
		}
		return c.runWalk(cmd.Context(), lab, f, args[0], args[1])
	}
	return cmd
}

// port takes the port of --tcp or --udp for that of the packet.
func (f *walkFlags) port(cmd *cobra.Command) error {
	for protocol, port := range map[string]int{"tcp": f.tcp, "udp": f.udp} {
		if !cmd.Flags().Changed(protocol) {
			continue
		}
		if port < 1 || port > 65535 {
			return fmt.Errorf("--%s=%d: a port is 1 to 65535", protocol, port)
		}
		if f.options.Count > 1 {
			return fmt.Errorf("--%s with --count=%d: one packet is sent, and its answer is followed", protocol, f.options.Count)
		}
		f.options.Protocol, f.options.Port = protocol, port
	}
	return nil
}

// walkInside runs this same command inside the lab. The file, if there is one,
// is outside.
func (c command) walkInside(ctx context.Context, lab topology.Joiner, f walkFlags, ends []string) (err error) {
	if f.file != "" {
		file, err := os.Create(f.file)
		if err != nil {
			return fmt.Errorf("write the walk: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		c.out = file
	}
	o := f.options
	argv := []string{netns.Self, "walk", "-o", f.output.value, fmt.Sprintf("--ttl=%d", o.TTL),
		fmt.Sprintf("--df=%v", o.DF), fmt.Sprintf("--count=%d", o.Count), fmt.Sprintf("--wait=%v", o.Wait), fmt.Sprintf("--ipv6=%v", o.IPv6)}
	if o.Port != 0 {
		argv = append(argv, fmt.Sprintf("--%s=%d", o.Protocol, o.Port))
	}
	if o.Protocol != "tcp" {
		argv = append(argv, fmt.Sprintf("--size=%d", o.Size))
	}
	argv = append(append(argv, "--"), ends...)
	code, err := c.attached(ctx, topology.Process{Argv: argv, Env: os.Environ(), Dir: "/"}, func(p topology.Process) (int, error) {
		p.TTY = false // it needs no terminal of its own, and prints to ours
		return lab.Join(context.WithoutCancel(ctx), p)
	})
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// runWalk walks with the lab's namespaces within reach.
func (c command) runWalk(ctx context.Context, lab topology.Lab, f walkFlags, from, to string) error {
	r, err := walk.Run(ctx, lab, from, to, f.options)
	if err != nil {
		return err
	}
	if err := c.writeWalk(r, f); err != nil {
		return err
	}
	switch r.Verdict {
	case walk.Diverged:
		return &exitError{code: exitFailed}
	case walk.Inconclusive:
		return &exitError{code: exitInconclusive}
	}
	return nil
}

func (c command) writeWalk(r *walk.Report, f walkFlags) (err error) {
	var w io.Writer = c.out
	if f.file != "" {
		file, err := os.Create(f.file)
		if err != nil {
			return fmt.Errorf("write the walk: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		w = file
	}
	return render.Write(w, f.output.value, r, render.Options{Color: colours(w)})
}

// completeEnds offers nodes and pods for both ends.
func (c command) completeEnds(name *string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	spaces := c.completeSpaces(name)
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return spaces(cmd, nil, word)
	}
}
