package topology

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// header makes a lab file of the keys below spec; the first of them is on
// line 4.
const header = "apiVersion: overlab/v1alpha1\nkind: Lab\nspec:\n"

// errorLines returns the lines of a parse error without the file's name.
func errorLines(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(strings.ReplaceAll(err.Error(), "lab.yaml:", ""), "\n")
}

// badSpec is a spec with all that is wrong with it.
type badSpec struct {
	name, spec string
	want       []string
}

func testBad(t *testing.T, prefix string, tests []badSpec) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			spec, err := Parse("lab.yaml", []byte(prefix+tt.spec))
			if spec != nil || err == nil {
				t.Fatalf("Parse accepted it")
			}
			if diff := cmp.Diff(tt.want, errorLines(err)); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadFiles(t *testing.T) {
	const smallest = "the smallest lab is {apiVersion: overlab/v1alpha1, kind: Lab, spec: {}}"
	testBad(t, "", []badSpec{
		{"empty", "", []string{"1:1: the file is empty; " + smallest}},
		{"comment alone", "# a lab\n", []string{"1:1: the file is empty; " + smallest}},
		{"document mark alone", "---\n", []string{"1:1: the file is empty; " + smallest}},
		{"null", "~\n", []string{"1:1: the file is empty; " + smallest}},
		{"list", "\n- a\n", []string{"2:1: the file holds a list; " + smallest}},
		{"word", "lab", []string{`1:1: the file holds "lab"; ` + smallest}},
		{"tabs", header + "\tnodes: []\n", []string{"4:1: a tab indents this line; YAML indents with spaces only"}},
		{"tab after spaces", header + "  nodes:\n  \t- {name: a}\n", []string{"5:3: a tab indents this line; YAML indents with spaces only"}},
		{"not YAML", header + "  nodes: [{name: a}\n", []string{"4:1: not YAML: did not find expected ',' or ']'"}},
		{"unknown alias", header + "  nodes: *n\n", []string{"4:10: the alias *n stands for nothing; write &n before the value that it repeats, above"}},
		{"control characters", "a: \x00", []string{"1:1: not YAML: control characters are not allowed"}},
		{"not UTF-8", "a: \xff\xff", []string{"1:1: not YAML: invalid leading UTF-8 octet"}},
		{"two documents", "apiVersion: overlab/v1alpha1\nkind: Lab\nspec: {}\n---\nkind: Lab\n",
			[]string{`4:1: a second document begins here; a lab file holds one: remove the "---" or split the file`}},
		{"no keys", "{}", []string{
			"1:1: apiVersion: is missing; write apiVersion: overlab/v1alpha1",
			"1:1: kind: is missing; write kind: Lab",
			"1:1: spec: is missing; spec: {} is a master and two workers with two pods each",
		}},
		{"other version and kind", "apiVersion: overlab/v1\nkind: Pod\nspec: {}\n", []string{
			`1:13: apiVersion: is "overlab/v1"; this build reads overlab/v1alpha1`,
			`2:7: kind: is "Pod"; this build reads Lab`,
		}},
		{"lab name", "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: a/b}\nspec: {}\n",
			[]string{`3:18: metadata.name: is "a/b"; write lower-case letters, digits and hyphens, with no hyphen first or last`}},
		{"long lab name", "apiVersion: overlab/v1alpha1\nkind: Lab\nmetadata: {name: " + strings.Repeat("a", 41) + "}\nspec: {}\n",
			[]string{`3:18: metadata.name: is "` + strings.Repeat("a", 41) + `", 41 characters long; at most 40`}},
		{"duplicate key", "apiVersion: overlab/v1alpha1\nkind: Lab\nkind: Lab\nspec: {}\n",
			[]string{"3:1: kind: is written twice; the first is on line 2: keep one"}},
		{"large", strings.Repeat("# lab\n", MaxFileSize/6+1), []string{"1:1: the file is larger than 1 MiB, the most that a lab file may be"}},
		{"aliases without end", "a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\n" +
			"apiVersion: overlab/v1alpha1\nkind: Lab\nspec:\n  nodes:\n  - &n {name: n, agent: {args: &r [" + strings.Repeat("x,", 1000) + "]}}\n" + strings.Repeat("  - *n\n", 1000),
			[]string{"1:1: the file's aliases expand to more than 100000 values; write out what is needed"}},
		{"an alias of itself", "apiVersion: overlab/v1alpha1\nkind: Lab\nspec: &s\n  nodes:\n  - *s\n", []string{
			"3:7: spec.nodes[0].name: is missing",
			`4:3: spec.nodes[0].nodes: is not a key that is known here; known are name, role, count, podCIDR, podCIDR6, interfaces, routes, vtepMAC, bridgeMAC, agent`,
		}},
		{"a merge of itself", "apiVersion: overlab/v1alpha1\nkind: Lab\nspec: &s\n  <<: *s\n", []string{
			"3:7: spec: merges itself; an anchor cannot hold its own alias",
		}},
	})
}

func TestBadStructure(t *testing.T) {
	testBad(t, header, []badSpec{
		{"unknown keys", "  pod: []\n  network: {network: 10.0.0.0/8, Backned: {}}\n  wheels: 4\n", []string{
			`4:3: spec.pod: is not a key that is known here; did you mean "pods"?`,
			`5:13: spec.network.network: is not a key that is known here; did you mean "Network"?`,
			`5:34: spec.network.Backned: is not a key that is known here; did you mean "Backend"?`,
			`6:3: spec.wheels: is not a key that is known here; known are provider, network, serviceCIDR, ipv6, underlay, routers, nodes, pods, podsPerNode, runtime, image, agent, store, cni`,
		}},
		{"odd keys", "  ? [a]\n  : b\n  \"a b\": c\n", []string{
			"4:5: spec: has a list for a key; keys are words",
			`6:3: spec["a b"]: is not a key that is known here; known are provider, network, serviceCIDR, ipv6, underlay, routers, nodes, pods, podsPerNode, runtime, image, agent, store, cni`,
		}},
		{"a misspelt required key is one error", "  nodes: [{nmae: a}]\n  pods: [{nam: p, node: a}]\n", []string{
			`4:12: spec.nodes[0].nmae: is not a key that is known here; did you mean "name"?`,
			`5:11: spec.pods[0].nam: is not a key that is known here; did you mean "name"?`,
		}},
		{"types", "  agent: {command: [1, x], args: foo, ipMasq: yes, iface: [], publicIP: 172.16.1.1/24}\n  podsPerNode: two\n  nodes: {name: a}\n  underlay: [lan, ]\n  network: {Network: 10.244.0.0, SubnetLen: 24.5, SubnetMin: fe80::1%eth0}\n", []string{
			"4:21: spec.agent.command[0]: is the number 1; text belongs here: put it in quotes",
			`4:34: spec.agent.args: is "foo"; a list belongs here, one item after each "- "`,
			`4:47: spec.agent.ipMasq: is "yes"; true or false belongs here`,
			"4:59: spec.agent.iface: is a list; text belongs here",
			`4:73: spec.agent.publicIP: is "172.16.1.1/24"; an IP address such as 172.16.1.8, without a prefix length, belongs here`,
			`5:16: spec.podsPerNode: is "two"; a whole number belongs here`,
			`6:10: spec.nodes: is a mapping of keys; a list belongs here, one item after each "- "`,
			`7:14: spec.underlay[0]: is "lan"; a mapping of keys belongs here`,
			`8:22: spec.network.Network: is "10.244.0.0"; a CIDR such as 172.16.1.0/24 or fd00::/64 belongs here`,
			"8:45: spec.network.SubnetLen: is the number 24.5; a whole number belongs here",
			`8:62: spec.network.SubnetMin: is "fe80::1%eth0", with a zone; write the address alone`,
		}},
		{"empty items", "  nodes:\n  -\n  - {name: a}\n", []string{"5:4: spec.nodes[0]: is an empty item; fill it or remove it"}},
		{"a number without end", "  podsPerNode: " + strings.Repeat("9", 50) + "\n", []string{
			"4:16: spec.podsPerNode: is the number 999999999999999999999999999999…; a whole number belongs here",
		}},
		{"merge of a word", "  <<: x\n", []string{`4:7: spec: merges "x"; "<<" takes the alias of a mapping`}},
	})
}

func TestStructureAndMeaningTogether(t *testing.T) {
	testBad(t, header, []badSpec{{"both", "  nodes:\n  - {name: a, rol: worker}\n  - {name: b, podCIDR: 10.9.0.0/24}\n  pods:\n  - {name: p, node: b, address: 10.244.0.9}\n", []string{
		`5:15: spec.nodes[0].rol: is not a key that is known here; did you mean "role"?`,
		"6:24: spec.nodes[1].podCIDR: is 10.9.0.0/24, outside the overlay's network 10.244.0.0/16; choose 10.244.1.0/24",
	}}})
}

func TestErrorsAreFoundOneByOne(t *testing.T) {
	_, err := Parse("lab.yaml", []byte(header+"  podsPerNode: -1\n"))
	var one Error
	if !errors.As(err, &one) {
		t.Fatalf("%v holds no Error", err)
	}
	want := Error{File: "lab.yaml", Line: 4, Column: 16, Path: "spec.podsPerNode", Msg: "is -1; it must be 0 to 1023, the ports of a node's bridge"}
	if one != want {
		t.Errorf("got %+v, want %+v", one, want)
	}
}

func TestManyErrorsAreCut(t *testing.T) {
	_, err := Parse("lab.yaml", []byte(header+"  nodes:\n"+strings.Repeat("  - {nome: a}\n", 150)))
	lines := errorLines(err)
	if len(lines) != 101 || lines[100] != "and 50 more errors" {
		t.Errorf("%d lines, the last %q", len(lines), lines[len(lines)-1])
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("lab.yaml", []byte("{apiVersion: overlab/v1alpha1, kind: Lab, spec: {}}"))
	if _, err := Load(good); err != nil {
		t.Errorf("the smallest lab: %v", err)
	}
	huge := write("huge.yaml", make([]byte, 10<<20))
	for path, want := range map[string]string{
		huge:                       huge + ":1:1: the file is larger than 1 MiB, the most that a lab file may be",
		filepath.Join(dir, "gone"): "reading the lab file: open " + filepath.Join(dir, "gone") + ": no such file or directory",
		dir:                        "reading the lab file: read " + dir + ": is a directory",
	} {
		if _, err := Load(path); err == nil || err.Error() != want {
			t.Errorf("Load(%s): %v, want %s", path, err, want)
		}
	}
}

func TestSuggestions(t *testing.T) {
	keys := []string{"name", "role", "podCIDR", "interfaces", "SubnetLen", "mtu"}
	for word, want := range map[string]string{
		"nmae": "name", "podcidr": "podCIDR", "interface": "interfaces", "subnet": "SubnetLen", "mt": "mtu",
		"": "", "x": "", "gateway": "", strings.Repeat("n", 100): "",
	} {
		if got := Nearest(word, keys); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
