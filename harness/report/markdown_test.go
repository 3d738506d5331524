package report_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/overlab/overlab/harness/suite"
)

func TestMarkdown(t *testing.T) {
	got := write(t, "markdown", about())
	want := `## overlab: default

**6 checks in 0.42 s: 1 passed, 1 failed, 1 inconclusive, 1 not applicable, 2 skipped**

flanneld v0.27.0 on netns, vxlan 10.244.0.0/16, 3 nodes, 6 pods, kernel 6.18.0, linux/amd64

### FAIL TTL-03: a pod's ping to a pod on another node returns TTL 62

24 pairs, no replies

| where | expected | seen |
|---|---|---|
| node-1-pod-1 (node-1) &gt; node-2-pod-1 (node-2) 10.244.2.2 | a reply with ttl=62 | no answer to 3 requests in 1.2s |
| a | b | c |

and 4 more

### inconclusive WF-01: packets travel in UDP

the capture cannot be trusted: node-1:ens3 dropped 23 of 100 frames; node-2:ens3 dropped 1 of 100 frames

<details><summary>A comparison</summary>

` + "```" + `
- 10.244.2.0/24 <via> nobody
` + "```" + `

</details>

<details><summary>every check</summary>

| verdict | check | what | evidence |
|---|---|---|---|
| pass | TTL-01 | a pod's ping on the same node is answered with TTL 64 | 6 pairs, ttl=64 rtt 0.21ms |
| FAIL | TTL-03 | a pod's ping to a pod on another node returns TTL 62 | 24 pairs, no replies |
| inconclusive | WF-01 | packets travel in UDP | the capture cannot be trusted: node-1:ens3 dropped 23 of 100 frames; node-2:ens3 dropped 1 of 100 frames |
| n/a | DP-05 | the VTEP's MAC is the lease's | the lab has no etcd store |
| skipped | DS-01/TTL-01 | IPv6: it passes | by the selection |
| skipped | MTU-01 | it passes | by the selection |

</details>
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What a kernel or a name says cannot break out of its place on the page.
func TestMarkdownEscapes(t *testing.T) {
	r := &suite.Results{
		Lab: "a_b",
		Results: []suite.Result{{ID: "X-01", Verdict: suite.Fail, Findings: []suite.Finding{
			{Where: "a|b", Expected: "<script>", Seen: "two\nlines of `code` and *stars*"},
		}}},
		Attachments: []suite.Attachment{
			{Title: "fences", Type: "text/plain", Data: []byte("```\n</details>\n````")},
			{Title: "a drawing", Type: "image/svg+xml", Data: []byte("<svg/>")},
		},
	}
	got := write(t, "markdown", r)
	for _, want := range []string{
		`a\_b`,
		`| a\|b | &lt;script&gt; | two<br>lines of \` + "`code\\`" + ` and \*stars\* |`,
		"`````\n```\n</details>\n````\n`````",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Contains(got, "svg") {
		t.Error("a drawing is in a text")
	}
}
