package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/overlab/overlab/topology"
)

// writeContainers prints the pods' containers, if there are any.
func writeContainers(w io.Writer, all []topology.ContainerStatus) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tCONTAINER\tSTATE\tPID\tLAST EXIT\tIMAGE\tLOG")
	for _, c := range all {
		exit, pid := c.LastExit, "-"
		if exit == "" {
			exit = "-"
		}
		if c.PID != 0 {
			pid = strconv.Itoa(c.PID)
		}
		fmt.Fprintf(t, "%s\t%.12s\t%s\t%s\t%s\t%s\t%s\n", c.Pod, c.ID, c.State, pid, exit, c.Image, filepath.Join("logs", filepath.Base(c.Log)))
	}
	return t.Flush()
}

// writeInspect prints a running lab: its plan, then what lives in it.
func writeInspect(w io.Writer, p *topology.Plan, s topology.Status) error {
	if len(s.Found) > 0 {
		fmt.Fprintf(w, "lab %s, an existing cluster\n  %s\n\n", s.Name, strings.Join(s.Found, "\n  "))
		return topology.WriteTable(w, p)
	}
	fmt.Fprintf(w, "lab %s, %s for %s, supervisor %d, files in %s\n\n",
		s.Name, s.State, time.Since(s.Created).Round(time.Second), s.PID, s.Dir)
	if err := topology.WriteTable(w, p); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AGENT\tSTATE\tPID\tRESTART\tRESTARTS\tLAST EXIT\tPROGRAM\tLOG")
	for _, a := range s.Agents {
		exit, pid := a.LastExit, "-"
		if exit == "" {
			exit = "-"
		}
		if a.PID != 0 {
			pid = strconv.Itoa(a.PID)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", a.Node, a.State, pid, a.Restart, a.Restarts, exit, filepath.Base(a.Command[0]),
			filepath.Join("logs", filepath.Base(a.Log)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := writeContainers(w, s.Containers); err != nil {
		return err
	}
	for _, a := range s.Agents {
		if a.LastExit != "" && len(a.Output) > 0 {
			fmt.Fprintf(w, "\n%s's agent printed last:\n  %s\n", a.Node, strings.Join(a.Output, "\n  "))
		}
	}
	return nil
}
