// Package wholefile writes files whole or not at all.
package wholefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write makes a file of this mode with what content writes, and puts it in the
// place of any other at path in one step: whoever reads there finds the old file
// or the new one. The folder must exist. Until then the content lies beside it,
// under a name that begins with a dot; after an error nothing of it is left.
func Write(path string, mode os.FileMode, content func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".overlab-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(content(f), f.Chmod(mode), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// WriteBytes is Write of a content that is at hand.
func WriteBytes(path string, mode os.FileMode, content []byte) error {
	return Write(path, mode, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}
