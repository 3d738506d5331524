// Package agentimage makes the agent's container image.
package agentimage

import (
	"fmt"
	"io"
	"os"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/overlab/overlab/internal/ociimage"
	"github.com/overlab/overlab/internal/podimage"
	"github.com/overlab/overlab/internal/wholefile"
)

// Name is the image's name, as deploy/overlab.yaml has it.
const Name = "ghcr.io/overlab/overlabd:latest"

// Options are what the image is made of.
type Options struct {
	// Name is the whole reference; empty is Name.
	Name string
	// Agent and Plugin are the files of overlabd and overlab-cni.
	Agent, Plugin string
	// Probe is the file of overlab, by which an existing cluster is looked at;
	// empty leaves it out.
	Probe string
}

// Write writes the image as an archive (see ociimage.Write).
func Write(w io.Writer, o Options) error {
	if o.Name == "" {
		o.Name = Name
	}
	programs := []struct{ name, file string }{{"overlabd", o.Agent}, {"overlab-cni", o.Plugin}}
	if o.Probe != "" {
		programs = append(programs, struct{ name, file string }{"overlab", o.Probe})
	}
	var files []ociimage.File
	for _, p := range programs {
		if p.file == "" {
			return fmt.Errorf("%s is neither beside overlab nor in PATH: run `make build`, or `go install github.com/overlab/overlab/cmd/...`", p.name)
		}
		static, err := ociimage.Static(p.file)
		if err != nil {
			return err
		}
		if !static {
			return fmt.Errorf("%s is linked dynamically, and an image of it alone would not run: build it with CGO_ENABLED=0", p.file)
		}
		files = append(files, ociimage.File{Path: "/" + p.name, Mode: 0o755, Source: p.file})
	}
	if o.Probe != "" {
		// The same program is what little of a shell's tools there is.
		for _, tool := range podimage.Tools {
			files = append(files, ociimage.File{Path: "/" + tool, Link: "/overlab"})
		}
	}
	return ociimage.Write(w, ociimage.Image{
		Name:   o.Name,
		Layers: []ociimage.Layer{ociimage.Files(files...)},
		Config: v1.ImageConfig{
			Entrypoint: []string{"/overlabd"},
			Env:        []string{"PATH=/"},
			Labels:     map[string]string{v1.AnnotationSource: "https://github.com/overlab/overlab"},
		},
	})
}

// WriteFile writes the archive to a file, whole or not at all.
func WriteFile(file string, o Options) error {
	if err := wholefile.Write(file, 0o644, func(f *os.File) error { return Write(f, o) }); err != nil {
		return fmt.Errorf("write the agent's image: %w", err)
	}
	return nil
}
