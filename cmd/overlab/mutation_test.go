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
// device, of a pod, of a setting, of a rule, of a lease; one that no table shows,
// and some of IPv6, of WireGuard, of IPsec and of hardened nodes.
func mutationSample() []string {
	return []string{
		"FDB-02", "ROUTE-05", "VXLAN-01", "LINK-07", "SYS-01", "RULE-08", "LEASE-01", "IPAM-01",
		"TC-01", "DS/FDB-02", "DS/RULE-02", "WG-02", "HARD-01", "XFRM-02", "XFRM-03",
	}
}

// mutant is what became of one fault.
type mutant struct {
	faults.Fault
	// verdicts are those of the checks that it names.
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
	for _, tool := range []string{"ip", "bridge", "nft", "iptables", "sysctl", "ethtool", "tc", "ip6tables"} {
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
			o := newOverlab(t)
			upOrSkip(t, o, lab)
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
		if err := os.WriteFile(file, []byte(mutationPage(all)+notRun(all)+provenChecks(t, all)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// mutationLabs are the labs that faults are put into.
func mutationLabs() []string {
	return []string{"default", "001", "dual-stack", "wireguard", "testdata/hardened.yaml", "ipsec"}
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

// TestFaultsNameChecks: what a fault says that must see it is in the catalogue.
func TestFaultsNameChecks(t *testing.T) {
	known := map[string]bool{}
	for _, c := range checks.All() {
		known[c.ID] = true
	}
	for _, f := range faults.All() {
		for _, id := range f.Checks {
			if !known[id] {
				t.Errorf("%s names %s, which is no check", f.ID, id)
			}
		}
	}
}

// mutate puts a fault in, judges, and takes it out.
func mutate(t *testing.T, o *overlab, f faults.Fault) mutant {
	m := mutant{Fault: f, verdicts: map[string]string{}}
	defer o.run(t, "fault", "clear", "--force") // the next is not to suffer from a test that ended here
	var in struct{ Faults []faults.Record }
	o.json(t, &in, "fault", "inject", "-o", "json", f.ID)
	r := in.Faults[0]
	for _, v := range o.verdicts(t, f.Checks) {
		m.verdicts[v.ID] = v.Verdict
		m.caught = m.caught || v.Verdict == "fail" || f.Blinds && v.Verdict == "inconclusive"
	}
	m.cause, m.first = o.diagnosed(t, f, r)
	o.must(t, "fault", "clear", f.ID)

	var wrong []string
	if !poll(patience, func() bool { wrong = o.notPassed(t, f.Checks); return len(wrong) == 0 }) {
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

// mark is the sign of a verdict.
func mark(verdict string) string {
	marks := map[string]string{"fail": "F", "inconclusive": "?", "pass": ".", "not-applicable": "n"}
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
the fault out, and waits until the same checks pass again. The lab is the first that
can have the fault: the default one, that of two interfaces a node (001), dual stack,
wireguard, one whose agents are hardened, ipsec.

**%d of %d faults were caught** by a check that they name, and **%d of %d were named
first** by diagnose, which does not know what was put in.

F: the check fails. ?: it is inconclusive, which is never a pass, and is all that
can be said where the fault takes away what the check measures by. A dot: it
passes, as another check sees the fault. n: it is not applicable in this lab.

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

// provenChecks is the part of the page that says of every check of the catalogue
// what proves it: faults of this run that made it fail, or a test of
// scenarios/checks. One that nothing proves fails the run.
func provenChecks(t *testing.T, all []mutant) string {
	t.Helper()
	failed := map[string][]string{}
	for _, m := range all {
		for id, verdict := range m.verdicts {
			if verdict == "fail" {
				failed[id] = append(failed[id], m.ID)
			}
		}
	}
	tests := checkTests(t)
	var b strings.Builder
	b.WriteString(`
## What proves each check

A check of the [catalogue](checks.md) that no fault makes fail is worth nothing. Of
each, the faults of the table above that made it fail, or else the tests of
` + "`scenarios/checks`" + ` that do so with faults of their own; most have both.

| check | fails under |
|---|---|
`)
	for _, c := range checks.All() {
		by := failed[c.ID]
		const enough = 4
		if more := len(by) - enough; more > 0 {
			by = append(slices.Clone(by[:enough]), fmt.Sprintf("%d more", more))
		}
		switch {
		case len(by) > 0:
		case c.Level == suite.Information:
			by = []string{"nothing: it records, and does not judge"}
		case tests[c.ID] != "":
			by = []string{"`" + tests[c.ID] + "`"}
		default:
			t.Errorf("%s: no fault and no test proves it", c.ID)
		}
		fmt.Fprintf(&b, "| %s | %s |\n", c.ID, strings.Join(by, ", "))
	}
	return b.String()
}

// checkTests are the files of scenarios/checks that prove a check, by its
// identifier; the tests there see to it that they do.
func checkTests(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../scenarios/checks/*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range checks.All() {
			if out[c.ID] == "" && strings.Contains(string(text), `"`+c.ID+`"`) {
				out[c.ID] = filepath.Base(file)
			}
		}
	}
	return out
}

// notRun names the faults whose lab this machine could not run.
func notRun(all []mutant) string {
	var ids []string
	for _, f := range faults.All() {
		if !slices.ContainsFunc(all, func(m mutant) bool { return m.ID == f.ID }) {
			ids = append(ids, f.ID)
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return fmt.Sprintf("\nNot among them, for this machine's kernel cannot run their labs: %s. `make test-kernel`\nputs those of IPsec into a lab on a kernel that can.\n", strings.Join(ids, ", "))
}
