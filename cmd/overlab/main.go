// Command overlab builds Kubernetes overlay networks on one machine, shows
// every hop of a packet, and judges whether the overlay does what it must.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/overlab/overlab/internal/podtools"
	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
	"github.com/overlab/overlab/topology/netns/standin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	code := Run(ctx, streams{os.Stdin, os.Stdout, os.Stderr}, os.Args)
	stop()
	os.Exit(code)
}

// streams are the command's standard streams: data goes to out, progress and
// errors to err.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// Exit codes, as CI reads them.
const (
	exitPassed       = 0
	exitFailed       = 1 // a check failed
	exitBroken       = 2 // the lab or the usage is broken
	exitInconclusive = 3 // nothing ran, or all was inconclusive
)

// exitError ends the command with a code of its own. An empty message prints
// nothing: the command has said what there is to say.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// Run runs the command line args, whose first element is the name that the
// program was called by, and returns the exit code.
func Run(ctx context.Context, s streams, args []string) int {
	if standin.Handles(args[0]) {
		return standin.Main(args)
	}
	if podtools.Handles(args[0]) {
		return podtools.Main(args)
	}
	root := newRoot(s)
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitPassed
	}
	var exit *exitError
	if errors.As(err, &exit) {
		if exit.err != nil {
			printError(s.err, exit.err)
		}
		return exit.code
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(s.err, "overlab: interrupted; what this command had made is undone")
		return exitBroken
	}
	printError(s.err, err)
	return exitBroken
}

// printError prints each line of the error with the program's name in front of
// the first; spec errors begin with their file, for editors to jump to.
func printError(w io.Writer, err error) {
	var spec topology.Errors
	if errors.As(err, &spec) {
		fmt.Fprintln(w, err)
		return
	}
	fmt.Fprintf(w, "overlab: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n         "))
}

// helpWidth is how many columns the description of flags takes.
const helpWidth = 80

// command is what every command's constructor gets.
type command struct {
	streams
	provider providers
	// chosen is where the lab is looked for, as flags say.
	chosen *chosen
	// images is where labs in namespaces take images from that they name by
	// reference.
	images *netns.ImageStore
}

func newRoot(s streams) *cobra.Command {
	local := &netns.Provider{Supervisor: []string{"/proc/self/exe", "supervise"}, Programs: programs()}
	c := command{streams: s, provider: newProviders(local), chosen: new(chosen), images: &local.ImageStore}
	root := &cobra.Command{
		Use:   "overlab",
		Short: "Kubernetes overlay networks on one machine: build them, see every packet, judge them",
		Long: `overlab builds Kubernetes overlay networks on one machine in a fraction of a
second, shows what is in them, and judges whether they do what they must.

Every flag can also be set by an environment variable: --name by OVERLAB_NAME.`,
		Example: `  overlab up                     a master and two workers on a VXLAN overlay
  overlab test                   judge it
  overlab walk pod-3 pod-5       follow one packet, hop by hop
  overlab shell node-1           look around on a node
  overlab down`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags())
		},
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nsee `%s --help`", err, cmd.CommandPath())
	})
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "FlagUsages", fmt.Sprintf("FlagUsagesWrapped %d", helpWidth)))
	root.CompletionOptions.HiddenDefaultCmd = false
	root.AddCommand(
		c.up(), c.down(), c.ls(), c.inspect(), c.logs(), c.exec(), c.shell(), c.test(), c.walk(), c.diff(),
		c.fault(), c.diagnose(), c.verify(), c.capture(),
		c.validate(), c.plan(), c.schema(), c.doctor(), c.version(), c.image(),
		c.supervise(), c.probeFeatures(), c.probe(), c.keeper(),
	)
	return root
}

// programs are the project's other programs, as a lab has them in its PATH.
// Inside a lab the command is the supervisor's own, and needs none.
func programs() map[string]string {
	found := map[string]string{}
	for _, name := range []string{"overlabd", "overlab-cni"} {
		if path := netns.Beside(name); path != "" {
			found[name] = path
		}
	}
	if self, err := os.Executable(); err == nil {
		for _, name := range append(standin.Names(), "overlab") {
			found[name] = self
		}
	}
	return found
}

// fromEnvironment sets each flag that the command line leaves out from its
// OVERLAB_ variable.
func fromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := "OVERLAB_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if f.Changed || !ok || f.Name == "help" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("environment variable %s=%s: %w", name, value, err))
		}
	})
	return errors.Join(errs...)
}
