// Package agentimage makes the agent's container image.
package agentimage

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/overlab/overlab/internal/ociimage"
)

// Name is the image's name, as deploy/overlab.yaml has it.
const Name = "ghcr.io/overlab/overlabd:latest"

// Options are what the image is made of.
type Options struct {
	// Name is the whole reference; empty is Name.
	Name string
	// Agent and Plugin are the files of overlabd and overlab-cni.
	Agent, Plugin string
}

// Write writes the image as an archive (see ociimage.Write).
func Write(w io.Writer, o Options) error {
	if o.Name == "" {
		o.Name = Name
	}
	programs := []struct{ name, file string }{{"overlabd", o.Agent}, {"overlab-cni", o.Plugin}}
	var files []ociimage.File
	for _, p := range programs {
		if p.file == "" {
			return fmt.Errorf("%s is neither beside overlab nor in PATH: run `make build`, or `go install github.com/overlab/overlab/cmd/...`", p.name)
		}
		if err := static(p.file); err != nil {
			return err
		}
		files = append(files, ociimage.File{Path: "/" + p.name, Mode: 0o755, Source: p.file})
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
func WriteFile(file string, o Options) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".overlab-*")
	if err != nil {
		return fmt.Errorf("write the agent's image: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(Write(f, o), f.Chmod(0o644), f.Close()); err != nil {
		return fmt.Errorf("write the agent's image: %w", err)
	}
	return os.Rename(f.Name(), file)
}

// static refuses a program that needs what the image has not.
func static(file string) error {
	f, err := elf.Open(file)
	if err != nil {
		return fmt.Errorf("read the program %s: %w", file, err)
	}
	defer f.Close()
	if f.Section(".interp") != nil {
		return fmt.Errorf("%s is linked dynamically, and an image of it alone would not run: build it with CGO_ENABLED=0", file)
	}
	return nil
}
