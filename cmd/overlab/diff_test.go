package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/overlab/overlab/harness/oracle"
	"github.com/overlab/overlab/labs"
)

// TestDiffOfLabs: what a lab has when it is up is what the oracle says, on
// every lab that ships and with every backend, wherever this machine can run
// it. The node of by-hand has no agent, and lacks just what one would make.
func TestDiffOfLabs(t *testing.T) {
	for name, backend := range map[string]string{
		"udp": "{Backend: {Type: udp}}", "ipip": "{Backend: {Type: ipip}}", "ipip-direct": "{Backend: {Type: ipip, DirectRouting: true}}",
		"alloc": "{Backend: {Type: alloc}}", "nftables": "{EnableNFTables: true}",
		"options": "{Backend: {Type: vxlan, VNI: 7, Port: 4789, GBP: true, Learning: true}}",
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "lab.yaml")
			spec := "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: lab}\nspec: {network: " + backend + "}\n"
			if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
				t.Fatal(err)
			}
			diffOf(t, file)
		})
	}
	for _, l := range labs.All() {
		t.Run(l.Name, func(t *testing.T) {
			if l.Name != "by-hand" {
				diffOf(t, l.Name)
				return
			}
			o := newOverlab(t)
			upOrSkip(t, o, l.Name)
			d := o.diff(t, 1)
			for _, e := range d.Entries {
				if e.Space() != "by-hand" && e.Peer != "by-hand" {
					t.Errorf("it is not of the node without an agent: %s %s", e.Space(), e)
				}
			}
			if len(d.Entries) != 15 {
				t.Errorf("%d differences, want 15", len(d.Entries))
			}
		})
	}
}

// TestDiffState: two labs of which one is another's spec with other names and
// addresses where the spec leaves them to the lab have one state, and ports of
// pods are no difference.
func TestDiffState(t *testing.T) {
	spec := func(name, lan, master string) string {
		file := filepath.Join(t.TempDir(), name+".yaml")
		text := "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: " + name + "}\nspec:\n" +
			"  network: {EnableNFTables: true}\n  underlay: [{name: lan, cidr: " + lan + "}]\n" +
			"  nodes: [{name: master, role: control-plane, podCIDR: " + master + "}, {name: node}]\n" +
			"  pods: [{name: web, node: node, ports: [{hostPort: 8080, containerPort: 80}]}]\n  podsPerNode: 1\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	o := newOverlab(t)
	upOrSkip(t, o, spec("one", "172.16.1.0/24", "10.244.0.0/24"))
	o.must(t, "up", spec("other", "192.168.7.0/24", "10.244.9.0/24"))
	one, other := o.must(t, "diff", "--state", "--name=one"), o.must(t, "diff", "--state", "--name=other")
	if one != other || !strings.Contains(one, "node: ip route: {master pods}/24 via {master pods} dev flannel.1 onlink\n") {
		t.Errorf("one has\n%s\nand the other\n%s", one, other)
	}
	var state oracle.State
	if err := json.Unmarshal([]byte(o.must(t, "diff", "--state", "--name=one", "-o", "json", "web")), &state); err != nil || len(state.Spaces) != 1 || state.Spaces[0].Name != "web" {
		t.Errorf("%+v, %v", state, err)
	}
	if d := o.diff(t, 0, "--name=one"); !d.Same() {
		t.Errorf("%+v", d.Entries)
	}
}

// diffOf brings a lab up, and expects no difference soon: where a machine is
// slow, agents may still be about what lets pods out of the overlay, and the
// store may take its time.
func diffOf(t *testing.T, lab string) {
	t.Helper()
	o := newOverlab(t)
	upOrSkip(t, o, lab)
	var last result
	if !poll(patience, func() bool {
		var d oracle.Diff
		last = o.run(t, "diff", "-o", "json")
		return last.code == 0 && json.Unmarshal([]byte(last.out), &d) == nil && len(d.Unread) == 0
	}) {
		t.Errorf("it differs, or is not compared: %s", last)
	}
}

// upOrSkip brings a lab up, unless this machine cannot.
func upOrSkip(t *testing.T, o *overlab, lab string) {
	t.Helper()
	needLabs(t)
	r := o.run(t, "up", lab)
	if r.code != 0 && lacks(r.err) {
		t.Skipf("SKIPPED, NOT TESTED: %s", r.err)
	}
	if r.code != 0 {
		t.Fatalf("overlab up %s: %s", lab, r)
	}
}

// lacks reports whether what overlab says is that the machine, or its user,
// lacks something.
func lacks(said string) bool {
	return strings.Contains(said, "/dev/net/tun") || strings.Contains(said, "overlab: kernel ") || strings.Contains(said, "overlab: spec.runtime: containerd")
}

// diff runs overlab diff -o json, which ends with the code.
func (o *overlab) diff(t *testing.T, code int, args ...string) oracle.Diff {
	t.Helper()
	var d oracle.Diff
	r := o.run(t, append([]string{"diff", "-o", "json"}, args...)...)
	if r.code != code {
		t.Fatalf("overlab diff: %s", r)
	}
	if err := json.Unmarshal([]byte(r.out), &d); err != nil {
		t.Fatalf("overlab diff: %v: %s", err, r)
	}
	return d
}

// TestDiffCommand: the text, the exit codes, and one node or pod alone.
//
//	master --- node-1 --- node-2     172.16.1.0/24
//	pod-1,2    pod-3,4    pod-5,6
func TestDiffCommand(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	o.must(t, "up")
	if r := o.run(t, "diff"); r.code != 0 || r.out != "no difference: 171 entries on 9 namespaces\n" {
		t.Errorf("a lab that is as it ought to be: %s", r)
	}
	o.must(t, "exec", "node-1", "--", "sed", "-i", "s/MTU=1450/MTU=1500/", "/run/flannel/subnet.env")
	o.must(t, "exec", "pod-3", "--", "ip", "route", "del", "10.244.0.0/16")
	o.must(t, "exec", "pod-5", "--", "ip", "route", "del", "default")
	r := o.run(t, "diff", "--mend", "pod-3")
	if want := `pod-3
  ip route
  - 10.244.0.0/16 via 10.244.1.1 dev eth0  # the overlay
      $ ip route replace 10.244.0.0/16 via 10.244.1.1 dev eth0

1 difference on 1 of 1 namespace: 1 missing
`; r.code != 1 || r.out != want {
		t.Errorf("pod-3: %s\nwant\n%s", r, want)
	}
	d := o.diff(t, 1)
	if d.APIVersion == "" || len(d.Compared) != 9 {
		t.Errorf("version %q, compared %q", d.APIVersion, d.Compared)
	}
	for _, space := range []string{"pod-3", "pod-5"} {
		if len(d.In(space)) != 1 {
			t.Errorf("%s differs in %v, want in a route", space, d.In(space))
		}
	}
	for _, e := range d.Entries {
		o.must(t, "exec", e.Space(), "--", "sh", "-c", e.Mend)
	}
	o.diff(t, 0)
	o.diff(t, 0, "node-1", "pod-3")
	if r := o.run(t, "diff", "node-9"); r.code != 2 || !strings.Contains(r.err, `no node or pod "node-9"`) {
		t.Errorf("an unknown node: %s", r)
	}
	if names := strings.Split(o.must(t, "__complete", "diff", "node-1", ""), "\n"); slices.ContainsFunc(names, func(s string) bool { return strings.HasPrefix(s, "node-1\t") }) || !slices.ContainsFunc(names, func(s string) bool { return strings.HasPrefix(s, "pod-3\t") }) {
		t.Errorf("completion offers %q", names)
	}
}
