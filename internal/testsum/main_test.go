package main

import (
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	const p = `"Package":"github.com/overlab/overlab/agent"`
	for _, c := range []struct {
		name, events string
		ok           bool
		want         []string
		not          string
	}{
		{
			name: "pass and skip",
			events: `{"Action":"output",` + p + `,"Test":"TestA","Output":"chatter\n"}
{"Action":"pass",` + p + `,"Test":"TestA"}
{"Action":"output",` + p + `,"Test":"TestB","Output":"=== RUN   TestB\n"}
{"Action":"output",` + p + `,"Test":"TestB","Output":"    a_test.go:7: SKIPPED, NOT TESTED: no tcpdump\n"}
{"Action":"output",` + p + `,"Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}
{"Action":"skip",` + p + `,"Test":"TestB"}
{"Action":"pass",` + p + `,"Elapsed":1.25}`,
			ok:   true,
			want: []string{"ok    agent ", "SKIPPED agent TestB: SKIPPED, NOT TESTED: no tcpdump\n", "1 passed, 0 failed, 1 skipped\n"},
			not:  "chatter",
		},
		{
			name: "fail",
			events: `{"Action":"output",` + p + `,"Test":"TestA","Output":"why\n"}
{"Action":"fail",` + p + `,"Test":"TestA"}
{"Action":"fail",` + p + `}`,
			want: []string{"why\n", "FAIL  agent\n", "0 passed, 1 failed, 0 skipped\n"},
		},
		{
			name:   "a panic outside of tests",
			events: `{"Action":"output",` + p + `,"Output":"panic: no\n"}` + "\n" + `{"Action":"fail",` + p + `}`,
			want:   []string{"panic: no\n", "FAIL  agent\n"},
		},
		{
			name:   "a build that fails",
			events: `{"Action":"build-output","ImportPath":"x","Output":"x.go:1: undefined\n"}` + "\n" + `{"Action":"build-fail","ImportPath":"x"}`,
			want:   []string{"x.go:1: undefined\n"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			ok, err := run(strings.NewReader(c.events), &out)
			if err != nil || ok != c.ok {
				t.Errorf("ok is %t (%v), want %t", ok, err, c.ok)
			}
			for _, w := range c.want {
				if !strings.Contains(out.String(), w) {
					t.Errorf("%q is not in:\n%s", w, out.String())
				}
			}
			if c.not != "" && strings.Contains(out.String(), c.not) {
				t.Errorf("%q is in:\n%s", c.not, out.String())
			}
		})
	}
}
