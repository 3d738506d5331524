package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/scenarios/checks"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

// testFlags are the flags of `overlab test`.
type testFlags struct {
	name     string
	skip     []string
	levels   []string
	profiles []string
	evidence string
	list     bool
	scale    float64
	outage   time.Duration
	buffer   int
	frames   int
	// repeat is how many runs to make; with untilFail, at most, 0 without end.
	repeat    int
	untilFail bool
	timeout   time.Duration
	// reports are FORMAT=FILE, explain says to add what helps to understand.
	reports []string
	explain bool
	agent   string
	// exemptions is a file; exempt is what was read of it, for the same command
	// inside the lab.
	exemptions string
	exempt     []string
	output     *format
}

func (c command) test() *cobra.Command {
	var f testFlags
	cmd := &cobra.Command{
		Use:   "test [CHECK…]",
		Short: "Judge a running lab by the conformance catalogue",
		Long: `Test runs the conformance checks against a running lab and prints a verdict for
each, with its evidence: numbers, frames, dumps. CHECK is a regular expression
that an identifier begins with: TTL, WF-0[12]. Without one the core checks run,
and with --level=C,E the extended ones too, which take agents, links and the
store away for seconds.

It exits with 0 if all passed, 1 if a check failed, 2 if the lab or the usage is
broken, and 3 if nothing passed, anything was inconclusive or the run was cut
short. With --repeat it is the worst of the runs, and reports are of that one.`,
		Example: `  overlab test
  overlab test TTL MTU --evidence /tmp/report
  overlab test RS --outage 30s
  overlab test --report html=report.html --report junit=report.xml
  overlab test --repeat 100 --until-fail
  overlab test --profile security --level C,H
  overlab test --profile scale
  overlab test --level C,E --exemptions upstream.yaml
  overlab test -o json > report.json
  overlab test --provider kubernetes --context prod`,
		ValidArgsFunction: completeChecks,
	}
	c.labFlags(cmd, &f.name)
	flags := cmd.Flags()
	flags.StringSliceVar(&f.skip, "skip", nil, "leave out the checks that these regular expressions match")
	flags.StringSliceVar(&f.levels, "level", nil, "only checks of these levels: C core, E extended, H hardening, R strict, I information (default C; of the checks named C and E, and any whose whole identifier is given; all of a profile without core checks)")
	flags.StringSliceVar(&f.profiles, "profile", nil, "only checks of these profiles: "+strings.Join(checks.Profiles(), ", "))
	flags.StringVar(&f.evidence, "evidence", "", "copy the evidence into this folder: report.json, frames.pcapng, dumps")
	flags.BoolVar(&f.list, "list", false, "list the checks that would run, and run none")
	flags.Float64Var(&f.scale, "timeout-scale", 1, "multiply every timeout, for a slow machine")
	flags.DurationVar(&f.outage, "outage", suite.DefaultTimeouts().Outage, "for how long checks take away what the lab must do without, as the store")
	flags.IntVar(&f.buffer, "capture-buffer", 2048, "KiB of the kernel's memory for each capture; one that is full drops frames, and what rests on it is inconclusive")
	flags.IntVar(&f.frames, "frames", 0, "how many captured packets to show (-1: all)")
	flags.StringArrayVar(&f.reports, "report", nil, "write a report, FORMAT=FILE, as html=report.html; may be given again")
	flags.IntVar(&f.repeat, "repeat", 1, "run so many times, and report the worst run; 0 with --until-fail: without end")
	flags.BoolVar(&f.untilFail, "until-fail", false, "end after the first run that is not sound")
	flags.DurationVar(&f.timeout, "timeout", 0, "end after this time, and report what there is (default none)")
	flags.StringVar(&f.agent, "agent", "", "what the report calls the agent, as flanneld@v0.27.0")
	flags.BoolVar(&f.explain, "explain", false, "add to the report of a run that fails a diagnosis, a comparison with the plan and a walk; --report and --evidence do")
	_ = cmd.RegisterFlagCompletionFunc("report", completeReports)
	flags.StringVar(&f.exemptions, "exemptions", "", "a YAML file of checks that the agent is known to fail, each with a reason: reported as exempt")
	flags.StringArrayVar(&f.exempt, "exempt", nil, "")
	_ = flags.MarkHidden("exempt") // it exists: it was made on the line above
	flags.BoolVar(&c.chosen.disruptive, "disruptive", false, "with --provider kubernetes, run the checks too that change the cluster for a while, or forge frames")
	f.output = outputFlag(cmd, report.Formats()...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := suite.New(checks.All())
		if err != nil {
			return err
		}
		if err := f.check(cmd.Flags().Changed("repeat")); err != nil {
			return err
		}
		selection, err := f.selection(s, args)
		if err != nil {
			return err
		}
		if f.list {
			return c.listChecks(s, selection, f.output)
		}
		// Refuse a wrong selection before the lab is looked for.
		if _, err := s.Select(selection); err != nil {
			return err
		}
		if err := f.readExemptions(); err != nil {
			return err
		}
		lab, err := c.open(cmd.Context(), f.name)
		if err != nil {
			return err
		}
		defer lab.Close()
		if outside, ok := lab.(topology.Joiner); ok && !netns.Inside() {
			return c.testInside(cmd.Context(), outside, lab, f, cmd.Flags().Args())
		}
		err = c.runTests(cmd.Context(), s, lab, f, selection)
		var verdict *exitError
		if netns.Inside() || err != nil && !errors.As(err, &verdict) {
			return err // inside, who called this command copies the evidence
		}
		if fetchErr := c.fetchReports(context.WithoutCancel(cmd.Context()), lab, f); fetchErr != nil {
			return fetchErr
		}
		return err
	}
	return cmd
}

// readExemptions reads the file of exemptions, if there is one.
func (f *testFlags) readExemptions() error {
	if f.exemptions == "" {
		return nil
	}
	text, err := os.ReadFile(f.exemptions)
	if err != nil {
		return fmt.Errorf("read the exemptions: %w", err)
	}
	list, err := suite.ParseExemptions(f.exemptions, text, checks.All())
	if err != nil {
		return err
	}
	for _, e := range list {
		f.exempt = append(f.exempt, e.Check+"="+e.Reason)
	}
	return nil
}

// selection is what the flags choose. Where they say nothing of levels it is
// every level of the checks that are named, and else the core checks; of a
// profile that has none, those that it has.
func (f *testFlags) selection(all *suite.Suite, only []string) (suite.Selection, error) {
	s := suite.Selection{Only: only, Skip: f.skip, Profiles: f.profiles}
	for _, l := range f.levels {
		s.Levels = append(s.Levels, suite.Level(l))
	}
	s.Usual = []suite.Level{suite.Core}
	if len(only) > 0 {
		s.Usual = append(s.Usual, suite.Extended)
		return s, nil
	}
	for _, p := range f.profiles {
		checks, err := all.Select(suite.Selection{Profiles: []string{p}})
		if err != nil {
			return s, err
		}
		var levels []suite.Level
		for _, k := range checks {
			levels = append(levels, k.Level)
		}
		if !slices.Contains(levels, suite.Core) {
			s.Usual = append(s.Usual, levels...)
		}
	}
	return s, nil
}

// testInside runs this same command inside the lab, where its namespaces can
// be entered, and fetches the evidence that it leaves in the state folder.
func (c command) testInside(ctx context.Context, lab topology.Joiner, status topology.Lab, f testFlags, checks []string) error {
	argv := []string{netns.Self, "test", "-o", f.output.value,
		fmt.Sprintf("--timeout-scale=%g", f.scale), fmt.Sprintf("--capture-buffer=%d", f.buffer), fmt.Sprintf("--frames=%d", f.frames), fmt.Sprintf("--outage=%v", f.outage),
		fmt.Sprintf("--repeat=%d", f.repeat), fmt.Sprintf("--until-fail=%t", f.untilFail), fmt.Sprintf("--timeout=%v", f.timeout),
		fmt.Sprintf("--explain=%t", f.explained()), "--agent=" + f.agent}
	for name, values := range map[string][]string{"skip": f.skip, "level": f.levels, "profile": f.profiles} {
		for _, v := range values {
			argv = append(argv, "--"+name+"="+v)
		}
	}
	for _, e := range f.exempt {
		argv = append(argv, "--exempt="+e)
	}
	argv = append(append(argv, "--"), checks...)
	code, err := c.attached(ctx, topology.Process{Argv: argv, Env: os.Environ(), Dir: "/"}, func(p topology.Process) (int, error) {
		p.TTY = false // it needs no terminal of its own, and prints to ours
		return lab.Join(context.WithoutCancel(ctx), p)
	})
	if err != nil {
		return err
	}
	if code != exitBroken {
		// An interrupted run has results too.
		if err := c.fetchReports(context.WithoutCancel(ctx), status, f); err != nil {
			return err
		}
	}
	if code != 0 {
		return &exitError{code: code}
	}
	return nil
}

// copyEvidence copies a report's folder into dir, over an older report there.
func copyEvidence(dir, from string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the evidence: %w", err)
	}
	return filepath.WalkDir(from, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("copy the evidence: %w", err)
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return fmt.Errorf("copy the evidence: %w", err)
		}
		to := filepath.Join(dir, name)
		if entry.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(to, b, 0o644)
		}
		if err != nil {
			return fmt.Errorf("copy the evidence: %w", err)
		}
		return nil
	})
}

// colours reports whether w wants colours.
func colours(w io.Writer) bool {
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func (c command) listChecks(s *suite.Suite, selection suite.Selection, out *format) error {
	list, err := s.Select(selection)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return errors.New("no check is chosen")
	}
	if out.value == "json" {
		type row struct {
			ID       string   `json:"id"`
			Level    string   `json:"level"`
			Title    string   `json:"title"`
			Source   string   `json:"source"`
			Profiles []string `json:"profiles"`
			Disturbs bool     `json:"disturbs,omitempty"`
		}
		rows := make([]row, len(list))
		for i, k := range list {
			rows[i] = row{k.ID, string(k.Level), k.Title, k.Source, k.Profiles, k.Disturbs}
		}
		return out.encode(c.out, struct {
			APIVersion string `json:"apiVersion"`
			Checks     []row  `json:"checks"`
		}{topology.APIVersion, rows})
	}
	t := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CHECK\tLEVEL\tWHAT IS TRUE WHEN IT PASSES")
	for _, k := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\n", k.ID, k.Level, k.Title)
	}
	return t.Flush()
}

func completeChecks(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var ids []string
	for _, k := range checks.All() {
		ids = append(ids, k.ID+"\t"+k.Title)
	}
	return ids, cobra.ShellCompDirectiveNoFileComp
}

// progress is the line that tells on a terminal what is being checked.
type progress struct {
	w           io.Writer
	done, total int
	failed      int
	since       time.Time
}

func newProgress(w io.Writer, total int) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w, total: total, since: time.Now()}
}

func (p *progress) started(k suite.Check) { p.say(k.ID + "  " + k.Title) }

func (p *progress) ended(r suite.Result) {
	p.done++
	if r.Verdict == suite.Fail {
		p.failed++
	}
}

// say shows one line, which must not wrap: it could not be taken back then.
func (p *progress) say(what string) {
	if p.w == nil {
		return
	}
	line := fmt.Sprintf("%d/%d", p.done, p.total)
	if p.failed > 0 {
		line += fmt.Sprintf(", %d failed", p.failed)
	}
	const width = 79
	line += "  " + what
	fmt.Fprintf(p.w, "\r\x1b[K%s", line[:min(len(line), width)])
}

// explains says that what was found is being explained, if there is need.
func (p *progress) explains(found []suite.Result) {
	failed := slices.ContainsFunc(found, func(r suite.Result) bool { return r.Verdict == suite.Fail })
	if failed {
		p.say("looking for the cause of what failed")
	}
}

func (p *progress) clear() {
	if p.w != nil {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
