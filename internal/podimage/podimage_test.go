package podimage

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
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// unpack reads an archive into a map from path to content; links have "-> " in
// front of where they lead.
func unpack(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	content := map[string]string{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return content
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		content[h.Name] = string(b)
		if h.Linkname != "" {
			content[h.Name] = "-> " + h.Linkname
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

// fakeBusybox is a file that no test runs.
func fakeBusybox(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(file, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

// The archive's index leads by digests to a layer that has busybox under every
// name, and to a configuration that runs the shell.
func TestImage(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, Program{File: fakeBusybox(t, "ELF")}); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &b)
	blob := func(d v1.Descriptor) string {
		text := files["blobs/sha256/"+d.Digest.Encoded()]
		if digest.FromString(text) != d.Digest || int64(len(text)) != d.Size {
			t.Fatalf("the blob of %s has %d bytes", d.Digest, len(text))
		}
		return text
	}
	index := decode[v1.Index](t, files["index.json"]).Manifests
	if len(index) != 1 || index[0].Annotations["io.containerd.image.name"] != Name {
		t.Fatalf("the index leads to %+v", index)
	}
	manifest := decode[v1.Manifest](t, blob(index[0]))
	config := decode[v1.Image](t, blob(manifest.Config))
	if config.OS != "linux" || config.Config.Cmd[0] != "/bin/sh" || config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest {
		t.Errorf("the configuration is %+v", config)
	}
	layer := unpack(t, strings.NewReader(blob(manifest.Layers[0])))
	if layer["bin/busybox"] != "ELF" {
		t.Errorf("busybox is %q", layer["bin/busybox"])
	}
	for _, name := range []string{"sh", "ping", "ip", "sleep", "awk", "nc"} {
		if layer["bin/"+name] != "-> busybox" {
			t.Errorf("%s is %q", name, layer["bin/"+name])
		}
	}
	if !slices.IsSorted(applets) {
		t.Error("the applets are out of order")
	}
}

func TestSameProgramSameImage(t *testing.T) {
	image := func(program string) string {
		var b bytes.Buffer
		if err := Write(&b, Program{File: fakeBusybox(t, program)}); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	first := image("one")
	if image("one") != first {
		t.Error("two images of one program differ")
	}
	if image("two") == first {
		t.Error("the images of two programs are one")
	}
	if err := Write(io.Discard, Program{File: "/none/busybox"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without busybox: %v", err)
	}
}

func TestWriteFileLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "pod.tar")
	if err := WriteFile(file, Program{File: "/none/busybox"}); err == nil {
		t.Error("no error without busybox")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if err := WriteFile(file, Program{File: fakeBusybox(t, "ELF")}); err != nil {
		t.Error(err)
	}
}

func TestFindWantsAStaticProgram(t *testing.T) {
	// A program of Go without cgo, as this is, is static.
	if !static(self) {
		t.Skip("SKIPPED, NOT TESTED: the tests are not built with CGO_ENABLED=0")
	}
	script := filepath.Dir(fakeBusybox(t, "#!/bin/sh\n"))
	if p, err := Find(script); !p.Overlab || err != nil {
		t.Errorf("a script is taken for busybox: %s, %v", p, err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "busybox")); err != nil {
		t.Fatal(err)
	}
	if p, err := Find(script + ":" + dir); p.File != filepath.Join(dir, "busybox") || p.Overlab || err != nil {
		t.Errorf("%s, %v", p, err)
	}
}

// Without busybox the image is overlab's, under the names that it answers to.
func TestImageOfOverlab(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, Program{File: fakeBusybox(t, "ELF"), Overlab: true}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"bin/overlab", "bin/ping", "bin/pause", `"Cmd":["/bin/pause"]`} {
		if !bytes.Contains(b.Bytes(), []byte(part)) {
			t.Errorf("no %s in the image", part)
		}
	}
}
