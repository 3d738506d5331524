package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/overlab/overlab/labs"
	"github.com/overlab/overlab/topology"
)

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Hidden {
			return
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short help %q", cmd.CommandPath(), cmd.Short)
		}
		if cmd.Example == "" {
			t.Errorf("%s has no example", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example is not indented: %q", cmd.CommandPath(), line)
			}
		}
		// With the flag that cobra adds to each, as its help shows it.
		cmd.InitDefaultHelpFlag()
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example + "\n" + cmd.UsageString()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, " \n")); n > helpWidth {
				t.Errorf("%s: a line of the help has %d columns: %q", cmd.CommandPath(), n, line)
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	// Cobra adds help and completion later; their texts are its own.
	walk(newRoot(streams{in: strings.NewReader(""), out: new(bytes.Buffer), err: new(bytes.Buffer)}))
}

func TestUsage(t *testing.T) {
	o := newOverlab(t)
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, 0, "overlab up"},
		{[]string{"up", "--help"}, 0, "Examples:"},
		{[]string{"upp"}, 2, "up"},
		{[]string{"up", "--nmae", "x"}, 2, "see `overlab up --help`"},
		{[]string{"up", "a", "b"}, 2, "at most 1 arg"},
		{[]string{"ls", "-o", "xml"}, 2, `"xml" is none of table, json, yaml`},
		{[]string{"test", "-o", "yaml"}, 2, "none of text, json"},
		{[]string{"supervise", "{}"}, 2, "called by `overlab up`"},
	} {
		r := o.run(t, c.args...)
		if r.code != c.code || !strings.Contains(r.out+r.err, c.says) {
			t.Errorf("%q: %s, want %d and %q", c.args, r, c.code, c.says)
		}
	}
}

func TestEnvironmentTwins(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	with := func(variable string, args ...string) result {
		t.Helper()
		cmd := o.command(args...)
		cmd.Env = append(cmd.Env, variable)
		return finish(t, cmd)
	}
	if r := with("OVERLAB_NAME=one", "up"); r.code != 0 {
		t.Fatal("OVERLAB_NAME=one up:", r)
	}
	o.must(t, "up", "--name", "two")
	script := []string{"exec", "node-1", "--", "sh", "-c", "echo $OVERLAB_LAB"}
	for _, name := range []string{"one", "two"} {
		if r := with("OVERLAB_NAME="+name, script...); r.out != name+"\n" {
			t.Errorf("OVERLAB_NAME=%s: %s", name, r)
		}
	}
	// The flag beats the variable.
	flagged := append([]string{"exec", "--name", "two"}, script[1:]...)
	if r := with("OVERLAB_NAME=one", flagged...); r.out != "two\n" {
		t.Error("--name two with OVERLAB_NAME=one:", r)
	}
	if r := with("OVERLAB_NAME=two", "test", "-o", "json", "NM-01"); r.code != 0 || !strings.Contains(r.out, `"lab": "two"`) {
		t.Error("OVERLAB_NAME=two test:", r)
	}
	if r := with("OVERLAB_OUTPUT=json", "ls"); !json.Valid([]byte(r.out)) {
		t.Error("OVERLAB_OUTPUT=json ls:", r)
	}
	if r := with("OVERLAB_OUTPUT=xml", "ls"); r.code != 2 || !strings.Contains(r.err, "OVERLAB_OUTPUT=xml") {
		t.Error("OVERLAB_OUTPUT=xml ls:", r)
	}
}

// Colours are for people: on a terminal, and unless NO_COLOR says no.
func TestColours(t *testing.T) {
	o := labUp(t)
	const escape = "\x1b[3"
	if out := o.must(t, "test", "NM-01"); strings.Contains(out, "\x1b") {
		t.Errorf("escapes in a pipe: %q", out)
	}
	for variable, want := range map[string]bool{"": true, "NO_COLOR=1": false, "TERM=dumb": false} {
		cmd := o.command("test", "NM-01")
		if variable != "" {
			cmd.Env = append(cmd.Env, variable)
		}
		x := onTerminal(t, cmd)
		if code := x.exit(t); code != 0 {
			t.Errorf("%s: exit code %d", variable, code)
		}
		if got := strings.Contains(x.text(), escape); got != want {
			t.Errorf("%q: colours: %v, want %v: %q", variable, got, want, x.text())
		}
	}
}

func TestCompletion(t *testing.T) {
	o := newOverlab(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		script := o.must(t, "completion", shell)
		if !strings.Contains(script, "overlab") {
			t.Errorf("completion %s prints %d bytes", shell, len(script))
		}
		if path, err := exec.LookPath(shell); err == nil && shell == "bash" {
			cmd := exec.Command(path, "-n")
			cmd.Stdin = strings.NewReader(script)
			if r := finish(t, cmd); r.code != 0 {
				t.Error("bash cannot read its script:", r)
			}
		}
	}
	// words are the words that the shell is offered.
	words := func(args ...string) []string {
		t.Helper()
		var out []string
		for line := range strings.Lines(o.must(t, append([]string{"__complete"}, args...)...)) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			out = append(out, word)
		}
		return out
	}
	offers := func(want string, args ...string) {
		t.Helper()
		if got := words(args...); !slices.Contains(got, want) {
			t.Errorf("overlab %s<TAB> offers %q, not %s", strings.Join(args, " "), got, want)
		}
	}
	offers("up", "")
	offers("000-vxlan-walk", "up", "")
	offers("TTL-03", "test", "")
	offers("json", "ls", "-o", "")
	if got := words("exec", ""); slices.Contains(got, "node-1") {
		t.Errorf("without a lab exec offers %q", got)
	}
	needLabs(t)
	o.must(t, "up")
	offers("node-1", "exec", "")
	offers("pod-6", "exec", "")
	offers("master", "shell", "")
	offers("default", "down", "")
	offers("default", "exec", "--name", "")
}

func TestDoctor(t *testing.T) {
	needLabs(t)
	o := newOverlab(t)
	machine := o.watch(t)
	var report struct {
		APIVersion string
		Features   []struct {
			Name, Detail, Mend string
			OK, Needed         bool
		}
	}
	o.json(t, &report, "doctor", "-o", "json")
	if report.APIVersion != topology.APIVersion {
		t.Errorf("apiVersion %q", report.APIVersion)
	}
	found := map[string]bool{}
	for _, f := range report.Features {
		found[f.Name] = true
		if f.Needed && !f.OK {
			t.Errorf("labs run here, but %s is missing: %s", f.Name, f.Detail)
		}
		if !f.OK && f.Mend == "" {
			t.Errorf("no mend for %s", f.Name)
		}
	}
	for _, name := range []string{"namespaces", "links of type vxlan", "packet capture", "ip", "tcpdump"} {
		if !found[name] {
			t.Errorf("no word about %s", name)
		}
	}
	contains(t, o.must(t, "doctor"), "✓ links of type vxlan")
	machine.unchanged(t, "doctor")

	cmd := o.command("doctor")
	cmd.Env = append(cmd.Env, "PATH=/nonexistent")
	if r := finish(t, cmd); r.code != 0 || !strings.Contains(r.out, "sudo apt-get install") && !strings.Contains(r.out, "/sbin/") {
		t.Error("doctor without tools:", r)
	}
}

func TestShippedLabs(t *testing.T) {
	o := newOverlab(t)
	table := o.must(t, "ls", "--shipped")
	for _, l := range labs.All() {
		contains(t, table, l.Name, l.Title)
		if r := o.run(t, "validate", l.Name); r.code != 0 && lacks(r.err) {
			t.Logf("NOT TESTED: %s", r.err)
		} else {
			contains(t, r.out, "valid")
		}
		var p topology.Plan
		if o.json(t, &p, "plan", "-o", "json", l.Name); len(p.Nodes) == 0 {
			t.Errorf("plan of %s: %+v", l.Name, p)
		}
	}
	contains(t, o.must(t, "plan"), "node-1", "172.16.1.2")
	contains(t, o.must(t, "plan", "000", "-o", "yaml"), "ubuntu-1")
	var schema map[string]any
	o.json(t, &schema, "schema")
	if schema["$schema"] == nil {
		t.Error("schema prints no schema")
	}
	var version map[string]string
	if o.json(t, &version, "version", "-o", "json"); version["apiVersion"] != topology.APIVersion || version["version"] == "" {
		t.Errorf("version: %v", version)
	}
	if _, err := os.Stat(o.state); err == nil {
		t.Error("reading labs made a state folder")
	}
}
