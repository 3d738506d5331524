// Package daemon is the agent as a program: flanneld's flags in, exit code
// out. It is a library so that tests can call what the command runs.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/overlab/overlab/agent"
	"github.com/overlab/overlab/agent/forwarder"
	"github.com/overlab/overlab/agent/lease"
	"github.com/overlab/overlab/agent/metrics"
)

// resync is how often the agent looks at the whole kernel and at subnet.env,
// for what no notification told of.
const resync = 30 * time.Second

// Run runs the agent until ctx ends. args are without the program's name. It
// returns the exit code: 0 for a regular end, 1 for a failure, 2 for wrong
// usage; of a dry run, as diff(1) has them, 0 where nothing is to change, 1
// where something is, and 2 for trouble.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer, environ []string) int {
	if len(args) > 0 && args[0] == forwarder.Command {
		return forward(ctx, args[1:], stderr, environ)
	}
	s, err := parse(args, environ, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "overlabd:", err)
		return 2
	case s.version:
		fmt.Fprintln(stdout, "overlabd", version())
		return 0
	}
	log := newLog(s, stderr)
	switch {
	case s.cleanup:
		err = agent.Cleanup(ctx, s.subnetFile, s.ownFiles(), log)
	case s.dryRun:
		return dryRun(ctx, s, stdout, log)
	default:
		err = run(ctx, s, log)
	}
	if err != nil {
		log.Error("overlabd ends", "err", err)
		return 1
	}
	return 0
}

// forward runs a forwarder, which an agent has started.
func forward(ctx context.Context, args []string, stderr io.Writer, environ []string) int {
	s := &settings{}
	_ = fromEnvironment(s.flagSet(), environ) // of what is wrong there, the agent has told
	log := newLog(s, stderr)
	if err := forwarder.Main(ctx, args, engines(), log); err != nil {
		log.Error("the forwarder ends", "err", err)
		return 1
	}
	return 0
}

func newLog(s *settings, stderr io.Writer) *slog.Logger {
	o := slog.HandlerOptions{Level: slog.LevelInfo}
	if s.verbosity > 0 {
		o.Level = slog.LevelDebug
	}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(stderr, &o))
	}
	return slog.New(slog.NewTextHandler(stderr, &o))
}

// options are the agent's, as the flags have them.
func options(s *settings, store lease.Store, log *slog.Logger) agent.Options {
	forwarders := forwarder.Launcher{Folder: filepath.Dir(s.subnetFile), Log: log, Env: []string{
		envPrefix + "LOG_FORMAT=" + s.logFormat, fmt.Sprintf("%sV=%d", envPrefix, s.verbosity),
	}}
	return agent.Options{
		Store: store, Backends: backends(forwarders, s.wireguardKey, s.harden),
		Underlay: s.underlay(), SubnetFile: s.subnetFile,
		Masquerade: s.masquerade, Forward: s.forward, PredictablePorts: s.predictable, Blackhole: s.blackhole, Harden: s.harden,
		FirewallResync: s.firewallResync(), RenewMargin: s.margin(), Resync: resync, Log: log,
	}
}

// dryRun prints what the agent would change, and returns the exit code.
func dryRun(ctx context.Context, s *settings, stdout io.Writer, log *slog.Logger) int {
	store, err := openStore(s, log)
	if err != nil {
		log.Error("no dry run", "err", err)
		return 2
	}
	defer store.Close() // nothing was written
	differs, err := agent.New(options(s, store, log)).DryRun(ctx, stdout)
	switch {
	case err != nil:
		log.Error("no dry run", "err", err)
		return 2
	case differs:
		return 1
	}
	return 0
}

func run(ctx context.Context, s *settings, log *slog.Logger) error {
	store, err := openStore(s, log)
	if err != nil {
		return err
	}
	defer store.Close() // the leases are to stay
	o := options(s, store, log)
	o.Ready = func() {
		log.Info("ready")
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			log.Warn("could not tell the service manager", "err", err)
		}
	}
	var shown *metrics.Metrics
	if s.healthzPort != 0 {
		shown = metrics.New(version())
		o.Observer = shown
	}
	a := agent.New(o)
	if shown != nil {
		shown.Watch(a.Topics)
		stop, err := serveHealth(s.healthzIP, s.healthzPort, a.Check, shown.Handler(), log)
		if err != nil {
			return err
		}
		defer stop()
	}
	return a.Run(ctx)
}

// version is that of the module, as the build recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(unknown)"
	}
	return info.Main.Version
}
