package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Record is a fault that is in a lab.
type Record struct {
	ID string `json:"id"`
	// Title says what is wrong, with the names of this lab.
	Title string    `json:"title"`
	Node  string    `json:"node"`
	Peer  string    `json:"peer"`
	Since time.Time `json:"since"`
	Steps []Step    `json:"steps"`
	// Done is how many of the steps were taken; fewer than there are if the
	// injection did not end.
	Done int `json:"done"`
}

// Journal is the file that remembers what faults are in a lab, oldest first,
// and what undoes them. It lies in the lab's state folder and ends with the
// lab.
type Journal struct{ path string }

// NewJournal names the file, which need not be there.
func NewJournal(path string) Journal { return Journal{path} }

// Records reads what is in the lab.
func (j Journal) Records() ([]Record, error) {
	f, err := os.Open(j.path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what faults are in: %w", err)
	}
	defer f.Close()
	return read(f)
}

func read(f *os.File) ([]Record, error) {
	b, err := io.ReadAll(f)
	if err != nil || len(b) == 0 {
		return nil, err
	}
	var all []Record
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("read what faults are in, %s: %w", f.Name(), err)
	}
	return all, nil
}

// change lets fn change the records, one process at a time. save may be called
// often; what was saved last is kept, whatever fn returns.
func (j Journal) change(fn func(all []Record, save func([]Record) error) error) error {
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open the record of faults: %w", err)
	}
	defer f.Close() // every save was written
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock the record of faults: %w", err)
	}
	all, err := read(f)
	if err != nil {
		return err
	}
	return fn(all, func(all []Record) error {
		b, err := json.MarshalIndent(all, "", "  ")
		if err == nil {
			_, err = f.WriteAt(b, 0)
		}
		if err == nil {
			err = f.Truncate(int64(len(b)))
		}
		if err != nil {
			return fmt.Errorf("write the record of faults: %w", err)
		}
		return nil
	})
}
