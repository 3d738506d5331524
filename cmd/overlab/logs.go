package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/topology"
)

// The names by which the logs of the lab's own processes are asked for.
const (
	supervisorLog = "supervisor"
	containerdLog = "containerd"
)

// logPause is the pause between two looks at a log that is followed.
const logPause = 100 * time.Millisecond

func (c command) logs() *cobra.Command {
	var name string
	var follow bool
	tail := -1
	cmd := &cobra.Command{
		Use:   "logs [NODE|POD…]",
		Short: "Show what the nodes' agents, or containers, printed",
		Long: `Logs shows what the agents printed, on either of their streams and over all
their restarts; without NODE, those of all nodes, each line with its node in
front. A pod that is a container has what its program printed. NODE may also be
supervisor, the lab's own process, or containerd, where the lab has one.`,
		Example:           "  overlab logs node-1 -f\n  overlab logs --tail 5",
		ValidArgsFunction: c.completeSpaces(&name),
	}
	c.nameFlag(cmd, &name)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is printed from now on, until the lab ends")
	cmd.Flags().IntVar(&tail, "tail", tail, "how many lines of each there are from before; -1 for all")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		lab, err := c.open(cmd.Context(), name)
		if err != nil {
			return err
		}
		defer lab.Close()
		status, err := lab.Status(cmd.Context())
		if err != nil {
			return err
		}
		logs, err := openLogs(status, args)
		if err != nil {
			return err
		}
		defer closeLogs(logs)
		return showLogs(cmd.Context(), c.out, logs, tail, follow)
	}
	return cmd
}

// logFile is one agent's log.
type logFile struct {
	*os.File
	// prefix is put before each line.
	prefix string
	rest   string // the beginning of a line that is not finished
	// format is topology.LogCRI, or empty; part is the beginning of a line that
	// goes on in the next.
	format, part string
}

// openLogs opens those that are asked for, or all agents'.
func openLogs(s topology.Status, nodes []string) ([]*logFile, error) {
	paths, formats, width := map[string]string{supervisorLog: filepath.Join(s.Dir, "supervisor.log")}, map[string]string{}, 0
	var all []string
	for _, a := range s.Agents {
		paths[a.Node], formats[a.Node] = a.Log, a.LogFormat
		all = append(all, a.Node)
	}
	if len(nodes) == 0 {
		nodes = all
	}
	for _, c := range s.Containers {
		paths[c.Pod] = c.Log
		paths[containerdLog] = filepath.Join(filepath.Dir(c.Log), containerdLog+".log")
	}
	for _, n := range nodes {
		if paths[n] == "" {
			return nil, fmt.Errorf("lab %s has no log of %s; it has those of %s", s.Name, n, strings.Join(append(all, supervisorLog), ", "))
		}
		width = max(width, len(n))
	}
	var logs []*logFile
	for _, n := range nodes {
		f, err := os.Open(paths[n])
		if err != nil {
			closeLogs(logs)
			return nil, fmt.Errorf("read the log of %s: %w", n, err)
		}
		l := &logFile{File: f, format: formats[n]}
		if len(nodes) > 1 {
			l.prefix = fmt.Sprintf("%-*s | ", width, n)
		}
		logs = append(logs, l)
	}
	return logs, nil
}

func closeLogs(logs []*logFile) {
	for _, l := range logs {
		l.Close()
	}
}

// showLogs prints the logs' last lines, and goes on with what is added until
// ctx or the lab ends.
func showLogs(ctx context.Context, w io.Writer, logs []*logFile, tail int, follow bool) error {
	out := bufio.NewWriter(w)
	for _, l := range logs {
		lines, err := l.read(!follow)
		if err != nil {
			return err
		}
		if tail >= 0 {
			lines = lines[max(0, len(lines)-tail):]
		}
		l.print(out, lines)
	}
	tick := time.NewTicker(logPause)
	defer tick.Stop()
	for follow {
		if err := out.Flush(); err != nil {
			return fmt.Errorf("print the logs: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		follow = exists(logs)
		for _, l := range logs {
			lines, err := l.read(!follow)
			if err != nil {
				return err
			}
			l.print(out, lines)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("print the logs: %w", err)
	}
	return nil
}

// exists reports whether the logs are still where they were: they go with the
// lab.
func exists(logs []*logFile) bool {
	for _, l := range logs {
		if _, err := os.Stat(l.Name()); errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// read returns the lines that were added, of the last also one without an end.
func (l *logFile) read(last bool) ([]string, error) {
	b, err := io.ReadAll(l)
	if err != nil {
		return nil, fmt.Errorf("read the log %s: %w", l.Name(), err)
	}
	lines := strings.Split(l.rest+string(b), "\n")
	l.rest = lines[len(lines)-1]
	lines = lines[:len(lines)-1]
	if last && l.rest != "" {
		lines, l.rest = append(lines, l.rest), ""
	}
	if l.format == topology.LogCRI {
		lines = l.printed(lines)
	}
	return lines, nil
}

// printed returns what the program printed, of lines as kubelet has them
// written.
func (l *logFile) printed(lines []string) []string {
	var out []string
	for _, line := range lines {
		words := strings.SplitN(line, " ", 4) // time, stream, tag, and the rest
		if len(words) < 4 {
			out = append(out, line) // it is no such line
			continue
		}
		l.part += words[3]
		if words[2] != "P" {
			out, l.part = append(out, l.part), ""
		}
	}
	return out
}

func (l *logFile) print(w io.Writer, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(w, "%s%s\n", l.prefix, line)
	}
}
