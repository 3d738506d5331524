package report_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/harness/report"
)

func TestDiff(t *testing.T) {
	d := &oracle.Diff{
		Compared: []string{"node-1", "node-2", "pod-1"}, Facts: 40,
		Entries: []oracle.Entry{
			{Kind: oracle.KindLink, Verb: oracle.Wrong, Node: "node-1", Dev: "flannel.1", Have: "flannel.1 up mtu 1400 type vxlan", For: "the VTEP",
				Changes: []oracle.Change{{Name: "mtu", Want: "1450", Have: "1400"}, {Name: "group", Have: "239.0.0.1"}, {Name: "gbp", Want: "gbp"}},
				Mend:    "ip link set flannel.1 mtu 1450"},
			{Kind: oracle.KindFDB, Verb: oracle.Extra, Node: "node-1", Have: "52:ea:6d:41:e8:a7 dev flannel.1 dst 172.16.1.2 self permanent"},
			{Kind: oracle.KindRoute, Verb: oracle.Missing, Node: "node-1", Pod: "pod-1", Want: "default via 10.244.0.1 dev eth0", For: "everything else"},
			{Kind: oracle.KindRoute, Verb: oracle.Missing, Node: "node-1", Pod: "pod-1", Want: "10.244.100.0/24 via 10.244.100.0 dev flannel.1 onlink metric 4000", For: "the pods of a node"},
		},
		Unread: []string{"leases: the store does not answer, whatever one does to make it do so, and nobody knows why"},
	}
	var b bytes.Buffer
	if err := report.Diff(&b, d, report.DiffOptions{Mend: true}); err != nil {
		t.Fatal(err)
	}
	want := `node-1
  ip link
  ~ flannel.1
      mtu is 1400, and ought to be 1450
      group is 239.0.0.1, and ought not to be there
      gbp is not there, and ought to be gbp
      # the VTEP
      $ ip link set flannel.1 mtu 1450
  bridge fdb
  + 52:ea:6d:41:e8:a7 dev flannel.1 dst 172.16.1.2 self permanent

pod-1
  ip route
  - default via 10.244.0.1 dev eth0  # everything else
  - 10.244.100.0/24 via 10.244.100.0 dev flannel.1 onlink metric 4000
      # the pods of a node

? not compared: leases: the store does not answer, whatever one does to make it
  do so, and nobody knows why
4 differences on 2 of 3 namespaces: 2 missing, 1 wrong, 1 extra
`
	if b.String() != want {
		t.Errorf("it is\n%s\nwant\n%s", b.String(), want)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	b.Reset()
	if err := report.Diff(&b, &oracle.Diff{Compared: []string{"a"}, Facts: 7}, report.DiffOptions{}); err != nil || b.String() != "no difference: 7 entries on 1 namespace\n" {
		t.Errorf("without differences it is %q, %v", b.String(), err)
	}
	b.Reset()
	if err := report.Diff(&b, d, report.DiffOptions{Color: true}); err != nil || !strings.Contains(b.String(), "\x1b[31m  - default via 10.244.0.1 dev eth0\x1b[0m  # everything else\n") {
		t.Errorf("in colour it is %q, %v", b.String(), err)
	}
}

// TestWhy: every form but conformance says what a failure most likely comes from,
// and the page says it before anything else.
func TestWhy(t *testing.T) {
	r := results()
	r.Diagnosis = &diagnose.Report{Symptoms: []string{"a ping"}, Causes: []diagnose.Cause{
		{Title: "the FDB entry of node-1 for node-2 is wrong", Space: "node-1", Evidence: []string{"bridge fdb says so"}, Mend: []string{"bridge fdb replace this"}},
		{Title: "the agent of node-1 is stopped"},
	}}
	for _, form := range []string{"text", "json", "jsonl", "junit", "html", "markdown"} {
		var b bytes.Buffer
		if err := report.Write(&b, form, r); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"FDB entry of node-1 for node-2 is wrong", "bridge fdb says so", "bridge fdb replace this"} {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s has no %q", form, want)
			}
		}
		if form == "html" && strings.Index(b.String(), "bridge fdb replace this") > strings.Index(b.String(), `id="failed"`) {
			t.Error("the page begins with something else than what broke")
		}
	}
	r.Diagnosis = &diagnose.Report{}
	var b bytes.Buffer
	if err := report.HTML(&b, r); err != nil || !strings.Contains(b.String(), "Nothing that was looked at explains it") {
		t.Errorf("no cause was found: %v", err)
	}
}
