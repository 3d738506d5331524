package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/scenarios/faults"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

func (c command) fault() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fault",
		Short: "Break a running lab on purpose, and mend it again",
		Long: `Fault breaks a running lab in one of many known ways, for someone to find out,
or for a check to catch. Whatever is put in can be taken out again, also by
another command than the one that put it in. Where an agent would repair the
damage at once it is paused meanwhile.`,
		Example: `  overlab fault ls
  overlab fault inject FDB-02
  overlab test; overlab diagnose
  overlab fault clear`,
	}
	cmd.AddCommand(c.faultLs(), c.faultInject(), c.faultClear())
	return cmd
}

// faultRow is how a fault is listed.
type faultRow struct {
	ID     string   `json:"id"`
	Title  string   `json:"title"`
	Breaks string   `json:"breaks"`
	Case   string   `json:"case,omitempty"`
	Checks []string `json:"checks"`
	Needs  []string `json:"needs,omitempty"`
}

func (c command) faultLs() *cobra.Command {
	var name string
	var in bool
	cmd := &cobra.Command{
		Use:     "ls",
		Short:   "List the faults, or those that are in a lab",
		Example: "  overlab fault ls\n  overlab fault ls --in",
		Args:    cobra.NoArgs,
	}
	c.nameFlag(cmd, &name)
	cmd.Flags().BoolVar(&in, "in", false, "those that are in the lab")
	out := outputFlag(cmd, "table", "json", "yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !in {
			return c.listFaults(out)
		}
		lab, err := c.open(cmd.Context(), name)
		if err != nil {
			return err
		}
		defer lab.Close()
		j, err := journal(cmd.Context(), lab)
		if err != nil {
			return err
		}
		records, err := j.Records()
		if err != nil {
			return err
		}
		if out.value != "table" {
			return out.encode(c.out, faultsIn{topology.APIVersion, lab.Plan().Name, append([]faults.Record{}, records...)})
		}
		if len(records) == 0 {
			fmt.Fprintf(c.streams.err, "no fault is in lab %s\n", lab.Plan().Name)
		}
		for _, r := range records {
			fmt.Fprintf(c.out, "%-9s %s\n", r.ID, r.Title)
		}
		return nil
	}
	return cmd
}

// faultsIn is what is printed of the faults in a lab.
type faultsIn struct {
	APIVersion string          `json:"apiVersion"`
	Lab        string          `json:"lab"`
	Faults     []faults.Record `json:"faults"`
}

// journal is the lab's record of faults, from inside of it or from outside.
func journal(ctx context.Context, lab topology.Lab) (faults.Journal, error) {
	if netns.Inside() {
		return faults.NewJournal(netns.InsideFaults()), nil
	}
	status, err := lab.Status(ctx)
	if err != nil {
		return faults.Journal{}, err
	}
	return faults.NewJournal(filepath.Join(status.Dir, netns.FaultsFile)), nil
}

func (c command) listFaults(out *format) error {
	all := faults.All()
	if out.value == "table" {
		t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "FAULT\tWHAT IS WRONG")
		for _, f := range all {
			fmt.Fprintf(t, "%s\t%s\n", f.ID, anonymous(f.Title))
		}
		return t.Flush()
	}
	rows := make([]faultRow, len(all))
	for i, f := range all {
		rows[i] = faultRow{ID: f.ID, Title: anonymous(f.Title), Breaks: anonymous(f.Breaks), Case: anonymous(f.Case), Checks: f.Checks}
		for _, n := range f.Needs {
			rows[i].Needs = append(rows[i].Needs, string(n))
		}
	}
	return out.encode(c.out, struct {
		APIVersion string     `json:"apiVersion"`
		Faults     []faultRow `json:"faults"`
	}{topology.APIVersion, rows})
}

// anonymous puts words in the place of the names that only a lab has.
func anonymous(text string) string {
	return strings.NewReplacer("{node}", "a node", "{peer}", "another", "pod {pod}", "a pod", "{pod}", "a pod").Replace(text)
}

func (c command) faultInject() *cobra.Command {
	var name string
	var where faults.Where
	var show bool
	cmd := &cobra.Command{
		Use:   "inject FAULT",
		Short: "Put a fault into a running lab",
		Long: `Inject puts a fault into a running lab. It tells no more than that it did, so
that there is something to find out; --show tells what is wrong and the commands
that made it so.`,
		Example: `  overlab fault inject FDB-02
  overlab fault inject ROUTE-01 --node node-2 --peer master --show`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFaults,
	}
	c.nameFlag(cmd, &name)
	cmd.Flags().StringVar(&where.Node, "node", "", "the node to break (default the first worker with pods)")
	cmd.Flags().StringVar(&where.Peer, "peer", "", "the node that it does not reach then (default the next)")
	cmd.Flags().BoolVar(&show, "show", false, "tell what is wrong, and the commands that made it so")
	out := outputFlag(cmd, "text", "json")
	for _, flag := range []string{"node", "peer"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, c.completeSpaces(&name))
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		f, err := faults.Find(args[0])
		if err != nil {
			return err
		}
		lab, err := c.open(ctx, name)
		if err != nil {
			return err
		}
		defer lab.Close()
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			return c.inside(ctx, outside, []string{netns.Self, "fault", "inject", "--node=" + where.Node, "--peer=" + where.Peer,
				fmt.Sprintf("--show=%t", show), "-o", out.value, "--", f.ID})
		}
		j, err := journal(ctx, lab)
		if err != nil {
			return err
		}
		r, err := faults.Inject(ctx, lab, j, f, where)
		if err != nil {
			return err
		}
		if out.value == "json" {
			return out.encode(c.out, faultsIn{topology.APIVersion, lab.Plan().Name, []faults.Record{r}})
		}
		return writeInjected(c.out, lab, r, show)
	}
	return cmd
}

func writeInjected(w io.Writer, lab topology.Lab, r faults.Record, show bool) error {
	if !show {
		_, err := fmt.Fprintf(w, "a fault is in lab %s; `overlab fault clear` takes it out\n", lab.Plan().Name)
		return err
	}
	fmt.Fprintf(w, "%s: %s\n", r.ID, r.Title)
	var err error
	for _, s := range r.Steps {
		if do := s.Do.String(); do != "" {
			_, err = fmt.Fprintf(w, "  %s\n", do)
		}
	}
	return err
}

func (c command) faultClear() *cobra.Command {
	var name string
	var force bool
	cmd := &cobra.Command{
		Use:   "clear [FAULT…]",
		Short: "Take faults out of a running lab",
		Long: `Clear undoes faults that inject put into a running lab, all of them or those
that are named, whichever command put them in.`,
		Example:           "  overlab fault clear\n  overlab fault clear FDB-02",
		ValidArgsFunction: completeFaults,
	}
	c.nameFlag(cmd, &name)
	cmd.Flags().BoolVar(&force, "force", false, "forget also what cannot be undone")
	out := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		for _, id := range args {
			if _, err := faults.Find(id); err != nil {
				return err
			}
		}
		lab, err := c.open(ctx, name)
		if err != nil {
			return err
		}
		defer lab.Close()
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			argv := []string{netns.Self, "fault", "clear", fmt.Sprintf("--force=%t", force), "-o", out.value, "--"}
			return c.inside(ctx, outside, append(argv, args...))
		}
		j, err := journal(ctx, lab)
		if err != nil {
			return err
		}
		cleared, err := faults.Clear(ctx, lab, j, force, args...)
		return errors.Join(c.writeCleared(lab, cleared, out), err)
	}
	return cmd
}

func (c command) writeCleared(lab topology.Lab, cleared []faults.Record, out *format) error {
	if out.value == "json" {
		return out.encode(c.out, faultsIn{topology.APIVersion, lab.Plan().Name, append([]faults.Record{}, cleared...)})
	}
	if len(cleared) == 0 {
		_, err := fmt.Fprintf(c.streams.err, "no fault was taken out of lab %s\n", lab.Plan().Name)
		return err
	}
	var err error
	for _, r := range cleared {
		_, err = fmt.Fprintf(c.out, "%s is out: %s\n", r.ID, r.Title)
	}
	return err
}

func completeFaults(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	for _, f := range faults.All() {
		ids = append(ids, f.ID+"\t"+anonymous(f.Title))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// tellFaults tells how many faults are in a lab, if any are, and not which.
func (c command) tellFaults(ctx context.Context, lab topology.Lab) error {
	j, err := journal(ctx, lab)
	if err != nil {
		return err
	}
	switch records, err := j.Records(); {
	case err != nil:
		return err
	case len(records) == 1:
		_, err = fmt.Fprintln(c.out, "\na fault is in this lab: `overlab fault ls --in` names it")
		return err
	case len(records) > 1:
		_, err = fmt.Fprintf(c.out, "\n%d faults are in this lab: `overlab fault ls --in` names them\n", len(records))
		return err
	}
	return nil
}
