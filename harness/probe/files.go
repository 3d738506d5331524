package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Files reads the regular files of a folder and those below it, as the
// namespace sees them: each path and what the file holds, up to 1 MiB. A folder
// that is not there has none.
func (s *Session) Files(ctx context.Context, folder string) (map[string]string, error) {
	return ask(ctx, s, kindFiles, folder, func() (map[string]string, error) { return s.files(ctx, folder) })
}

func (s *Session) files(ctx context.Context, folder string) (map[string]string, error) {
	out := map[string]string{}
	err := s.local.Do(func() error {
		return filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			switch {
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case errors.Is(err, fs.ErrNotExist):
				return nil
			case err != nil || !e.Type().IsRegular():
				return err
			}
			f, err := os.Open(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil // gone since it was listed
			}
			if err != nil {
				return err
			}
			b, err := io.ReadAll(io.LimitReader(f, maxFile))
			out[path] = string(b)
			return errors.Join(err, f.Close())
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read the files under %s in %s: %w", folder, s.name, err)
	}
	return out, nil
}

// file is what WriteFile writes.
type file struct {
	Path string `json:"path"`
	Data []byte `json:"data"`
}

// WriteFile writes a small file as the namespace sees it, and makes its folder.
// The file takes the place of the one that was there in one step.
func (s *Session) WriteFile(ctx context.Context, path string, data []byte) error {
	return tell(ctx, s, kindWriteFile, file{path, data}, func() error { return s.writeFile(ctx, path, data) })
}

func (s *Session) writeFile(ctx context.Context, path string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := s.local.Do(func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		temporary := path + ".overlab"
		if err := os.WriteFile(temporary, data, 0o644); err != nil {
			return err
		}
		return os.Rename(temporary, path)
	})
	if err != nil {
		return fmt.Errorf("write file in %s: %w", s.name, err)
	}
	return nil
}

// RemoveAll removes a file or folder; that there is none is no error.
func (s *Session) RemoveAll(ctx context.Context, path string) error {
	return tell(ctx, s, kindRemoveAll, path, func() error { return s.removeAll(ctx, path) })
}

func (s *Session) removeAll(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.local.Do(func() error { return os.RemoveAll(path) }); err != nil {
		return fmt.Errorf("remove in %s: %w", s.name, err)
	}
	return nil
}
