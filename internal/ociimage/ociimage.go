// Package ociimage writes container images from nothing but their files: no
// registry, no base image, no build tool.
package ociimage

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A File is one file of an image: a regular file, or a link where Target is
// set.
type File struct {
	// Path is absolute. The folders above it are made, mode 0755.
	Path string
	// Mode is the permission bits.
	Mode int64
	Data []byte
	// Target makes the file a symbolic link.
	Target string
}

// An Image is a layer of files and what to run of them.
type Image struct {
	// Name is the whole reference, such as overlab.local/pod:latest.
	Name string
	// Architecture is Go's name for the machine's, as images have it.
	Architecture string
	Files        []File
	Config       ocispec.ImageConfig
}

// Write writes the image as a tar archive that is both an OCI image layout
// (image-spec 1.1, image-layout.md) and what `docker load` reads. The same
// image gives the same bytes. The digest is that of its manifest.
func (i Image) Write(w io.Writer) (digest.Digest, error) {
	layer, err := i.layer()
	if err != nil {
		return "", fmt.Errorf("make the layer of image %s: %w", i.Name, err)
	}
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: i.Architecture, OS: "linux"},
		Config:   i.Config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return "", fmt.Errorf("write the configuration of image %s: %w", i.Name, err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    descriptor(ocispec.MediaTypeImageConfig, config),
		Layers:    []ocispec.Descriptor{descriptor(ocispec.MediaTypeImageLayer, layer)},
	})
	if err != nil {
		return "", fmt.Errorf("write the manifest of image %s: %w", i.Name, err)
	}
	index, err := i.index(manifest)
	if err != nil {
		return "", err
	}
	docker, err := json.Marshal([]map[string]any{{
		"Config": blobPath(config), "RepoTags": []string{i.Name}, "Layers": []string{blobPath(layer)},
	}})
	if err != nil {
		return "", fmt.Errorf("write the manifest of image %s: %w", i.Name, err)
	}
	archive := tar.NewWriter(w)
	for _, f := range []File{
		{Path: ocispec.ImageLayoutFile, Data: []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)},
		{Path: ocispec.ImageIndexFile, Data: index},
		{Path: "manifest.json", Data: docker},
		{Path: blobPath(manifest), Data: manifest},
		{Path: blobPath(config), Data: config},
		{Path: blobPath(layer), Data: layer},
	} {
		f.Mode = 0o644
		if err := f.write(archive); err != nil {
			return "", fmt.Errorf("write image %s: %w", i.Name, err)
		}
	}
	if err := archive.Close(); err != nil {
		return "", fmt.Errorf("write image %s: %w", i.Name, err)
	}
	return digest.FromBytes(manifest), nil
}

// index leads to the one manifest. Its first annotation is the one that
// containerd reads an image's name from, the second image-spec's tag.
func (i Image) index(manifest []byte) ([]byte, error) {
	d := descriptor(ocispec.MediaTypeImageManifest, manifest)
	d.Platform = &ocispec.Platform{Architecture: i.Architecture, OS: "linux"}
	d.Annotations = map[string]string{
		"io.containerd.image.name": i.Name,
		ocispec.AnnotationRefName:  i.Name[strings.LastIndexByte(i.Name, ':')+1:],
	}
	b, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{d},
	})
	if err != nil {
		return nil, fmt.Errorf("write the index of image %s: %w", i.Name, err)
	}
	return b, nil
}

// layer is the tar archive of the files, in the order of their paths.
func (i Image) layer() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	files := slices.Clone(i.Files)
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	made := map[string]bool{}
	for _, f := range files {
		f.Path = strings.TrimPrefix(path.Clean(f.Path), "/")
		if err := makeFolders(w, path.Dir(f.Path), made); err != nil {
			return nil, err
		}
		if err := f.write(w); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// makeFolders writes a folder and those above it, each once.
func makeFolders(w *tar.Writer, dir string, made map[string]bool) error {
	if dir == "." || made[dir] {
		return nil
	}
	if err := makeFolders(w, path.Dir(dir), made); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
}

// write writes a file that belongs to root and has no age: an image depends on
// what is in it alone.
func (f File) write(w *tar.Writer) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.Path, Mode: f.Mode, Size: int64(len(f.Data)), ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
	if f.Target != "" {
		h.Typeflag, h.Linkname, h.Size, h.Mode = tar.TypeSymlink, f.Target, 0, 0o777
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write(f.Data)
	return err
}

func descriptor(mediaType string, blob []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
}

func blobPath(blob []byte) string {
	return path.Join(ocispec.ImageBlobsDir, "sha256", digest.FromBytes(blob).Encoded())
}
