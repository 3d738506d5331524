package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/overlab/overlab/topology"
)

// Inject puts a fault into a lab whose namespaces are local, and records in
// the journal what undoes it, before each step. What fails half way is taken
// out again.
func Inject(ctx context.Context, lab topology.Lab, j Journal, f Fault, w Where) (Record, error) {
	var r Record
	if err := f.Applies(lab.Plan()); err != nil {
		return r, err
	}
	err := j.change(func(all []Record, save func([]Record) error) error {
		if slices.ContainsFunc(all, func(r Record) bool { return r.ID == f.ID }) {
			return fmt.Errorf("fault %s is in already; `overlab fault clear %s` takes it out", f.ID, f.ID)
		}
		plan := lab.Plan()
		if f.IPv6 {
			plan = plan.Over6()
		}
		s, err := newScene(ctx, lab, plan, w)
		if err != nil {
			return err
		}
		f.Break(s)
		if err := s.err(); err != nil {
			return fmt.Errorf("fault %s: %w", f.ID, err)
		}
		r = Record{ID: f.ID, Title: s.cast(f.Title), Node: s.node.Name, Peer: s.peer.Name, Since: time.Now().UTC(), Steps: s.steps}
		if err := take(ctx, lab, &r, func() error { return save(append(all, r)) }); err != nil {
			err = fmt.Errorf("fault %s: %w", f.ID, err)
			return errors.Join(err, undo(context.WithoutCancel(ctx), lab, r, all), save(all))
		}
		return nil
	})
	return r, err
}

// take takes a record's steps; note keeps each before it is taken.
func take(ctx context.Context, lab topology.Lab, r *Record, note func() error) error {
	for i, step := range r.Steps {
		r.Done = i + 1
		if err := note(); err != nil {
			return err
		}
		if err := step.Do.run(ctx, lab); err != nil {
			r.Done = i // a command that failed has nothing to undo
			return err
		}
	}
	return nil
}

// Clear takes faults out of a lab, the last that went in first: those of the
// IDs, or all without any. One that cannot be undone wholly stays recorded,
// unless force says to forget it.
func Clear(ctx context.Context, lab topology.Lab, j Journal, force bool, ids ...string) ([]Record, error) {
	var cleared []Record
	err := j.change(func(all []Record, save func([]Record) error) error {
		for _, id := range ids {
			if !slices.ContainsFunc(all, func(r Record) bool { return strings.EqualFold(r.ID, id) }) {
				return fmt.Errorf("fault %s is not in the lab", id)
			}
		}
		var errs []error
		for i := len(all) - 1; i >= 0; i-- {
			r := all[i]
			if len(ids) > 0 && !slices.ContainsFunc(ids, func(id string) bool { return strings.EqualFold(r.ID, id) }) {
				continue
			}
			rest := slices.Delete(slices.Clone(all), i, i+1)
			if err := undo(ctx, lab, r, rest); err != nil {
				errs = append(errs, fmt.Errorf("take out fault %s: %w", r.ID, err))
				if !force {
					continue
				}
			}
			all = rest
			cleared = append(cleared, r)
			errs = append(errs, save(all))
		}
		return errors.Join(errs...)
	})
	return cleared, err
}

// undo undoes the steps that were taken, the last first. What another fault
// that is still in needs is left to it: an agent that two have paused.
func undo(ctx context.Context, lab topology.Lab, r Record, others []Record) error {
	var errs []error
	for _, step := range slices.Backward(r.Steps[:r.Done]) {
		if !step.Undo.empty() && !needed(step.Undo, others) {
			errs = append(errs, step.Undo.run(ctx, lab))
		}
	}
	return errors.Join(errs...)
}

func needed(o Op, others []Record) bool {
	for _, r := range others {
		if slices.ContainsFunc(r.Steps[:r.Done], func(s Step) bool { return s.Undo.equal(o) }) {
			return true
		}
	}
	return false
}
