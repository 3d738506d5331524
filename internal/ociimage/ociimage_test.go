package ociimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// small is an image whose files are not in order.
var small = Image{
	Name: "overlab.local/x:1", Architecture: "amd64",
	Files: []File{
		{Path: "/usr/bin/b", Mode: 0o755, Data: []byte("bee")},
		{Path: "/bin/a", Target: "../usr/bin/b"},
	},
	Config: ocispec.ImageConfig{Cmd: []string{"/bin/a"}},
}

// unpack reads an archive into a map from path to content; links have "-> " in
// front of where they lead, folders nothing.
func unpack(t *testing.T, r io.Reader) (content map[string]string, order []string) {
	t.Helper()
	content = map[string]string{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return content, order
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		content[h.Name], order = string(b), append(order, h.Name)
		if h.Linkname != "" {
			content[h.Name] = "-> " + h.Linkname
		}
		if h.Uid != 0 || h.ModTime.Unix() != 0 {
			t.Errorf("%s belongs to %d and is of %s", h.Name, h.Uid, h.ModTime)
		}
	}
}

func decode[T any](t *testing.T, text string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}

func TestArchiveLeadsFromIndexToFiles(t *testing.T) {
	var b bytes.Buffer
	named, err := small.Write(&b)
	if err != nil {
		t.Fatal(err)
	}
	files, _ := unpack(t, &b)
	blob := func(d digest.Digest, size int64) string {
		text := files["blobs/sha256/"+d.Encoded()]
		if digest.FromString(text) != d || int64(len(text)) != size {
			t.Fatalf("the blob of %s has %d bytes", d, len(text))
		}
		return text
	}
	index := decode[ocispec.Index](t, files["index.json"]).Manifests[0]
	if index.Digest != named || index.Annotations["io.containerd.image.name"] != small.Name || index.Annotations[ocispec.AnnotationRefName] != "1" {
		t.Errorf("the index leads to %+v", index)
	}
	manifest := decode[ocispec.Manifest](t, blob(index.Digest, index.Size))
	config := decode[ocispec.Image](t, blob(manifest.Config.Digest, manifest.Config.Size))
	if config.OS != "linux" || config.Architecture != "amd64" || !slices.Equal(config.Config.Cmd, small.Config.Cmd) || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Errorf("the configuration is %+v", config)
	}
	layer, order := unpack(t, strings.NewReader(blob(manifest.Layers[0].Digest, manifest.Layers[0].Size)))
	if want := []string{"bin/", "bin/a", "usr/", "usr/bin/", "usr/bin/b"}; !slices.Equal(order, want) {
		t.Errorf("the layer holds %q, want %q", order, want)
	}
	if layer["bin/a"] != "-> ../usr/bin/b" || layer["usr/bin/b"] != "bee" {
		t.Errorf("the layer's files are %q", layer)
	}
	docker := decode[[]struct {
		Config           string
		RepoTags, Layers []string
	}](t, files["manifest.json"])[0]
	if files[docker.Config] == "" || files[docker.Layers[0]] == "" || docker.RepoTags[0] != small.Name {
		t.Errorf("docker's manifest leads to %+v", docker)
	}
}

func TestSameImageSameDigest(t *testing.T) {
	first, err := small.Write(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	other := small
	other.Files = []File{small.Files[1], small.Files[0]}
	if again, err := other.Write(io.Discard); err != nil || again != first {
		t.Errorf("another order of files gives %s, %v; want %s", again, err, first)
	}
	other.Files = small.Files[:1]
	if changed, err := other.Write(io.Discard); err != nil || changed == first {
		t.Errorf("other files give %s, %v", changed, err)
	}
}

func TestPodImage(t *testing.T) {
	program := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(program, []byte("ELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	i, err := Pod(program)
	if err != nil {
		t.Fatal(err)
	}
	has := func(path string) bool {
		return slices.ContainsFunc(i.Files, func(f File) bool { return f.Path == path })
	}
	for _, name := range []string{"sh", "ping", "ip", "sleep", "busybox"} {
		if !has("/bin/" + name) {
			t.Errorf("the image has no %s", name)
		}
	}
	if !slices.IsSorted(applets) {
		t.Error("the applets are out of order")
	}
	if static(program) {
		t.Error("what is no program is taken for a static one")
	}
	if _, err := Pod(program + "-none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without busybox: %v", err)
	}
}
