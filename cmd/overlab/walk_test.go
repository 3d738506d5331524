package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/walk"
	"github.com/overlab/overlab/harness/walk/render"
	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/topology"
)

// TestWalkOfShippedLabs: in every lab that ships, a packet goes the predicted
// way, between the first pod and the last, and from a node.
func TestWalkOfShippedLabs(t *testing.T) {
	needLabs(t)
	for _, l := range labs.All() {
		t.Run(l.Name, func(t *testing.T) {
			o := newOverlab(t)
			upOrSkip(t, o, l.Name)
			var p topology.Plan
			o.json(t, &p, "plan", "-o", "json", l.Name)
			last := p.Pods[len(p.Pods)-1].Name
			for _, from := range []string{p.Pods[0].Name, p.Nodes[0].Name} {
				var r walk.Report
				o.json(t, &r, "walk", from, last, "-o", "json")
				if r.Verdict != walk.Arrived || len(r.Notes)+len(r.Doubts) > 0 {
					t.Errorf("from %s to %s: %s, %+v, %v, %v", from, last, r.Verdict, r.Divergence, r.Notes, r.Doubts)
				}
			}
		})
	}
}

// TestWalk: options, forms, files and exit codes of the command.
func TestWalk(t *testing.T) {
	o := labUp(t)
	dir := t.TempDir()
	for _, form := range render.Forms() {
		file := filepath.Join(dir, "walk."+form)
		if r := o.run(t, "walk", "pod-3", "pod-5", "-o", form, "-w", file); r.code != 0 || r.out != "" {
			t.Errorf("-o %s: %s", form, r)
		}
		if st, err := os.Stat(file); err != nil || st.Size() < 1000 {
			t.Errorf("-o %s: %v, %v", form, st, err)
		}
	}
	for _, c := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"pod-3", "pod-5", "--count=3", "--size=1450", "--df"}, 0, []string{"3 ICMP echo requests of 1450 bytes, ttl 64, DF", "arrived and answered"}},
		{[]string{"pod-3", "pod-5", "--size=1451", "--df"}, 1, []string{"diverged on the request", "send at most 1450 bytes"}},
		{[]string{"pod-3", "pod-5", "--ttl=1"}, 1, []string{"the TTL is used up on node-1", "time exceeded"}},
		{[]string{"pod-3"}, 2, []string{"walk needs two nodes or pods"}},
		{[]string{"pod-3", "pod-9"}, 2, []string{`no node or pod "pod-9"`}},
		{[]string{"pod-3", "pod-5", "--size=3"}, 2, []string{"it must have 44 to 65535"}},
		{[]string{"pod-3", "pod-5", "--count=0"}, 2, []string{"--count=0"}},
		{[]string{"pod-3", "pod-5", "-o", "gif"}, 2, []string{"none of text, json, mermaid, svg, html, pcapng"}},
	} {
		r := o.run(t, append([]string{"walk"}, c.args...)...)
		text := strings.Join(strings.Fields(r.out+r.err), " ")
		for _, says := range c.says {
			if !strings.Contains(text, says) {
				t.Errorf("%q does not say %q: %s", c.args, says, r)
			}
		}
		if r.code != c.code {
			t.Errorf("%q: %s, not %d", c.args, r, c.code)
		}
	}
	contains(t, o.must(t, "__complete", "walk", "pod-3", ""), "pod-5", "node-1")
}
