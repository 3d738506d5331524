package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/report"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/harness/walk/render"
	"github.com/overlab/overlab/topology"
)

// explain attaches to the report of a run that failed what helps to find out
// why: the likeliest causes, how the lab differs from its plan, and the walk of
// one packet. What cannot be made is told and left out; no verdict rests on it.
func (t *testRun) explain(ctx context.Context, r *suite.Results) {
	if err := t.attachDiagnosis(ctx, r); err != nil {
		fmt.Fprintf(t.streams.err, "the report has no diagnosis: %v\n", err)
	}
	if err := t.attachDiff(ctx, r); err != nil {
		fmt.Fprintf(t.streams.err, "the report has no comparison with the plan: %v\n", err)
	}
	if err := t.attachWalk(ctx, r); err != nil {
		fmt.Fprintf(t.streams.err, "the report has no walk: %v\n", err)
	}
}

func (t *testRun) attachDiagnosis(ctx context.Context, r *suite.Results) error {
	open := &sessions{lab: t.lab}
	d, err := diagnose.Run(ctx, t.lab, open)
	if err = errors.Join(err, open.close()); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := report.Diagnosis(&b, d, mostCauses, report.DiffOptions{}); err != nil {
		return err
	}
	r.Attachments = append(r.Attachments, suite.Attachment{
		Title: "Why: the likeliest causes, and what mends them", File: "diagnosis.txt", Type: "text/plain", Data: b.Bytes(),
	})
	return nil
}

func (t *testRun) attachDiff(ctx context.Context, r *suite.Results) error {
	open := &sessions{lab: t.lab}
	d, err := oracle.Differ(ctx, t.lab, open)
	if err = errors.Join(err, open.close()); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := report.Diff(&b, d, report.DiffOptions{Mend: true}); err != nil {
		return err
	}
	r.Attachments = append(r.Attachments, suite.Attachment{
		Title: "How the lab differs from its plan", File: "diff.txt", Type: "text/plain", Data: b.Bytes(),
	})
	return nil
}

func (t *testRun) attachWalk(ctx context.Context, r *suite.Results) error {
	from, to := walkEnds(t.lab.Plan(), r)
	if from == "" {
		return nil // there is nowhere to walk
	}
	w, err := walk.Run(ctx, t.lab, from, to, walk.Options{Size: 84, Count: 1})
	if err != nil {
		return err
	}
	for _, form := range []struct{ title, name, file, kind string }{
		{"The walk of a packet from " + from + " to " + to, "text", "walk.txt", "text/plain"},
		{"The same walk, drawn", "svg", "walk.svg", "image/svg+xml"},
	} {
		var b bytes.Buffer
		if err := render.Write(&b, form.name, w, render.Options{}); err != nil {
			return err
		}
		r.Attachments = append(r.Attachments, suite.Attachment{Title: form.title, File: form.file, Type: form.kind, Data: b.Bytes()})
	}
	return nil
}

// pairOfPods is how findings name a pair of pods.
var pairOfPods = regexp.MustCompile(`^(\S+) \(\S+\) > (\S+) \(\S+\) `)

// walkEnds are the pods of the first finding that names two, or the first two
// on different nodes; empty where there are none.
func walkEnds(p *topology.Plan, r *suite.Results) (from, to string) {
	for _, res := range r.Results {
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
