package main

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/overlab/overlab/topology"
)

// writeInspect prints a running lab: its plan, then what lives in it.
func writeInspect(w io.Writer, p *topology.Plan, s topology.Status) error {
	fmt.Fprintf(w, "lab %s, %s for %s, supervisor %d, files in %s\n\n",
		s.Name, s.State, time.Since(s.Created).Round(time.Second), s.PID, s.Dir)
	if err := topology.WriteTable(w, p); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AGENT\tPID\tRESTARTS\tLAST EXIT\tPROGRAM\tLOG")
	for _, a := range s.Agents {
		exit := a.LastExit
		if exit == "" {
			exit = "-"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", a.Node, a.PID, a.Restarts, exit, filepath.Base(a.Command[0]),
			filepath.Join("logs", filepath.Base(a.Log)))
	}
	return t.Flush()
}
