package nodeimage

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/overlab/overlab/internal/ociimage"
)

// TestDo: what is finished is not made again, and what an interrupted step left
// is no result.
func TestDo(t *testing.T) {
	var told []Progress
	b := &builder{dir: t.TempDir(), Options: Options{Progress: func(p Progress) { told = append(told, p) }}}
	made := 0
	s := step{name: "thing", result: "thing", about: "no time", make: func(b *builder, _ context.Context, s step) error {
		made++
		partial, err := b.fresh(s)
		if err != nil {
			return err
		}
		if _, err := os.Stat(partial); err == nil {
			t.Error("what was left is still there")
		}
		return errors.Join(os.WriteFile(partial, nil, 0o600), b.place(s))
	}}
	if err := os.MkdirAll(filepath.Join(b.dir, "thing.partial", "left"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.do(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	if made != 1 || len(told) != 2 || told[0].Detail != "no time" || told[1].Took == 0 {
		t.Errorf("made %d times, told %+v", made, told)
	}
}

func TestDoFails(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	b := &builder{dir: t.TempDir(), Options: Options{Progress: func(Progress) {}}}
	broken := errors.New("no space")
	s := step{name: "thing", result: "thing", make: func(*builder, context.Context, step) error { return broken }}
	if err := b.do(ctx, s); !errors.Is(err, broken) || !strings.Contains(err.Error(), "thing") || !strings.Contains(err.Error(), b.dir) {
		t.Errorf("a step that fails: %v", err)
	}
	interrupted := errors.New("interrupted")
	cancel(interrupted)
	if err := b.do(ctx, s); !errors.Is(err, interrupted) {
		t.Errorf("a step that is interrupted: %v", err)
	}
}

func TestOneBuildAtATime(t *testing.T) {
	dir := t.TempDir()
	lock, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir); !errors.Is(err, ErrRunning) {
		t.Errorf("a second build: %v", err)
	}
	lock.Close()
	lock, err = claim(dir)
	if err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	lock.Close()
}

func TestCached(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	if _, err := Cached(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an empty cache: %v", err)
	}
	file := archive(filepath.Join(cache, "overlab", "node-image"))
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if got, err := Cached(); err != nil || got != file {
		t.Errorf("%s, %v; want %s", got, err, file)
	}
	if got, err := Build(t.Context(), Options{}); err != nil || got != file {
		t.Errorf("a build of what is there: %s, %v", got, err)
	}
}

func TestStaging(t *testing.T) {
	mod := "module k8s.io/kubernetes\n\nrequire (\n\tk8s.io/api v0.0.0\n)\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\tk8s.io/kube-proxy => ./staging/src/k8s.io/kube-proxy\n)\n"
	var got []string
	for _, m := range staging.FindAllStringSubmatch(mod, -1) {
		got = append(got, m[1])
	}
	if want := "k8s.io/api k8s.io/kube-proxy"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestLinked: a program of this machine comes with its loader and libraries.
func TestLinked(t *testing.T) {
	const program = "/usr/bin/dash"
	if _, err := os.Stat(program); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this machine has no %s: %v", program, err)
	}
	l := linked{root: "/", have: map[string]bool{}}
	if err := l.add(program); err != nil {
		t.Fatal(err)
	}
	have := map[string]ociimage.File{}
	for _, f := range l.files {
		have[filepath.Base(f.Path)] = f
	}
	for _, want := range []string{"dash", "libc.so.6"} {
		if f, ok := have[want]; !ok || f.Source == "" {
			t.Errorf("no %s among %v", want, l.files)
		}
	}
	if len(l.files) < 3 {
		t.Errorf("no loader among %v", l.files)
	}
}

func TestCheckNeedsRoot(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Setenv("PATH", t.TempDir())
		err := Check()
		for _, want := range []string{"needs go: install Go", "needs debootstrap: apt-get install debootstrap"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("without programs: no %q in %v", want, err)
			}
		}
		return
	}
	if err := Check(); err == nil || !strings.Contains(err.Error(), "only root can build a node image") {
		t.Errorf("an ordinary user: %v", err)
	}
}
