// Package ociimage writes container images without a daemon, a registry or a
// base image: from files to one archive that `docker load`, `ctr images import`
// and `kind load image-archive` read. The same files give the same digests, on
// any machine.
package ociimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image of the machine's own architecture.
type Image struct {
	// Name is the whole reference, with registry and tag; a short name would be
	// completed in a different way by each program.
	Name string
	// Layers lie on each other, the lowest first.
	Layers []Layer
	// Config is what a container of the image runs.
	Config v1.ImageConfig
}

// A Layer writes the files of one layer as a tar archive without compression.
// It is called twice, and has to write the same both times.
type Layer func(io.Writer) error

// containerdName is the annotation by which containerd knows the whole name
// (github.com/containerd/containerd/images, AnnotationImageName).
const containerdName = "io.containerd.image.name"

// dockerManifest is one entry of manifest.json, Docker's own table of contents
// (Docker Image Specification v1.2, "Combined Image JSON + Filesystem Changeset
// Format").
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes an archive that is an OCI image layout and what `docker save`
// writes at once.
func Write(w io.Writer, images ...Image) error {
	a := archive{tar: tar.NewWriter(w), have: map[digest.Digest]bool{}}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	var contents []dockerManifest
	for _, i := range images {
		manifest, docker, err := a.image(i)
		if err != nil {
			return fmt.Errorf("write the image %s: %w", i.Name, err)
		}
		index.Manifests = append(index.Manifests, manifest)
		contents = append(contents, docker)
	}
	for _, f := range []struct {
		name  string
		value any
	}{
		{v1.ImageIndexFile, index},
		{"manifest.json", contents},
		{v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion}},
	} {
		b, err := json.Marshal(f.value)
		if err == nil {
			err = a.entry(f.name, int64(len(b)), bytes.NewReader(b))
		}
		if err != nil {
			return fmt.Errorf("write %s of the archive: %w", f.name, err)
		}
	}
	return a.tar.Close()
}

// archive is an image archive that is being written.
type archive struct {
	tar  *tar.Writer
	have map[digest.Digest]bool
}

// image writes the blobs of one image.
func (a *archive) image(i Image) (v1.Descriptor, dockerManifest, error) {
	docker := dockerManifest{RepoTags: []string{i.Name}}
	config := v1.Image{
		Created:  &time.Time{},
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   i.Config,
		RootFS:   v1.RootFS{Type: "layers"},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for _, l := range i.Layers {
		d, err := a.layer(l)
		if err != nil {
			return v1.Descriptor{}, docker, err
		}
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest) // the same, without compression
		docker.Layers = append(docker.Layers, blobPath(d.Digest))
	}
	var err error
	if manifest.Config, err = a.object(v1.MediaTypeImageConfig, config); err != nil {
		return v1.Descriptor{}, docker, err
	}
	docker.Config = blobPath(manifest.Config.Digest)
	d, err := a.object(v1.MediaTypeImageManifest, manifest)
	d.Annotations = map[string]string{containerdName: i.Name}
	return d, docker, err
}

// layer writes one layer: once to nowhere, for its digest stands before it in
// the archive, and once in its place.
func (a *archive) layer(l Layer) (v1.Descriptor, error) {
	sum, size := sha256.New(), counter(0)
	if err := l(io.MultiWriter(sum, &size)); err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{
		MediaType: v1.MediaTypeImageLayer,
		Digest:    digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(sum.Sum(nil))),
		Size:      int64(size),
	}
	if a.have[d.Digest] {
		return d, nil
	}
	a.have[d.Digest] = true
	if err := a.header(blobPath(d.Digest), d.Size); err != nil {
		return d, err
	}
	again := sha256.New()
	if err := l(io.MultiWriter(a.tar, again)); err != nil {
		return d, err
	}
	if !bytes.Equal(sum.Sum(nil), again.Sum(nil)) {
		return d, fmt.Errorf("the files of a layer changed while it was written")
	}
	return d, nil
}

// object writes a blob of JSON.
func (a *archive) object(mediaType string, value any) (v1.Descriptor, error) {
	b, err := json.Marshal(value)
	if err != nil {
		return v1.Descriptor{}, err
	}
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if a.have[d.Digest] {
		return d, nil
	}
	a.have[d.Digest] = true
	return d, a.entry(blobPath(d.Digest), d.Size, bytes.NewReader(b))
}

func (a *archive) entry(name string, size int64, content io.Reader) error {
	if err := a.header(name, size); err != nil {
		return err
	}
	_, err := io.Copy(a.tar, content)
	return err
}

func (a *archive) header(name string, size int64) error {
	return a.tar.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: size, Format: tar.FormatPAX})
}

func blobPath(d digest.Digest) string {
	return v1.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}
