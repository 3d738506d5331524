package main

import (
	"context"
	"os"

	"github.com/overlab/overlab/topology"
	"github.com/overlab/overlab/topology/netns"
)

// rejoin runs this same program inside the lab, where its namespaces can be
// entered, with other arguments: command by command, those that measure or
// change the lab call themselves so. It reports false if the lab's namespaces
// are within reach already, or never are.
func (c command) rejoin(ctx context.Context, lab topology.Lab, args ...string) (bool, error) {
	outside, can := lab.(topology.Joiner)
	if !can || netns.Inside() {
		return false, nil
	}
	process := topology.Process{Argv: append([]string{netns.Self}, args...), Env: os.Environ(), Dir: "/"}
	code, err := c.attached(ctx, process, func(p topology.Process) (int, error) {
		p.TTY = false // it needs no terminal of its own, and prints to ours
		return outside.Join(context.WithoutCancel(ctx), p)
	})
	if err == nil && code != exitPassed {
		err = &exitError{code: code}
	}
	return true, err
}
