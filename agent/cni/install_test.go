package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInstall(t *testing.T) {
	from, node := t.TempDir(), t.TempDir()
	write := func(path, text string) string {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	i := Installation{
		Program: write(filepath.Join(from, "overlab-cni"), "new"), BinDir: filepath.Join(node, "opt/cni/bin"),
		Config: write(filepath.Join(from, "cni-conf.json"), "{}"), ConfigFile: filepath.Join(node, "etc/cni/net.d/10-overlab.conflist"),
	}
	plugin := filepath.Join(i.BinDir, "overlab-cni")
	for _, run := range []string{"onto a fresh node", "over an older plugin"} {
		if err := i.Install(); err != nil {
			t.Fatalf("%s: %v", run, err)
		}
		for path, want := range map[string]struct {
			text string
			mode os.FileMode
		}{plugin: {"new", 0o755}, i.ConfigFile: {"{}", 0o644}} {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(b) != want.text || st.Mode() != want.mode {
				t.Errorf("%s: %s has mode %v and %q, want %v and %q", run, path, st.Mode(), b, want.mode, want.text)
			}
			files, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(files) != 1 {
				t.Errorf("%s: %v lie beside %s (%v)", run, files, path, err)
			}
		}
		write(plugin, "old")
	}
}

// TestInstallRefuses: without its program a plugin's configuration would make
// the runtime fail every pod, so it is not installed.
func TestInstallRefuses(t *testing.T) {
	from, node := t.TempDir(), t.TempDir()
	conf := filepath.Join(from, "cni-conf.json")
	if err := os.WriteFile(conf, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	i := Installation{Program: filepath.Join(from, "overlab-cni"), BinDir: node, Config: conf, ConfigFile: filepath.Join(node, "10.conflist")}
	err := i.Install()
	if err == nil || !strings.Contains(err.Error(), "install the CNI plugin: ") || !strings.Contains(err.Error(), i.Program) {
		t.Errorf("without the program: %v", err)
	}
	if left, err := os.ReadDir(node); err != nil || len(left) != 0 {
		t.Errorf("left %v (%v)", left, err)
	}
}
