package netns

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	got := environment([]string{"A=1", "PATH=/home/u/bin::.:/usr/bin:/home/u/bin"}, "node-1", "default")
	want := []string{
		"A=1",
		"PATH=" + binFolder + ":/home/u/bin:/usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin:/bin",
		"HOSTNAME=node-1", "OVERLAB_LAB=default",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestFindIn(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"program": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	path := "/nonexistent:" + dir
	if got, err := findIn(path, "program"); err != nil || got != filepath.Join(dir, "program") {
		t.Errorf("findIn(program) = %s, %v", got, err)
	}
	for _, name := range []string{"text", "nothing"} {
		if got, err := findIn(path, name); !errors.Is(err, errNoProgram) {
			t.Errorf("findIn(%s) = %s, %v; want errNoProgram", name, got, err)
		}
	}
	if got, err := findIn(path, "./text"); err != nil || got != "./text" {
		t.Errorf("a path is looked up: %s, %v", got, err)
	}
}
