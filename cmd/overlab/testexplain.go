package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/harness/walk/render"
	"github.com/overlab/overlab/topology"
)

// explanation is what helps to find out why checks failed: the likeliest causes,
// and, where somebody reads more than the terminal, how the lab differs from its
// plan and the walk of one packet. What cannot be made is told and left out; no
// verdict rests on it.
type explanation struct {
	run         *testRun
	made        bool
	diagnosis   *diagnose.Report
	attachments []suite.Attachment
}

// of explains what checks have found, once, and if one of them failed. It is
// asked before checks change the lab: restarted agents repair what was broken.
func (x *explanation) of(ctx context.Context, found []suite.Result) {
	failed := slices.ContainsFunc(found, func(r suite.Result) bool { return r.Verdict == suite.Fail })
	if x.made || !failed || ctx.Err() != nil {
		return
	}
	if w := x.run.worst; w != nil && w.ExitCode() == exitFailed {
		return // the report will be of that run
	}
	x.made = true
	x.try("diagnosis", x.diagnose(ctx))
	if x.run.f.explained() {
		x.try("comparison with the plan", x.diff(ctx))
		x.try("walk", x.walk(ctx, found))
	}
}

// add gives the results what was explained.
func (x *explanation) add(r *suite.Results) {
	r.Diagnosis, r.Attachments = x.diagnosis, x.attachments
}

func (x *explanation) try(what string, err error) {
	if err != nil {
		fmt.Fprintf(x.run.streams.err, "the report has no %s: %v\n", what, err)
	}
}

func (x *explanation) diagnose(ctx context.Context) error {
	open := &sessions{lab: x.run.lab}
	d, err := diagnose.Run(ctx, x.run.lab, open)
	if err = errors.Join(err, open.close()); err != nil {
		return err
	}
	x.diagnosis = d
	return nil
}

func (x *explanation) diff(ctx context.Context) error {
	open := &sessions{lab: x.run.lab}
	d, err := oracle.Differ(ctx, x.run.lab, open)
	if err = errors.Join(err, open.close()); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := report.Diff(&b, d, report.DiffOptions{Mend: true}); err != nil {
		return err
	}
	x.attachments = append(x.attachments, suite.Attachment{
		Title: "How the lab differs from its plan", File: "diff.txt", Type: "text/x-diff", Data: b.Bytes(),
	})
	return nil
}

func (x *explanation) walk(ctx context.Context, found []suite.Result) error {
	from, to := walkEnds(x.run.lab.Plan(), found)
	if from == "" {
		return nil // there is nowhere to walk
	}
	w, err := walk.Run(ctx, x.run.lab, from, to, walk.Options{Size: 84, Count: 1})
	if err != nil {
		return err
	}
	title := "The walk of a packet from " + from + " to " + to
	for _, form := range []struct{ title, name, file, kind string }{
		{title + ", drawn", "svg", "walk.svg", "image/svg+xml"},
		{title, "text", "walk.txt", "text/plain"},
	} {
		var b bytes.Buffer
		if err := render.Write(&b, form.name, w, render.Options{}); err != nil {
			return err
		}
		x.attachments = append(x.attachments, suite.Attachment{
			Title: form.title, Says: render.Outcome(w), File: form.file, Type: form.kind, Data: b.Bytes(),
			Leads: form.name == "svg" && w.Verdict == walk.Diverged,
		})
	}
	return nil
}

// pairOfPods is how findings name a pair of pods.
var pairOfPods = regexp.MustCompile(`^(\S+) \(\S+\) > (\S+) \(\S+\) `)

// walkEnds are the pods of the first finding that names two, or the first two
// on different nodes; empty where there are none.
func walkEnds(p *topology.Plan, found []suite.Result) (from, to string) {
	for _, res := range found {
		for _, f := range res.Findings {
			if m := pairOfPods.FindStringSubmatch(f.Where); m != nil && p.Pod(m[1]) != nil && p.Pod(m[2]) != nil {
				return m[1], m[2]
			}
		}
	}
	for _, pod := range p.Pods {
		if pod.Node != p.Pods[0].Node {
			return p.Pods[0].Name, pod.Name
		}
	}
	return "", ""
}
