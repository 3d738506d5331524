package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// read returns the files of an archive.
func read(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := files[h.Name]; twice {
			t.Errorf("%s is in the archive twice", h.Name)
		}
		files[h.Name] = b
	}
}

func decode[T any](t *testing.T, b []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v in %s", err, b)
	}
	return v
}

func example(t *testing.T) Image {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("ELF"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Image{
		Name: "registry.example/one:1",
		Layers: []Layer{
			Files(File{Path: "/usr/bin/program", Mode: 0o755, Source: program}, File{Path: "/bin", Link: "usr/bin"}),
			Files(File{Path: "/etc/conf", Mode: 0o644, Content: []byte("a=1\n")}),
		},
		Config: v1.ImageConfig{Entrypoint: []string{"/usr/bin/program"}, User: "1:1"},
	}
}

// TestWrite: both tables of contents lead to the same blobs, each of which has
// the digest that it is called by.
func TestWrite(t *testing.T) {
	one := example(t)
	two := one
	two.Name = "registry.example/two:2"
	var out bytes.Buffer
	if err := Write(&out, one, two); err != nil {
		t.Fatal(err)
	}
	files := read(t, &out)
	for name, content := range files {
		if sum, ok := strings.CutPrefix(name, "blobs/sha256/"); ok {
			if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != sum {
				t.Errorf("%s has the digest %x", name, got)
			}
		}
	}
	index := decode[v1.Index](t, files["index.json"])
	docker := decode[[]dockerManifest](t, files["manifest.json"])
	if len(index.Manifests) != 2 || len(docker) != 2 {
		t.Fatalf("%d and %d images, want 2", len(index.Manifests), len(docker))
	}
	for i, want := range []string{one.Name, two.Name} {
		if got := index.Manifests[i].Annotations[containerdName]; got != want {
			t.Errorf("containerd's name of image %d is %q, want %q", i, got, want)
		}
		if got := docker[i].RepoTags; len(got) != 1 || got[0] != want {
			t.Errorf("Docker's names of image %d are %q, want %q", i, got, want)
		}
		manifest := decode[v1.Manifest](t, files[blobPath(index.Manifests[i].Digest)])
		config := decode[v1.Image](t, files[blobPath(manifest.Config.Digest)])
		if docker[i].Config != blobPath(manifest.Config.Digest) || config.Config.User != "1:1" {
			t.Errorf("image %d: configuration %s in one table, %s in the other: %+v", i, docker[i].Config, manifest.Config.Digest, config.Config)
		}
		if len(manifest.Layers) != 2 {
			t.Fatalf("image %d has %d layers, want 2", i, len(manifest.Layers))
		}
		for j, l := range manifest.Layers {
			if config.RootFS.DiffIDs[j] != l.Digest || docker[i].Layers[j] != blobPath(l.Digest) || int64(len(files[blobPath(l.Digest)])) != l.Size {
				t.Errorf("image %d: layer %d is %+v, %s and %s", i, j, l, config.RootFS.DiffIDs[j], docker[i].Layers[j])
			}
		}
		layer := read(t, bytes.NewReader(files[docker[i].Layers[0]]))
		if got := string(layer["usr/bin/program"]); got != "ELF" {
			t.Errorf("the program is %q", got)
		}
	}
}

// TestDeterministic: the same files give the same bytes, whenever they were
// written.
func TestDeterministic(t *testing.T) {
	var first, second bytes.Buffer
	if err := errors.Join(Write(&first, example(t)), Write(&second, example(t))); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same files differ")
	}
}

func TestWriteRefuses(t *testing.T) {
	calls := 0
	changing := func(w io.Writer) error {
		calls++
		_, err := w.Write([]byte{byte(calls)})
		return err
	}
	for name, c := range map[string]struct {
		layer Layer
		want  string
	}{
		"a file that is not there": {Files(File{Path: "/x", Source: "/nowhere/x"}), "write /x of a layer: open /nowhere/x"},
		"a layer that changes":     {changing, "changed while it was written"},
		"an archive not there":     {Archive("/nowhere.tar"), "read a layer: open /nowhere.tar"},
	} {
		err := Write(io.Discard, Image{Name: "x/y:1", Layers: []Layer{c.layer}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "image x/y:1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestFolders: each folder comes once, before what lies in it.
func TestFolders(t *testing.T) {
	var out bytes.Buffer
	if err := Files(File{Path: "/a/b/c"}, File{Path: "/a/d"})(&out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for archive := tar.NewReader(&out); ; {
		h, err := archive.Next()
		if err != nil {
			break
		}
		got = append(got, h.Name)
	}
	if want := "a/ a/b/ a/b/c a/d"; strings.Join(got, " ") != want {
		t.Errorf("%q, want %q", got, want)
	}
}
