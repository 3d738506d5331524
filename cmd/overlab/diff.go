package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/probe"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

func (c command) diff() *cobra.Command {
	var name string
	var mend, state bool
	cmd := &cobra.Command{
		Use:   "diff [NODE|POD…]",
		Short: "Compare what nodes and pods have with what they ought to have",
		Long: `Diff compares links, addresses, routes, neighbours, forwarding entries, firewall
rules, subnet.env and leases with what the plan asks for, on all nodes and in
all pods or on those named. A line that begins with - is missing, with + is
there and ought not to be, with ~ is wrong; each is written as ip, bridge or the
tool that is named above it would.

It exits with 0 if nothing differs, 1 if something does, and 2 if the lab or the
usage is broken.`,
		Example: `  overlab diff
  overlab diff node-1 pod-3
  overlab diff --mend            with the commands that make it right
  overlab diff -o json
  diff <(overlab diff --state --name a) <(overlab diff --state --name b)`,
		ValidArgsFunction: c.completeAllSpaces(&name),
	}
	c.labFlags(cmd, &name)
	cmd.Flags().BoolVar(&state, "state", false, "show what there is, in words that are the same for every lab of one spec, and compare nothing")
	cmd.Flags().BoolVar(&mend, "mend", false, "show, for each difference, a command that makes it right")
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		lab, err := c.open(cmd.Context(), name)
		if err != nil {
			return err
		}
		defer lab.Close()
		if err := knownSpaces(lab.Plan(), args); err != nil {
			return err
		}
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			argv := []string{netns.Self, "diff", "-o", output.value, fmt.Sprintf("--mend=%t", mend), fmt.Sprintf("--state=%t", state), "--"}
			return c.inside(cmd.Context(), outside, append(argv, args...))
		}
		if state {
			return c.showState(cmd.Context(), lab, args, output)
		}
		return c.runDiff(cmd.Context(), lab, args, mend, output)
	}
	return cmd
}

// inside runs a command of this program inside the lab, where its namespaces
// can be entered, and ends with its exit code.
func (c command) inside(ctx context.Context, lab topology.Joiner, argv []string) error {
	code, err := c.attached(ctx, topology.Process{Argv: argv, Env: os.Environ(), Dir: "/"}, func(p topology.Process) (int, error) {
		p.TTY = false // it needs no terminal of its own, and prints to ours
		return lab.Join(context.WithoutCancel(ctx), p)
	})
	if err == nil && code != 0 {
		err = &exitError{code: code}
	}
	return err
}

func (c command) runDiff(ctx context.Context, lab topology.Lab, spaces []string, mend bool, output *format) error {
	if err := foreign(lab.Plan()); err != nil {
		return err
	}
	open := &sessions{lab: lab}
	d, err := oracle.Differ(ctx, lab, open, spaces...)
	if err = errors.Join(err, open.close()); err != nil {
		return err
	}
	if output.value == "json" {
		err = output.encode(c.out, d)
	} else {
		err = report.Diff(c.out, d, report.DiffOptions{Color: colours(c.out), Mend: mend})
	}
	if err == nil && !d.Same() {
		err = &exitError{code: exitFailed}
	}
	return err
}

// showState prints what the nodes and pods have, an entry a line.
func (c command) showState(ctx context.Context, lab topology.Lab, spaces []string, output *format) error {
	open := &sessions{lab: lab}
	s, err := oracle.States(ctx, lab, open, spaces...)
	if err = errors.Join(err, open.close()); err != nil {
		return err
	}
	if output.value == "json" {
		return output.encode(c.out, s)
	}
	w := bufio.NewWriter(c.out)
	for _, space := range s.Spaces {
		for _, e := range space.Entries {
			fmt.Fprintf(w, "%s: %s\n", space.Name, e)
		}
	}
	for _, u := range s.Unread {
		fmt.Fprintf(c.err, "not read: %s\n", u)
	}
	return w.Flush()
}

// sessions are the probe sessions of one command. It implements
// oracle.Sessions.
type sessions struct {
	lab  topology.Lab
	mu   sync.Mutex
	open []*probe.Session
}

// Session implements oracle.Sessions.
func (s *sessions) Session(ctx context.Context, name string) (*probe.Session, error) {
	ns, err := s.lab.Namespace(name)
	if err != nil {
		return nil, err
	}
	session, err := probe.Enter(ctx, ns)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = append(s.open, session)
	return session, nil
}

func (s *sessions) close() error {
	var errs []error
	for _, session := range s.open {
		errs = append(errs, session.Close())
	}
	return errors.Join(errs...)
}

// knownSpaces refuses names that no node and no pod has.
func knownSpaces(p *topology.Plan, names []string) error {
	all := oracle.All(p)
	var errs []error
	for _, n := range names {
		if !slices.Contains(all, n) {
			errs = append(errs, fmt.Errorf("lab %s has no node or pod %q: it has %s", p.Name, n, strings.Join(all, ", ")))
		}
	}
	return errors.Join(errs...)
}

// completeAllSpaces offers the nodes and pods of the running lab for every
// argument.
func (c command) completeAllSpaces(name *string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	first := c.completeSpaces(name)
	return func(cmd *cobra.Command, given []string, prefix string) ([]string, cobra.ShellCompDirective) {
		all, _ := first(cmd, nil, prefix)
		return slices.DeleteFunc(all, func(s string) bool {
			n, _, _ := strings.Cut(s, "\t")
			return slices.Contains(given, n)
		}), cobra.ShellCompDirectiveNoFileComp
	}
}
