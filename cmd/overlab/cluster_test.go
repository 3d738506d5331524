package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClusterUsage: what is wrong with how an existing cluster is asked for is
// said, with what to do, before anything is made.
func TestClusterUsage(t *testing.T) {
	o := newOverlab(t)
	config := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, current-context: dead, clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}],
users: [{name: u, user: {}}], contexts: [{name: dead, context: {cluster: c, user: u}}]}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	lab := filepath.Join(t.TempDir(), "lab.yaml")
	if err := os.WriteFile(lab, []byte("apiVersion: overlab/v1alpha1\nkind: Lab\nspec: {provider: kubernetes}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) result {
		cmd := o.command(args...)
		cmd.Env = append(cmd.Env, "KUBECONFIG="+config)
		return finish(t, cmd)
	}
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"test", "--context", "dead"}, "add --provider kubernetes"},
		{[]string{"down", "--kubeconfig", config}, "add --provider kubernetes"},
		{[]string{"walk", "a", "b", "--provider", "nosuch"}, "--provider=nosuch: this build has netns and kind, and kubernetes for an existing cluster"},
		{[]string{"up", lab}, "spec.provider: kubernetes is a cluster that is there already"},
		{[]string{"up", lab, "--provider", "kubernetes"}, "an existing cluster is not built from a file"},
		{[]string{"test", "--provider", "kubernetes"}, "look at the cluster dead: "},
		{[]string{"inspect", "--provider", "kubernetes", "--context", "nosuch"}, "nosuch"},
		{[]string{"diff", "--provider", "kubernetes", "--kubeconfig", "/nosuch"}, "/nosuch"},
		{[]string{"ls", "--provider", "kubernetes"}, "dead"},
		{[]string{"down", "--provider", "kubernetes"}, "dead"},
	} {
		if r := run(c.args...); r.code != exitBroken || !strings.Contains(r.err, c.says) {
			t.Errorf("%s: %+v, without %q", c.args, r, c.says)
		}
	}
	if r := run("__complete", "test", "--provider", ""); !strings.Contains(r.out, "kubernetes\n") || !strings.Contains(r.out, "kind\n") {
		t.Errorf("completion of --provider: %+v", r)
	}
	if r := run("__complete", "test", "--context", ""); !strings.Contains(r.out, "dead\n") {
		t.Errorf("completion of --context: %+v", r)
	}
}
