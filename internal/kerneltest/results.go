package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/overlab/overlab/internal/kerneltest/guest/order"
)

// results turns the guest's reports into the events of go test -json.
type results struct {
	out  io.Writer
	jobs []order.Job
	// bare hands on the output as it is.
	bare bool
	// now converts the output of the job that runs.
	now  *converter
	ends int
	code int
}

func newResults(out io.Writer, jobs []order.Job, bare bool) *results {
	return &results{out: out, jobs: jobs, bare: bare}
}

// take follows one report.
func (r *results) take(report order.Report) error {
	if r.bare {
		_, err := io.WriteString(r.out, report.Output)
		if report.Exit != nil {
			r.ends++
			r.code = *report.Exit
		}
		return err
	}
	if r.now == nil {
		var err error
		if r.now, err = newConverter(r.out, r.jobs[report.Job].Name); err != nil {
			return err
		}
	}
	text := report.Output
	if report.Exit == nil {
		return r.now.write(text)
	}
	r.ends++
	if *report.Exit != 0 {
		r.code = 1
		text += fmt.Sprintf("\nexit status %d\nFAIL\n", *report.Exit)
	}
	err := errors.Join(r.now.write(text), r.now.close())
	r.now = nil
	return err
}

// close says whether all jobs ended well.
func (r *results) close() error {
	var err error
	if r.now != nil {
		err = r.now.close()
	}
	switch {
	case err != nil:
		return err
	case r.ends < len(r.jobs):
		return fmt.Errorf("%d of %d jobs ended", r.ends, len(r.jobs))
	case r.bare && r.code != 0:
		return &exitError{r.code}
	case r.code != 0:
		return errFailed
	}
	return nil
}

// converter is a `go tool test2json`.
type converter struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func newConverter(out io.Writer, pkg string) (*converter, error) {
	cmd := exec.Command("go", "tool", "test2json", "-t", "-p", pkg)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start go tool test2json: %w", err)
	}
	return &converter{cmd, in}, nil
}

func (c *converter) write(text string) error {
	_, err := io.WriteString(c.in, text)
	return err
}

func (c *converter) close() error { return errors.Join(c.in.Close(), c.cmd.Wait()) }
