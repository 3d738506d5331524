package main

import (
	"encoding/json"
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
// way, between the first pod and the last, and from a node; over IPv6 too where
// the lab has both. In alloc's, whose nodes are not connected, what the walks say
// to mend connects them.
func TestWalkOfShippedLabs(t *testing.T) {
	needLabs(t)
	for _, l := range labs.All() {
		t.Run(l.Name, func(t *testing.T) {
			o := newOverlab(t)
			upOrSkip(t, o, l.Name)
			var p topology.Plan
			o.json(t, &p, "plan", "-o", "json", l.Name)
			last := p.Pods[len(p.Pods)-1].Name
			if l.Name == "alloc" {
				o.mend(t, p.Pods[0].Name, last)
				o.mend(t, p.Nodes[0].Name, last)
			}
			families := []string{"--ipv6=false"}
			if p.IPv6 == topology.IPv6Dual {
				families = append(families, "--ipv6")
			}
			for _, from := range []string{p.Pods[0].Name, p.Nodes[0].Name} {
				for _, family := range families {
					var r walk.Report
					o.json(t, &r, "walk", from, last, "-o", "json", family)
					if r.Verdict != walk.Arrived || len(r.Notes)+len(r.Doubts)+len(r.Limits) > 0 {
						t.Errorf("from %s to %s, %s: %s, %+v, %v, %v, %v", from, last, family, r.Verdict, r.Divergence, r.Notes, r.Doubts, r.Limits)
					}
				}
			}
		})
	}
}

// mend does what walks say until the packet arrives: there is something to
// mend, and it takes a route a direction at most.
func (o *overlab) mend(t *testing.T, from, to string) {
	t.Helper()
	for range 3 {
		var r walk.Report
		out := o.run(t, "walk", from, to, "-o", "json")
		if err := json.Unmarshal([]byte(out.out), &r); err != nil {
			t.Fatalf("walk %s %s: %v: %s", from, to, err, out)
		}
		if r.Verdict == walk.Arrived {
			return
		}
		if d := r.Divergence; out.code != 1 || d == nil || d.Mend == "" {
			t.Fatalf("walk %s %s names no mend: %s", from, to, out)
		}
		o.must(t, append([]string{"exec", r.Divergence.On, "--"}, strings.Fields(r.Divergence.Mend)...)...)
	}
	t.Errorf("from %s to %s nothing arrives after three mends", from, to)
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
		{[]string{"pod-3", "pod-5", "--tcp=9"}, 0, []string{"one TCP SYN to port 9 of 44 bytes", "> 9, SYN", "RST-ACK", "arrived and answered: RST"}},
		{[]string{"pod-3", "pod-5", "--udp=9", "--size=1000"}, 0, []string{"one UDP datagram to port 9 of 1000 bytes", "ICMP port unreachable"}},
		{[]string{"pod-3", "pod-5", "--tcp=9", "--udp=9"}, 2, []string{"none of the others can be"}},
		{[]string{"pod-3", "pod-5", "--udp=70000"}, 2, []string{"a port is 1 to 65535"}},
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
