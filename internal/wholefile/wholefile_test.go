package wholefile

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	write := func(text string, fault error) error {
		return Write(path, 0o400, func(f *os.File) error {
			_, err := f.WriteString(text)
			return errors.Join(err, fault)
		})
	}
	if err := write("one", nil); err != nil {
		t.Fatal(err)
	}
	if err := write("two", nil); err != nil { // over a file that nobody may write
		t.Fatal(err)
	}
	fault := errors.New("no more")
	if err := write("three", fault); !errors.Is(err, fault) {
		t.Errorf("a content that fails: %v", err)
	}
	text, err := os.ReadFile(path)
	if err != nil || string(text) != "two" {
		t.Errorf("%q, %v", text, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o400 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if err := WriteBytes(path, 0o400, []byte("bytes")); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(path); err != nil || string(text) != "bytes" {
		t.Errorf("%q, %v", text, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the file: %v, %v", left, err)
	}
	if err := Write(filepath.Join(dir, "none", "file"), 0o600, func(*os.File) error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}
