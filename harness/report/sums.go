package report

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sumsFile holds a SHA-256 of each other file, as sha256sum(1) writes and
// checks them.
const sumsFile = "SHA256SUMS"

// Damage says which files of an evidence folder are not those that were
// written, one line a file. It is against accidents and careless edits: who
// alters a file can alter its sum as well, and then the verdicts that follow
// from it are what tells.
func Damage(dir string) ([]string, error) {
	var out []string
	err := readFile(filepath.Join(dir, sumsFile), func(in io.Reader) error {
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			sum, name, ok := strings.Cut(lines.Text(), "  ")
			if !ok || !filepath.IsLocal(name) {
				return fmt.Errorf("no sum of a file: %.80q", lines.Text())
			}
			have, err := sumOf(filepath.Join(dir, name))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				out = append(out, name+" is not there")
			case err != nil:
				return err
			case have != sum:
				out = append(out, name+" is not as it was written")
			}
		}
		return lines.Err()
	})
	if errors.Is(err, fs.ErrNotExist) {
		return []string{sumsFile + " is not there: nothing tells whether the files are as they were written"}, nil
	}
	if err != nil {
		return out, fmt.Errorf("check the sums of %s: %w", dir, err)
	}
	return out, nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close() // it is only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// sums writes those of the files that were written so far.
func (e *evidence) sums() {
	written := e.paths
	e.put(sumsFile, func(w io.Writer) error {
		for _, path := range written {
			sum, err := sumOf(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(e.dir, path)
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s  %s\n", sum, filepath.ToSlash(name)); err != nil {
				return err
			}
		}
		return nil
	})
}
