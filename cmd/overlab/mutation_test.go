package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/diagnose"
	"github.com/overlab/overlab/harness/suite"
	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/scenarios/checks"
	"github.com/overlab/overlab/scenarios/faults"
	"github.com/overlab/overlab/topology"
)

// mutationFile names the file that TestMutation writes its matrix to; then it
// tries every fault. Else it tries a sample.
const mutationFile = "OVERLAB_MUTATION"

// mutationSample has a fault of each sort that is soon judged: of a table, of a
// device, of a pod, of a setting, of a rule, of a lease.
func mutationSample() []string {
	return []string{"FDB-02", "ROUTE-05", "VXLAN-01", "LINK-07", "SYS-01", "RULE-08", "LEASE-01", "IPAM-01"}
}

// mutant is what became of one fault.
type mutant struct {
	faults.Fault
	// verdicts are those of the checks that it names; a check that is not in
	// this build has none.
	verdicts map[string]string
	caught   bool
	// cause is the first that diagnose named, and first says that it is one
	// that the fault declares, on the node that was broken.
	cause string
	first bool
}

// TestMutation puts in each fault of the table, and asserts that a check that
// the fault names fails, that diagnose names the cause first, and that all is
// well again when it has been taken out.
//
// A fault is put in between two nodes of the default lab:
//
//	pod-3, pod-4              pod-5, pod-6
//	cni0, flannel.1           cni0, flannel.1
//	node-1 (broken)           node-2 (the peer)
//	eth0 -------------------- eth0             and master, with the store
//
// Those that it cannot have are put into the first of the other labs that can.
func TestMutation(t *testing.T) {
	for _, tool := range []string{"ip", "bridge", "nft", "iptables", "sysctl", "ethtool"} {
		need(t, tool)
	}
	file := os.Getenv(mutationFile)
	chosen := map[string][]faults.Fault{}
	for _, f := range faults.All() {
		if file != "" || slices.Contains(mutationSample(), f.ID) {
			lab := mutationLab(t, f)
			chosen[lab] = append(chosen[lab], f)
		}
	}
	var all []mutant
	for _, lab := range mutationLabs() {
		if len(chosen[lab]) == 0 {
			continue
		}
		t.Run(filepath.Base(lab), func(t *testing.T) {
			o := labUp(t, lab)
			for _, f := range chosen[lab] {
				t.Run(f.ID, func(t *testing.T) {
					all = append(all, mutate(t, o, f))
				})
			}
		})
	}
	t.Log("\n" + mutationMatrix(all))
	if _, first := sum(all); first*100 < 95*len(all) {
		t.Errorf("diagnose named %d of %d faults first, fewer than 95 in 100", first, len(all))
	}
	if file != "" {
		if err := os.WriteFile(file, []byte(mutationPage(all)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// mutationLabs are the labs that faults are put into.
func mutationLabs() []string {
	return []string{"default", "001", "dual-stack"}
}

// mutationLab is the first of the labs that can have a fault.
func mutationLab(t *testing.T, f faults.Fault) string {
	t.Helper()
	for _, name := range mutationLabs() {
		spec, err := labs.Load(name)
		if strings.HasSuffix(name, ".yaml") {
			spec, err = topology.Load(name)
		}
		if err != nil {
			t.Fatal(err)
		}
		plan, err := spec.Plan()
		if err != nil {
			t.Fatal(err)
		}
		if f.Applies(plan) == nil {
			return name
		}
	}
	t.Fatalf("no lab of %v can have the fault %s", mutationLabs(), f.ID)
	return ""
}

// mutate puts a fault in, judges, and takes it out.
func mutate(t *testing.T, o *overlab, f faults.Fault) mutant {
	m := mutant{Fault: f, verdicts: map[string]string{}}
	known := slices.DeleteFunc(slices.Clone(f.Checks), func(id string) bool {
		return !slices.ContainsFunc(checks.All(), func(c suite.Check) bool { return c.ID == id })
	})
	if len(known) == 0 {
		t.Skipf("SKIPPED, NOT TESTED: none of %s is in this build", strings.Join(f.Checks, ", "))
	}
	defer o.run(t, "fault", "clear", "--force") // the next is not to suffer from a test that ended here
	var in struct{ Faults []faults.Record }
	o.json(t, &in, "fault", "inject", "-o", "json", f.ID)
	r := in.Faults[0]
	for _, v := range o.verdicts(t, known) {
		m.verdicts[v.ID] = v.Verdict
		m.caught = m.caught || v.Verdict == "fail" || f.Blinds && v.Verdict == "inconclusive"
	}
	m.cause, m.first = o.diagnosed(t, f, r)
	o.must(t, "fault", "clear", f.ID)

	var wrong []string
	if !poll(patience, func() bool { wrong = o.notPassed(t, known); return len(wrong) == 0 }) {
		t.Errorf("%s (%s) is out, and still %s", f.ID, r.Title, strings.Join(wrong, "; "))
	}
	if !m.caught {
		t.Errorf("%s (%s) was not caught: %v", f.ID, r.Title, m.verdicts)
	}
	return m
}

// verdicts judges by the checks.
func (o *overlab) verdicts(t *testing.T, ids []string) []struct{ ID, Verdict, Evidence string } {
	t.Helper()
	r := o.run(t, append([]string{"test", "-o", "json"}, ids...)...)
	var v verdicts
	if err := json.Unmarshal([]byte(r.out), &v); err != nil {
		t.Fatalf("overlab test %v: %v: %s", ids, err, r)
	}
	return v.Results
}

func (o *overlab) notPassed(t *testing.T, ids []string) []string {
	var out []string
	for _, v := range o.verdicts(t, ids) {
		if v.Verdict != "pass" && v.Verdict != "not-applicable" {
			out = append(out, v.ID+" is "+v.Verdict)
		}
	}
	return out
}

// sum counts the faults that were caught, and those that diagnose named first.
func sum(all []mutant) (caught, first int) {
	for _, m := range all {
		if m.caught {
			caught++
		}
		if m.first {
			first++
		}
	}
	return caught, first
}

// mark is the sign of a verdict: a check that is not in this build has none.
func mark(verdict string) string {
	marks := map[string]string{"fail": "F", "inconclusive": "?", "pass": ".", "not-applicable": "n", "": "-"}
	return cmp.Or(marks[verdict], verdict)
}

// mutationMatrix is a line a fault, with the verdicts of the checks that it
// names.
func mutationMatrix(all []mutant) string {
	var b strings.Builder
	for _, m := range all {
		var cells []string
		for _, id := range m.Checks {
			cells = append(cells, id+" "+mark(m.verdicts[id]))
		}
		caught, first := "caught", "first"
		if !m.caught {
			caught = "NOT CAUGHT"
		}
		if !m.first {
			first = "NOT FIRST"
		}
		fmt.Fprintf(&b, "%-9s %-10s %-9s %-19s %s\n", m.ID, caught, first, cmp.Or(m.cause, "nothing"), strings.Join(cells, "  "))
	}
	caught, first := sum(all)
	fmt.Fprintf(&b, "%d faults: %d caught, %d named first by diagnose\n", len(all), caught, first)
	return b.String()
}

// mutationPage is docs/mutation.md.
func mutationPage(all []mutant) string {
	caught, first := sum(all)
	var b strings.Builder
	fmt.Fprintf(&b, `# Is a fault seen?

`+"`make mutation`"+` writes this page. It puts every fault of [faults.md](faults.md)
into a lab, runs the checks that the fault names, asks `+"`overlab diagnose`"+`, takes
the fault out, and waits until the same checks pass again.

**%d of %d faults were caught** by a check that they name, and **%d of %d were named
first** by diagnose, which does not know what was put in.

F: the check fails. ?: it is inconclusive, which is never a pass, and is all that
can be said where the fault takes away what the check measures by. A dot: it
passes, as another check sees the fault. n: it is not applicable in this lab.
-: it is not in this build.

| fault | diagnose says first | the checks that the fault names |
|---|---|---|
`, caught, len(all), first, len(all))
	for _, m := range all {
		cells := make([]string, len(m.Checks))
		for i, id := range m.Checks {
			cells[i] = id + " " + mark(m.verdicts[id])
		}
		cause := cmp.Or(m.cause, "nothing")
		if !m.first {
			cause = "*" + cause + "*"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", m.ID, cause, strings.Join(cells, ", "))
	}
	return b.String()
}

// diagnosed asks for the first cause, and whether it is the fault's.
func (o *overlab) diagnosed(t *testing.T, f faults.Fault, r faults.Record) (cause string, first bool) {
	t.Helper()
	ended := o.run(t, "diagnose", "-o", "json")
	var d diagnose.Report
	if err := json.Unmarshal([]byte(ended.out), &d); err != nil {
		t.Fatalf("overlab diagnose: %v: %s", err, ended)
	}
	if len(d.Causes) == 0 {
		t.Logf("%s (%s): diagnose finds nothing", f.ID, r.Title)
		return "", false
	}
	c := d.Causes[0]
	first = slices.Contains(f.Causes, c.ID) && (f.Elsewhere || c.Node == r.Node)
	if !first {
		t.Logf("%s (%s): diagnose says %s first:\n%s", f.ID, r.Title, c.ID, ended.out)
	}
	return c.ID, first
}
