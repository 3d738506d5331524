package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/harness/capture"
	"github.com/overlab/overlab/harness/capture/filter"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

// captureFlags are the flags of `overlab capture`.
type captureFlags struct {
	name    string
	file    string
	decode  bool
	verbose bool
	count   int
	period  time.Duration
	snap    int
	buffer  int
}

func (c command) capture() *cobra.Command {
	var f captureFlags
	cmd := &cobra.Command{
		Use:   "capture NODE:IFACE… [FILTER]",
		Short: "Capture frames on interfaces of nodes and pods",
		Long: `Capture shows a line for each frame that passes one of the interfaces, the
outer packet and what a tunnel carries, in the order of time; or writes pcapng
with one interface a tap, for Wireshark or tshark to read as it comes. It ends
with Ctrl-C, after -c frames or after --for, and says what was dropped.

FILTER is applied in the kernel. It is made of
` + filter.Words + `.
inner looks at the packet inside of VXLAN.`,
		Example: `  overlab capture node-1:eth0
  overlab capture node-1:cni0 node-1:eth0 node-2:eth0 'icmp or inner icmp'
  overlab capture node-1:eth0 'vxlan and inner host 10.244.2.2' -c 10
  overlab capture node-1:eth0 -w - | wireshark -k -i -
  overlab capture node-1:eth0 udp --for 5s -w udp.pcapng`,
		ValidArgsFunction: c.completeTaps(&f.name),
	}
	c.labFlags(cmd, &f.name)
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "write", "w", "", "write pcapng to this file, - for standard output")
	flags.BoolVar(&f.decode, "decode", false, "with --write, show a line a frame too, on standard error")
	flags.BoolVarP(&f.verbose, "verbose", "v", false, "show every header, as tcpdump -v does")
	flags.IntVarP(&f.count, "count", "c", 0, "end after so many frames")
	flags.DurationVar(&f.period, "for", 0, "end after this time")
	flags.IntVarP(&f.snap, "snaplen", "s", 0, "keep so many bytes of each frame (default all)")
	flags.IntVar(&f.buffer, "buffer", 0, "MiB of the kernel's memory for each interface (default 64, of 256 together)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		taps, expression := splitTaps(args)
		if err := f.check(taps, c.out); err != nil {
			return err
		}
		lab, err := c.open(cmd.Context(), f.name)
		if err != nil {
			return err
		}
		defer lab.Close()
		match, err := filter.Parse(expression, uint16(lab.Plan().Network.Backend.Port))
		if err == nil {
			err = knownTaps(lab.Plan(), taps)
		}
		if err != nil {
			return err
		}
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			return c.captureInside(cmd.Context(), outside, f, args)
		}
		return c.runCapture(cmd.Context(), lab, f, taps, match)
	}
	return cmd
}

// check refuses what makes no sense before the lab is looked for.
func (f *captureFlags) check(taps []string, out io.Writer) error {
	switch {
	case len(taps) == 0:
		return errors.New("capture needs an interface: overlab capture node-1:eth0")
	case f.count < 0 || f.period < 0 || f.snap < 0:
		return fmt.Errorf("--count=%d --for=%v --snaplen=%d: none may be below 0", f.count, f.period, f.snap)
	case f.buffer < 0 || f.buffer > 1024:
		return fmt.Errorf("--buffer=%d: it is in MiB, up to 1024", f.buffer)
	case f.file == "-" && isTerminal(out):
		return errors.New("pcapng is not for a terminal: give a file with --write, or a pipe")
	}
	return nil
}

// ring is the kernel's buffer of each of so many taps: large enough for whole
// frames at the full speed of an overlay on one machine, some GB/s, while this
// program waits for a processor.
func (f *captureFlags) ring(taps int) capture.Ring {
	const block, together, most, least = 256 << 10, 256, 64, 4
	mib := f.buffer
	if mib == 0 {
		mib = max(min(together/taps, most), least)
	}
	return capture.Ring{BlockSize: block, Blocks: mib << 20 / block}
}

// splitTaps takes the words before the filter: those that look like
// NODE:IFACE, as no word that begins a filter does.
func splitTaps(args []string) (taps []string, expression string) {
	var words []string
	for _, a := range args {
		words = append(words, strings.Fields(a)...)
	}
	for i, w := range words {
		node, iface, ok := strings.Cut(w, ":")
		if !ok || node == "" || iface == "" || strings.Contains(iface, ":") {
			return taps, strings.Join(words[i:], " ")
		}
		if !slices.Contains(taps, w) {
			taps = append(taps, w)
		}
	}
	return taps, ""
}

// knownTaps refuses nodes and pods that the lab does not have.
func knownTaps(p *topology.Plan, taps []string) error {
	var names []string
	for _, t := range taps {
		name, _, _ := strings.Cut(t, ":")
		isRouter := slices.ContainsFunc(p.Routers, func(r topology.Router) bool { return r.Name == name })
		if !isRouter && name != "underlay" {
			names = append(names, name)
		}
	}
	return knownSpaces(p, names)
}

// captureInside runs this same command inside the lab. The file, if there is
// one, is outside.
func (c command) captureInside(ctx context.Context, lab topology.Joiner, f captureFlags, args []string) (err error) {
	argv := []string{netns.Self, "capture", fmt.Sprintf("--decode=%t", f.decode), fmt.Sprintf("--verbose=%t", f.verbose),
		fmt.Sprintf("--count=%d", f.count), fmt.Sprintf("--for=%v", f.period), fmt.Sprintf("--snaplen=%d", f.snap), fmt.Sprintf("--buffer=%d", f.buffer)}
	if f.file != "" {
		argv = append(argv, "--write=-")
		if f.file != "-" {
			file, err := os.Create(f.file)
			if err != nil {
				return fmt.Errorf("write the capture: %w", err)
			}
			defer func() { err = errors.Join(err, file.Close()) }()
			c.out = file
		}
	}
	return c.inside(ctx, lab, append(append(argv, "--"), args...))
}

// runCapture captures with the lab's namespaces within reach.
func (c command) runCapture(ctx context.Context, lab topology.Lab, f captureFlags, taps []string, match filter.Filter) (err error) {
	// Who reads a pipe may go first; that is an end like another.
	signal.Ignore(unix.SIGPIPE)
	defer signal.Reset(unix.SIGPIPE)
	if f.period > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.period)
		defer cancel()
	}
	open := &sessions{lab: lab}
	defer func() { err = errors.Join(err, open.close()) }()
	var sources []capture.Source
	for _, t := range taps {
		name, iface, _ := strings.Cut(t, ":")
		source, err := open.source(ctx, name)
		if err != nil {
			return err
		}
		source.Options = capture.Options{Interface: iface, Filter: match, SnapLen: f.snap, Ring: f.ring(len(taps))}
		sources = append(sources, source)
	}
	out, err := c.captureSink(lab.Plan(), f, taps)
	if err != nil {
		return err
	}
	counts, err := capture.Follow(ctx, sources, out)
	err = errors.Join(err, out.end(counts))
	if errors.Is(err, syscall.EPIPE) {
		err = nil
	}
	for _, n := range counts {
		fmt.Fprintf(c.streams.err, "%s: %d frames passed the filter, %d dropped\n", n.Tap, n.Received, n.Dropped)
	}
	return err
}

// source is where a node or pod is captured at.
func (s *sessions) source(ctx context.Context, name string) (capture.Source, error) {
	ns, err := s.lab.Namespace(name)
	if err != nil {
		return capture.Source{}, err
	}
	if _, here := ns.(topology.Local); here {
		return capture.Source{Namespace: ns}, nil
	}
	session, err := s.Session(ctx, name)
	return capture.Source{Session: session}, err
}

// captureSink is where frames go: lines, pcapng, or both.
type captureSink struct {
	f     captureFlags
	lines io.Writer
	file  *os.File
	w     *capture.Writer
	taps  []string
	names io.Writer
	port  uint16
	seen  int
}

func (c command) captureSink(p *topology.Plan, f captureFlags, taps []string) (*captureSink, error) {
	s := &captureSink{f: f, taps: taps, names: c.streams.err, port: uint16(p.Network.Backend.Port)}
	if f.file == "" {
		s.lines = c.out
		return s, nil
	}
	if f.decode {
		s.lines = c.streams.err
	}
	to := c.out
	if f.file != "-" {
		file, err := os.Create(f.file)
		if err != nil {
			return nil, fmt.Errorf("write the capture: %w", err)
		}
		s.file, to = file, file
	}
	var err error
	s.w, err = capture.NewWriter(to, "lab "+p.Name, taps)
	return s, err
}

// Begin implements capture.Sink. It says that the taps are bound; Wireshark shows that it is connected when
// it has the file's beginning.
func (s *captureSink) Begin() error {
	fmt.Fprintf(s.names, "capturing on %s\n", strings.Join(s.taps, ", "))
	return s.Settle()
}

// Settle implements capture.Sink: who looks on sees at once what came.
func (s *captureSink) Settle() error {
	if s.w == nil {
		return nil
	}
	return s.w.Flush()
}

// Frame implements capture.Sink.
func (s *captureSink) Frame(x capture.Frame) error {
	if s.w != nil {
		if err := s.w.Write(x); err != nil {
			return err
		}
	}
	if s.lines != nil {
		if _, err := fmt.Fprintln(s.lines, s.text(&x)); err != nil {
			return err
		}
	}
	if s.seen++; s.f.count > 0 && s.seen >= s.f.count {
		return capture.ErrEnough
	}
	return nil
}

func (s *captureSink) text(x *capture.Frame) string {
	if !s.f.verbose {
		return x.Line(s.port)
	}
	p := x.Decode(s.port)
	return fmt.Sprintf("%s %s %s\n  %s", x.Time.Format("15:04:05.000000"), x.Tap, x.Direction, strings.Join(p.Lines(), "\n  "))
}

// end writes the counts of each tap, and the file's end.
func (s *captureSink) end(counts []capture.Counted) error {
	if s.w == nil {
		return nil
	}
	var errs []error
	for _, n := range counts {
		errs = append(errs, s.w.Stats(n.Tap, n.Stats, n.Began, n.Ended))
	}
	errs = append(errs, s.w.Flush())
	if s.file != nil {
		errs = append(errs, s.file.Close())
	}
	return errors.Join(errs...)
}

// completeTaps offers nodes and pods with the interfaces that the plan gives
// them.
func (c command) completeTaps(name *string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		p, err := c.peek(cmd.Context(), *name)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for i := range p.Nodes {
			n := &p.Nodes[i]
			for _, iface := range n.Interfaces {
				out = append(out, n.Name+":"+iface.Name)
			}
			if len(p.PodsOn(n.Name)) > 0 {
				out = append(out, n.Name+":cni0")
			}
			if b := p.Network.Backend; b.Type == "vxlan" {
				out = append(out, fmt.Sprintf("%s:flannel.%d", n.Name, b.VNI))
			}
		}
		for _, pod := range p.Pods {
			out = append(out, pod.Name+":eth0")
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
