package ociimage

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// File is one file of a layer. It has the content of Source, a file of this
// machine, or Content; or it is a symbolic link to Link. Root owns it.
type File struct {
	// Path is where it lies, absolute.
	Path string
	// Mode are its permissions.
	Mode int64

	Source  string
	Content []byte
	Link    string
}

// Files is a layer of files, and of the folders that they lie in.
func Files(files ...File) Layer {
	return func(w io.Writer) error {
		t := tar.NewWriter(w)
		folders := map[string]bool{".": true, "": true}
		for _, f := range files {
			name := strings.TrimPrefix(path.Clean(f.Path), "/")
			err := makeFolders(t, folders, path.Dir(name))
			if err == nil {
				err = f.write(t, name)
			}
			if err != nil {
				return fmt.Errorf("write %s of a layer: %w", f.Path, err)
			}
		}
		return t.Close()
	}
}

// makeFolders writes a folder and those above it, unless they are there.
func makeFolders(t *tar.Writer, have map[string]bool, dir string) error {
	if have[dir] {
		return nil
	}
	if err := makeFolders(t, have, path.Dir(dir)); err != nil {
		return err
	}
	have[dir] = true
	return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, Format: tar.FormatPAX})
}

func (f *File) write(t *tar.Writer, name string) error {
	h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: f.Mode, Size: int64(len(f.Content)), Format: tar.FormatPAX}
	if f.Link != "" {
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		return t.WriteHeader(&h)
	}
	content := io.Reader(bytes.NewReader(f.Content))
	if f.Source != "" {
		source, err := os.Open(f.Source)
		if err != nil {
			return err
		}
		defer source.Close()
		st, err := source.Stat()
		if err != nil {
			return err
		}
		h.Size, content = st.Size(), source
	}
	if err := t.WriteHeader(&h); err != nil {
		return err
	}
	_, err := io.Copy(t, content)
	return err
}

// Archive is a layer whose tar archive is a file of this machine.
func Archive(file string) Layer {
	return func(w io.Writer) error {
		f, err := os.Open(file)
		if err != nil {
			return fmt.Errorf("read a layer: %w", err)
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}
