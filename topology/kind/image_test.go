package kind

import (
	"bytes"
	"io"
	"log"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/overlab/overlab/internal/ociimage"
	"github.com/overlab/overlab/topology"
)

// TestPulled: an image that only a registry has is pulled from it, and is a lab's
// own, to be removed with it; one that Docker has is not.
func TestPulled(t *testing.T) {
	requireCluster(t)
	t.Setenv("OVERLAB_STATE_DIR", filepath.Join(t.TempDir(), "labs"))
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer hub.Close()
	name := strings.TrimPrefix(hub.URL, "http://") + "/kindest/node:test"
	var archive bytes.Buffer
	image := ociimage.Image{Name: name, Layers: []ociimage.Layer{ociimage.Files(ociimage.File{Path: "/kind/version", Content: []byte("v0"), Mode: 0o644})}}
	if err := ociimage.Write(&archive, image); err != nil {
		t.Fatal(err)
	}
	run := func(stdin io.Reader, args ...string) {
		t.Helper()
		if _, err := docker(t.Context(), stdin, args...); err != nil {
			t.Fatal(err)
		}
	}
	run(&archive, "load")
	before := hasImage(t.Context(), name)
	run(nil, "push", "-q", name)
	run(nil, "image", "rm", name)
	if !before || hasImage(t.Context(), name) {
		t.Fatalf("loaded: %t, and still there", before)
	}

	bring := func(image string) (*builder, error) {
		t.Helper()
		s, err := claim("pulled")
		if err != nil {
			t.Fatal(err)
		}
		b := &builder{Provider: &Provider{}, state: s, options: topology.UpOptions{NodeImage: image}}
		_, _, err = b.loadImage(t.Context())
		return b, err
	}
	b, err := bring(name)
	if err != nil || !hasImage(t.Context(), name) || b.state.Image != name {
		t.Errorf("pulled %q: %v", b.state.Image, err)
	}
	left, err := unfinished("pulled") // as if Up had been killed
	if err != nil || left.Image != name {
		t.Errorf("the killed lab's image is %+v, %v", left, err)
	}
	if err := b.state.remove(); err != nil {
		t.Fatal(err)
	}
	if b, err = bring(name); err != nil || b.state.Image != "" {
		t.Errorf("an image that was there is the lab's: %q, %v", b.state.Image, err)
	}
	if err := removeImage(t.Context(), name); err != nil || hasImage(t.Context(), name) {
		t.Errorf("removed: %v", err)
	}
	if err := b.state.remove(); err != nil {
		t.Fatal(err)
	}
	hub.Close()
	if b, err = bring(name); err == nil || !strings.Contains(err.Error(), "there is no node image "+name+" in Docker, and it cannot be pulled") {
		t.Errorf("without a registry: %v", err)
	}
	if err := b.state.remove(); err != nil {
		t.Fatal(err)
	}
}
